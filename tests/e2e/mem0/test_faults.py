"""mem0's clients where a database is away, where there are several hosts, and whatever is sent."""

import contextlib
import os
import signal
import time
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memfast.mem0.surface import CALLS

TEXT = "I am allergic to peanuts."


def test_reads_go_on_without_the_database(serve_module, connect, mem0, poll):
    """What is in memory is found and listed, marked as such; a write and a look-up by id say that they cannot be done."""
    service = serve_module(read_timeout_s=5, write_timeout_s=5).wait_until_ready()
    mine = {"user_id": "ada"}
    with connect(service) as client:
        added = client.add(TEXT, **mine)["results"][0]["id"]
        poll(lambda: _tier(service) == "warm")
        listed = client.get_all(filters=mine)
        stopped = service.servers()
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            with pytest.raises(mem0.exceptions.NetworkError):
                client.get(added)
            poll(lambda: "memfast-mode" in service.client.get("/v1/health/live").headers, 20)
            answer = service.client.post("/mem0/search", json={"query": "what else?", "filters": mine})
            assert [each["id"] for each in answer.json()["results"]] == [added]
            assert answer.headers["memfast-mode"] == "cache_only"
            assert client.get_all(filters=mine) == listed
            for call in (lambda: client.delete(added), lambda: client.add(TEXT, **mine)):
                with pytest.raises(mem0.exceptions.NetworkError):
                    call()
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        poll(service.ready)
        poll(lambda: _stored(client, mem0), 20)


def _tier(service):
    """What answers a question that nobody has asked before."""
    answer = service.client.post("/v1/search", json={"user_id": "ada", "query": f"{time.monotonic_ns()}"})
    return answer.headers["memfast-tier"]


def _stored(client, mem0):
    with contextlib.suppress(mem0.exceptions.NetworkError):
        return client.add("again", user_id="ada")
    return None


@pytest.fixture
def hosts(serve_module, server):
    """Two services over one database."""
    dsn = server.new_database()
    first = serve_module(postgres_dsn=dsn, coherence_mode="cluster").wait_until_ready()
    return first, serve_module(postgres_dsn=dsn, coherence_mode="cluster").wait_until_ready()


def test_two_hosts_show_the_newest_state(hosts, connect, mem0):
    """A client of one host sees at once what a client of the other has stored, changed and deleted."""
    mine = {"user_id": "ada"}
    with connect(hosts[0]) as one, connect(hosts[1]) as other:
        for number in range(20):
            writer, reader = (one, other) if number % 2 else (other, one)
            added = writer.add(f"peanut {number}", **mine)["results"][0]["id"]
            assert reader.get_all(filters=mine)["count"] == 1
            assert [each["id"] for each in reader.search("peanut", filters=mine)["results"]] == [added]
            assert reader.get(added)["memory"] == f"peanut {number}"
            writer.update(added, text=f"cashew {number}")
            assert reader.get(added)["memory"] == f"cashew {number}"
            assert reader.search("nuts", filters=mine)["results"][0]["memory"] == f"cashew {number}"
            reader.delete(added)
            assert writer.get_all(filters=mine)["count"] == 0
            assert writer.search("nuts", filters=mine)["results"] == []
            with pytest.raises(mem0.exceptions.MemoryNotFoundError):
                writer.get(added)


NAMES = [
    *("messages", "filters", "user_id", "agent_id", "app_id", "run_id", "metadata", "infer", "timestamp", "query"),
    *("expiration_date", "categories", "top_k", "threshold", "fields", "page", "page_size", "start_date", "memories"),
    *("memory_id", "text", "feedback", "content", "role", "AND", "OR", "NOT", "created_at", "in", "gte", "*", "mem0"),
]
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
        st.sampled_from(
            [*NAMES, "2026-01-01", "9999-12-31", "0001-01-01", "0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e01", "\x00"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=4)), inner, max_size=4),
    ),
    max_leaves=12,
)
BODIES = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {"messages": st.just([{"content": "x"}]), "user_id": st.text(max_size=9)},
        optional={"timestamp": VALUES, "metadata": VALUES, "expiration_date": VALUES},
    ),
    st.fixed_dictionaries(
        {"query": st.text(max_size=9), "filters": VALUES}, optional={"user_id": st.just("u"), "top_k": VALUES}
    ),
    st.fixed_dictionaries(
        {"filters": st.fixed_dictionaries({"user_id": st.just("u"), "AND": st.lists(VALUES, max_size=3)})}
    ),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(call=st.sampled_from(CALLS), name=st.text(min_size=1, max_size=9), body=BODIES, query=st.text(max_size=9))
def test_whatever_is_sent_has_an_answer(service, call, name, body, query):
    """No body, path or parameter is an error of the service, and every refusal is what the client can read."""
    parts = [quote(name, safe="") if each.startswith("{") else each for each in call.path.split("/")]
    asked = {query: "x"} if query else {}
    sent = {"json": body} if call.method != "GET" else {}
    answer = service.client.request(call.method, f"/mem0/{'/'.join(parts)}/", params=asked, **sent)
    assert answer.status_code != 500, answer.text
    assert answer.headers["content-type"] == "application/json"
    if answer.status_code >= 400:
        assert answer.json()["detail"]
