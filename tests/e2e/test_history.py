"""The past of memories in a service of two workers: what one does, both show, and what time takes away is gone in both."""

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import httpx
import pytest

WAIT_S = 30.0


class Side:
    """One worker, by a connection that it has taken."""

    def __init__(self, client, pid):
        self.client = client
        self.pid = pid

    def call(self, method, path="", *, user_id="ada", **parameters):
        """A request about memories."""
        return self.client.request(method, f"/v1/memories{path}", params={"user_id": user_id} | parameters)

    def search(self, query, user_id="ada"):
        """The texts of the hits."""
        answer = self.client.post("/v1/search", json={"user_id": user_id, "query": query})
        return [hit["text"] for hit in answer.json()["results"]]

    def events(self, memory_id):
        """What happened to a memory."""
        found = self.call("GET", f"/{memory_id}/history").json()
        return [each["event"] for each in found.get("events", [])]


@pytest.fixture
def sides(serve, data_dir):
    """Function: a service with these settings, and its two workers."""
    with ExitStack() as stack:

        def started(**settings):
            service = serve(data_dir(), workers=2, **settings).wait_until_ready()
            found = {}
            deadline = time.monotonic() + WAIT_S
            while len(found) < 2:
                assert time.monotonic() < deadline, "one worker takes every connection"
                client = stack.enter_context(
                    httpx.Client(base_url=service.url, timeout=20, trust_env=False, verify=False)
                )
                pid = client.get("/v1/health").json()["pid"]
                found.setdefault(pid, Side(client, pid))
            return service, *found.values()

        yield started


def remember(side, text):
    """Create a memory; gives its id."""
    answer = side.client.post("/v1/memories", json={"user_id": "ada", "text": text})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def test_what_one_worker_brings_back_or_purges_both_show(sides):
    """Deleted by one, brought back by the other, purged by the first; each step is seen by both at once."""
    service, one, other = sides()
    kept, target = remember(one, "kept"), remember(other, "here and gone")
    for side in (one, other, one, other):  # both hold answers and the user's memories
        assert set(side.search("here and gone")) == {"kept", "here and gone"}
    assert one.call("DELETE", f"/{target}").status_code == 204
    for side in (one, other):
        assert side.search("here and gone") == ["kept"]
        assert side.call("GET", f"/{target}").status_code == 404
    assert other.call("POST", f"/{target}/undelete").status_code == 200
    for side in (one, other):
        assert set(side.search("here and gone")) == {"kept", "here and gone"}
        assert side.call("GET", f"/{target}").json()["version"] == 4
        assert side.events(target) == ["created", "deleted", "undeleted"]
    assert one.call("DELETE", f"/{target}", purge="true").status_code == 204
    for side in (other, one):
        assert side.search("here and gone") == ["kept"]
        assert side.call("POST", f"/{target}/undelete").status_code == 404
        assert side.events(target) == ["deleted"]
        assert side.call("GET", f"/{kept}").status_code == 200
    assert service.stop() == 0


def test_what_expires_is_removed_and_gone_in_both(sides, poll):
    """At its moment no worker shows it; a little later one of them has removed it, and history has its text."""
    service, one, other = sides(history_expiry_interval_s=0.2)
    target, kept = remember(one, "soon over"), remember(other, "kept")
    for side in (one, other, one, other):
        assert set(side.search("soon over")) == {"soon over", "kept"}
    end = datetime.now(UTC) + timedelta(seconds=0.5)
    changes = {"expires_at": end.isoformat()}
    assert one.client.patch(f"/v1/memories/{target}", params={"user_id": "ada"}, json=changes).status_code == 200
    poll(lambda: datetime.now(UTC) >= end)
    for side in (one, other):
        assert side.search("soon over") == ["kept"]
        assert side.call("GET", f"/{target}").status_code == 404
    poll(lambda: one.events(target) == ["created", "updated", "deleted"])
    for side in (one, other):
        assert side.client.get("/v1/users/ada").json()["memories"] == 1  # whoever swept, and were it both
        assert side.search("soon over") == ["kept"]
        assert side.events(target) == ["created", "updated", "deleted"]
        assert side.call("POST", f"/{target}/undelete").status_code == 404
        assert side.call("GET", f"/{kept}").status_code == 200
    assert service.stop() == 0


def test_what_history_keeps_no_longer_is_erased(sides, poll):
    """A retention of a second: after it neither worker knows the memory, and its tombstone is gone too."""
    service, one, other = sides(history_retention_days=1 / 86_400, history_erase_interval_s=0.2)
    target = remember(one, "short memory")
    assert one.call("DELETE", f"/{target}").status_code == 204
    assert other.events(target) in (["created", "deleted"], [])
    poll(lambda: one.call("DELETE", f"/{target}").status_code == 404)
    for side in (one, other):
        assert side.events(target) == []
        assert side.call("POST", f"/{target}/undelete").status_code == 404
    background = [side.client.get("/v1/background").json() for side in (one, other)]
    assert {answer["pid"] for answer in background} == {one.pid, other.pid}
    assert sum(answer["background"]["done"] for answer in background) >= 1
    assert all(answer["background"]["dead"] == 0 for answer in background)
    assert service.stop() == 0
