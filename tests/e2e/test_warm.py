"""`memfast warm` beside real services, and a service that is short of memory."""

import psutil

from memfast.config import PROFILES

MIB = 1024 * 1024


def snapshots(data_dir):
    """The files of saved users, with the time of their last change."""
    return {path.name: path.stat().st_mtime_ns for path in (data_dir / "snapshots").glob("*.shard")}


def tier(service, query, user_id="ada"):
    """Which tier answers a search."""
    answer = service.client.post("/v1/search", json={"user_id": user_id, "query": query})
    assert answer.status_code == 200, answer.text
    return answer.headers["memfast-tier"]


def test_warming_a_running_service(serve, data_dir, command):
    """A named user is saved, loaded into the service, and there again after a restart."""
    service = serve(data_dir()).wait_until_ready()
    service.remember("I am allergic to peanuts.")
    service.remember("Bob likes tea.", user_id="bob")
    shown, _ = command("warm", "--dry-run", "--all", data_dir=service.data_dir, port=service.port, expect=0)
    assert "ada" in shown
    assert "bob" in shown
    assert snapshots(service.data_dir) == {}
    _, told = command("warm", "ada", data_dir=service.data_dir, port=service.port, expect=0)
    assert "1/1 users, 1 memories" in told
    assert "holds 1 users with 1 memories" in told
    assert len(snapshots(service.data_dir)) == 1
    assert [tier(service, "what not to eat", user) for user in ("ada", "bob")] == ["warm", "cold"]
    assert service.stop() == 0


def test_a_second_run_goes_on_where_the_first_stopped(serve, data_dir, command):
    """Users that are saved at their present version are not saved again; a changed one is."""
    service = serve(data_dir()).wait_until_ready()
    for user in ("ada", "bob"):
        service.remember("something", user_id=user)
    arguments = {"data_dir": service.data_dir, "port": service.port, "expect": 0}
    command("warm", "ada", "bob", **arguments)
    first = snapshots(service.data_dir)
    service.remember("something else", user_id="bob")
    command("warm", "ada", "bob", **arguments)
    second = snapshots(service.data_dir)
    assert first.keys() == second.keys()
    assert sorted(first[name] == second[name] for name in first) == [False, True]


def test_warming_without_a_service(serve, data_dir, command):
    """Alone, the command saves what the next start loads, and says so."""
    service = serve(data_dir()).wait_until_ready()
    service.remember("I am allergic to peanuts.")
    assert service.stop() == 0
    _, told = command("warm", "--all", data_dir=service.data_dir, port=service.port, expect=0)
    assert "no service runs there" in told
    assert len(snapshots(service.data_dir)) == 1


def test_a_budget_stops_the_saving(serve, data_dir, command):
    """Saving ends before the user that would go over the budget."""
    service = serve(data_dir()).wait_until_ready()
    for user in ("ada", "bob", "eve"):
        items = [{"text": f"{user} {n} " + "x" * 2000} for n in range(400)]
        service.client.post("/v1/memories/batch", json={"user_id": user, "memories": items})
    _, told = command("warm", "--all", "--budget-mb", "2", data_dir=service.data_dir, port=service.port, expect=0)
    assert "over the budget" in told
    assert len(snapshots(service.data_dir)) < 3


def test_memory_stays_within_its_budget(serve, data_dir):
    """Answers of more than the budget are asked for: the workers' memory stays below it, and every answer comes."""
    budget_mb = 192
    assert PROFILES["memory-constrained"]["memory.budget_mb"] > budget_mb
    service = serve(data_dir(), memory_budget_mb=budget_mb, memory_watch_interval_s=0.05, workers=1).wait_until_ready()
    items = [{"text": f"{n} " + "lorem ipsum " * 1500} for n in range(200)]
    for start in range(0, 200, 50):
        service.client.post("/v1/memories/batch", json={"user_id": "ada", "memories": items[start : start + 50]})
    for number in range(120):
        answer = service.client.post("/v1/search", json={"user_id": "ada", "query": f"question {number}", "limit": 100})
        assert len(answer.json()["results"]) == 100
    pressure = service.client.get("/v1/cache").json()["pressure"]
    assert pressure["emergencies"] + pressure["clean_ups"] > 0
    (worker,) = service.workers()
    assert psutil.Process(worker).memory_full_info().pss < budget_mb * MIB
