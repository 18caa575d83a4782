"""Real services that are set up badly: each fault is named with its figures, and what is safe is put right while they serve."""

import asyncio
import json
import random
from contextlib import asynccontextmanager

import asyncpg
import pytest

from memfast.store.embedded import Cluster

ENTRIES, QUESTIONS = 40, 60
SLOW_WRITES = 12
SLEEPS = """
CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.15); RETURN NEW; END $$;
CREATE TRIGGER sleeps BEFORE INSERT ON memories FOR EACH ROW EXECUTE FUNCTION sleep();
"""
LISTING = """EXPLAIN SELECT id FROM memories WHERE scope_id = (SELECT scope_id FROM scopes WHERE user_id = 'bob')
AND deleted_at IS NULL ORDER BY created_at, id LIMIT 20"""


def database(service, work):
    """Do something with a connection to the service's database."""

    @asynccontextmanager
    async def connected():
        connection = await asyncpg.connect(**Cluster(service.data_dir).running().connect_arguments())
        try:
            yield connection
        finally:
            await connection.close()

    async def run():
        async with connected() as connection:
            return await work(connection)

    return asyncio.run(run())


def plan_of_a_listing(service):
    """How PostgreSQL would find a page of a user who has many memories."""

    async def explain(connection):
        return "\n".join(row[0] for row in await connection.fetch(LISTING))

    return database(service, explain)


def search_at_random(service, seed, count=600):
    """Ask questions of which all fit into no small cache; gives the share that was answered hot."""
    draw = random.Random(seed)
    tiers = []
    for _ in range(count):
        body = {"user_id": "ada", "query": f"kitchen {draw.randrange(QUESTIONS)}"}
        response = service.client.post("/v1/search", json=body)
        assert response.status_code == 200
        tiers.append(response.headers["Memfast-Tier"])
    return tiers.count("hot") / count


def stats_of(service):
    """What the service counted in the last hour, and what it uses."""
    stats = service.client.get("/v1/stats").json()
    return stats, stats["windows"][2]


@pytest.fixture
def advised(command):
    """Function: what the command says of a service, and the exit code that is expected of it."""

    def run(service, *words, expect):
        words = ("advise", "--json", "--url", service.url, *words)
        told, _ = command(*words, expect=expect, data_dir=service.data_dir)
        answer = json.loads(told)
        return {each["rule"]: each for each in answer["advice"]}, answer["not_judged"]

    return run


def figures(advice):
    """The evidence, by what it is; each says where it was read."""
    assert all(each["source"] for each in advice["evidence"])
    return {each["what"]: each["value"] for each in advice["evidence"]}


def plant(service):
    """Traffic on a service with a small cache and too many connections, a lost index, and writes that PostgreSQL delays."""
    for number in range(3):
        batch = [{"text": f"note {number * 1000 + each}"} for each in range(1000)]
        answer = service.client.post("/v1/memories/batch", json={"user_id": "bob", "memories": batch})
        assert answer.status_code == 200, answer.text
    service.remember("the kitchen is blue")
    hot = search_at_random(service, 1)

    async def harm(connection):
        await connection.execute("DROP INDEX memories_by_time")
        await connection.execute("ANALYZE memories")
        await connection.execute(SLEEPS)

    database(service, harm)
    for number in range(SLOW_WRITES):
        assert service.remember(f"a slow note {number}", "carl").status_code == 201
    for _ in range(100):
        service.client.delete("/v1/memories/0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e01", params={"user_id": "carl"})
    return hot


def counted(service):
    """Whether everything that was planted stands in the statistics: parts are asked once a second."""
    stats, window = stats_of(service)
    layers = {each["layer"]: each for each in stats["caches"]}
    opened = stats["pool"]["idle"] + stats["pool"]["used"]
    lookups = window["caches"]["requests"]["hits"] + window["caches"]["requests"]["misses"]
    return (
        layers["requests"]["entries"] >= ENTRIES and lookups >= 600 and window["pool"]["taken"] >= 100 and opened >= 40
    )


def test_planted_faults_are_named_and_put_right(serve, data_dir, advised, poll):
    """A small cache, a missing index, idle connections and a delayed write, each with its figures; two are put right."""
    settings = {"cache_entries": ENTRIES, "postgres_pool_min": 40, "postgres_pool_max": 40}
    service = serve(data_dir(), log_slow_search_ms=60_000, **settings).wait_until_ready()
    before = plant(service)
    poll(lambda: counted(service))
    assert "memories_by_time" not in plan_of_a_listing(service)

    told, _ = advised(service, expect=10)
    assert {"cache-too-small", "index-missing", "pool-too-large", "operation-slow"} <= set(told)
    cache, index, pool, slow = (
        told[f"{name}"] for name in ("cache-too-small", "index-missing", "pool-too-large", "operation-slow")
    )
    assert cache["settings"] == {"cache.entries": 2 * ENTRIES}
    assert figures(cache)["held"] == f"{ENTRIES} of {ENTRIES} entries"
    assert figures(cache)["asked for again after that"] > 0
    assert (index["subject"], index["state"]) == ("memories_by_time", "live")
    assert figures(index)["made by"] == "0001_pre_memories"
    assert (pool["subject"], pool["state"]) == ("postgres.pool_min", "needs a restart")
    assert figures(pool)["open"] >= 40
    assert "MEMFAST_POSTGRES_POOL_MIN=20" in pool["detail"]
    assert slow["subject"] == "POST /v1/memories"
    assert "stage sql" in slow["finding"]
    assert figures(slow)["of these longest in sql"] >= SLOW_WRITES - 2
    assert slow["state"] == "yours to do"
    assert "memories_by_time" not in plan_of_a_listing(service), "nothing is done without --apply"

    done, _ = advised(service, "--apply", expect=10)
    assert done["cache-too-small"]["state"] == done["index-missing"]["state"] == "applied"
    assert f"MEMFAST_CACHE_ENTRIES={2 * ENTRIES}" in done["cache-too-small"]["detail"]
    assert done["pool-too-large"]["state"] == "needs a restart"
    assert "memories_by_time" in plan_of_a_listing(service)
    search_at_random(service, 2)
    after = search_at_random(service, 3)
    assert after >= 0.99 > before, "all questions have room now"
    left, _ = advised(service, expect=10)
    assert not {"cache-too-small", "index-missing"} & set(left)


def test_a_healthy_service_gets_no_advice(serve, data_dir, advised, command, poll):
    """Too little traffic is said; with enough of it, of every kind, nothing is."""
    patient = {"log_slow_ms": 60_000, "log_slow_search_ms": 60_000}  # the machine of the tests may be slow
    service = serve(data_dir(), workers=2, **patient).wait_until_ready()
    none, not_judged = advised(service, expect=11)
    assert none == {}
    assert not_judged[0]["reason"].startswith("not enough requests yet (")
    for number in range(60):
        assert service.remember(f"note {number}").status_code == 201
    for number in range(300):
        service.search(f"note {number % 40}")
        if number % 5 == 0:
            assert service.client.get("/v1/memories", params={"user_id": "ada", "limit": 5}).status_code == 200
    poll(lambda: stats_of(service)[1]["caches"]["requests"]["misses"] > 40)
    assert advised(service, expect=0) == ({}, [])
    _, error = command("advise", "--url", "http://127.0.0.1:9", expect=1)
    assert "no service answers at http://127.0.0.1:9" in error


def test_a_database_that_is_not_the_services_is_not_asked(serve, data_dir, base, command):
    """Neither where none runs, nor that of a service with another one: what it lacks is not this service's."""
    service = serve(data_dir()).wait_until_ready()
    words = ("advise", "--json", "--url", service.url)
    told, _ = command(*words, expect=11, data_dir=service.data_dir.parent / "nowhere")
    asked, traffic = json.loads(told)["not_judged"]
    assert "no database runs in" in asked["reason"]
    assert "not enough requests" in traffic["reason"]
    other = serve(base / "new").wait_until_ready()
    told, _ = command(*words, expect=11, data_dir=other.data_dir)
    assert "another one than the service's" in json.loads(told)["not_judged"][0]["reason"]
