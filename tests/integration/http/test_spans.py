"""Spans of requests, as a receiver gets them: whose child each is, what it says, and what it never does."""

import asyncio
import importlib.util
import sys
import time
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-{:016x}-01"
TRACE_ID = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")
CANARY = "wombat-7731"
ENOUGH_S = 20.0
WARMING_UP = ["memfast"]


def endpoint_module():
    """The local embeddings endpoint."""
    file = Path(__file__).resolve().parents[1] / "embedding" / "endpoint.py"
    spec = importlib.util.spec_from_file_location("embedding_endpoint_of_spans", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


peer = endpoint_module()


@pytest.fixture
async def endpoint():
    """An endpoint that works."""
    async with peer.serving() as running:
        yield running


@pytest.fixture
def traced(server, make_site, open_api, receiver):
    """Function: an application that tells the receiver, as an async context manager; keywords are settings."""

    def opened(**settings):
        settings = {"telemetry__endpoint": receiver.url, "telemetry__interval_s": 0.02} | settings
        settings |= {"index__start_users": 0, "server__write_timeout_s": 30.0}
        return open_api(make_site(server.new_database(), **settings))

    return opened


async def found(receiver, span_id):
    """The span whose parent is this one, and its children."""
    deadline = time.monotonic() + ENOUGH_S
    while True:
        spans = receiver.spans()
        own = [each for each in spans if each.parent_span_id == span_id.to_bytes(8, "big")]
        if own:
            assert len(own) == 1
            return own[0], [each for each in spans if each.parent_span_id == own[0].span_id]
        assert time.monotonic() < deadline, f"no span of {span_id} came"
        await asyncio.sleep(0.01)


def attributes(span):
    """Of a span, by name."""
    values = {each.key: each.value for each in span.attributes}
    return {
        name: [each.string_value for each in value.array_value.values]
        if value.HasField("array_value")
        else getattr(value, value.WhichOneof("value"))
        for name, value in values.items()
    }


def assert_inside(span, stages):
    """Each stage lies within its request."""
    for stage in stages:
        assert span.start_time_unix_nano <= stage.start_time_unix_nano, stage.name
        assert stage.start_time_unix_nano <= stage.end_time_unix_nano <= span.end_time_unix_nano, stage.name
        assert stage.trace_id == span.trace_id


async def test_a_search_is_a_span_with_its_stages(traced, receiver):
    """Child of the caller's, of its trace; cold, hot and warm; by its route, its tier, and the user's hash."""
    async with traced() as api:
        await api.create("ada", f"the {CANARY} is blue")
        scope = api.services.access.scope(await api.services.access.authenticate(None), "ada")
        before_ns = time.time_ns()
        for number, query in ((1, "one"), (2, "one"), (3, "two"), (4, "three"), (5, "four")):
            headers = {"traceparent": CALLER.format(number), "x-request-id": f"r-{number}"}
            answer = await api.client.post("/v1/search", json={"user_id": "ada", "query": query}, headers=headers)
            span, stages = await found(receiver, number)
            assert_inside(span, stages)
            assert before_ns <= span.start_time_unix_nano <= span.end_time_unix_nano <= time.time_ns()
            assert (span.name, span.kind, span.trace_id, span.status.code) == ("POST /v1/search", 2, TRACE_ID, 0)
            told, tier = attributes(span), answer.headers["memfast-tier"]
            known = {} if tier == "hot" else {"memfast.scope": scope.id.hex, "memfast.version": 1}
            assert told == known | {
                "http.request.method": "POST",
                "http.response.status_code": 200,
                "http.route": "/v1/search",
                "memfast.request_id": f"r-{number}",
                "memfast.tier": tier,
                "url.path": "/v1/search",
                "url.scheme": "http",
            }
            names = {stage.name for stage in stages}
            if tier == "hot":
                assert not names
            else:
                assert {"decode", "cache", "warm", "embed", "rank", "encode"} <= names
            if tier == "warm":  # one after another; a cold one reads while it embeds
                took = [each.end_time_unix_nano - each.start_time_unix_nano for each in (span, *stages)]
                assert sum(took[1:]) <= took[0]
        told = [attributes(each) for each in receiver.spans() if each.kind == 2 and each.parent_span_id]
        assert {each["memfast.tier"] for each in told} == {"cold", "hot", "warm"}


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/v1/memories", {"text": "the kitchen is blue"}, ["embed", "wait", "sql"]),
        ("/v1/search/batch", {"searches": [{"query": "one"}, {"query": "two"}]}, ["decode", "warm", "rank", "encode"]),
    ],
)
async def test_stages_stand_where_they_were(traced, receiver, path, body, names):
    """Also those that were measured beside others, and told of later: one begins when the one before it has ended."""
    async with traced() as api:
        await api.create("ada", "the garden is green")
        await api.client.post(path, json={"user_id": "ada"} | body, headers={"traceparent": CALLER.format(1)})
        span, stages = await found(receiver, 1)
    assert_inside(span, stages)
    times = {each.name: (each.start_time_unix_nano, each.end_time_unix_nano) for each in stages}
    for former, latter in pairwise(names):
        assert times[former][1] <= times[latter][0] + 1000, "but for a microsecond of rounding"


async def test_an_unsampled_trace_is_not_told_of(traced, receiver):
    """Its caller's flag says so; the next one, which is sampled, is all that comes."""
    async with traced(telemetry__sample=0.0) as api:
        unsampled = {"traceparent": CALLER.format(1)[:-2] + "00"}
        for path in ("/v1/users/ada", "/nowhere"):
            await api.client.get(path, headers=unsampled)
            await api.client.get(path)
        for _ in range(2):
            await api.client.post("/v1/search", json={"user_id": "ada", "query": "x"}, headers=unsampled)
        await api.client.get("/v1/users/ada", headers={"traceparent": CALLER.format(2)})
        await found(receiver, 2)
    assert [each.name for each in receiver.spans() if each.kind == 2] == ["GET /v1/users/{user_id}"]


async def test_a_share_of_what_nobody_traces_begins_a_trace(traced, receiver):
    """Each its own; what probes and scrapers ask for does not, unless they trace it themselves."""
    async with traced() as api:
        for path in ("/v1/health", "/v1/health/live", "/metrics", "/v1/users/ada", "/v1/users/ada"):
            await api.client.get(path)
        await api.client.get("/v1/health", headers={"traceparent": CALLER.format(1)})
        await found(receiver, 1)
    roots = [each for each in receiver.spans() if not each.parent_span_id]
    assert [each.name for each in roots] == ["GET /v1/users/{user_id}"] * 2
    assert len({each.trace_id for each in roots}) == 2


REFUSED = [
    ("POST", "/v1/search", b"{", "POST /v1/search", 400),
    ("POST", "/v1/memories", b"x" * 2000, "POST /v1/memories", 413),
    ("GET", f"/v1/memories/{CANARY}?user_id=ada", None, "GET /v1/memories/{memory_id}", 400),
    ("GET", f"/{CANARY}", None, "GET", 404),
    ("BREW", "/v1/search", None, "HTTP", 405),
    ("GET", f"/v1/users/{CANARY}", None, "GET /v1/users/{user_id}", 404),
    ("POST", "/mcp", b"{", "POST /mcp", 400),
]


async def test_a_request_is_told_of_by_its_route(traced, receiver):
    """With its status, which is no failure of the service's, and never with its path."""
    async with traced(server__body_max_bytes=1024) as api:
        transport = httpx.ASGITransport(app=api.edge)
        async with httpx.AsyncClient(transport=transport, base_url="http://memfast") as client:
            for number, (method, path, body, name, status) in enumerate(REFUSED, 1):
                headers = {"traceparent": CALLER.format(number), "x-request-id": "r-9", "host": "127.0.0.1"}
                await client.request(method, path, content=body, headers=headers)
                span, stages = await found(receiver, number)
                told = attributes(span)
                assert (span.name, told["http.response.status_code"], span.status.code) == (name, status, 0)
                assert told["memfast.request_id"] == "r-9"
                assert told["http.request.method"] == (method if method != "BREW" else "_OTHER")
                assert "error.type" not in told
                assert [each.name for each in stages] == (["sql"] if "/users/" in path else [])
    assert CANARY.encode() not in b"".join(receiver.bodies)


async def test_a_failure_is_marked_and_says_nothing(traced, receiver, monkeypatch):
    """Its status alone: the error may quote a memory."""

    async def fails(*_arguments, **_named):
        raise ValueError(CANARY)

    async with traced() as api:
        monkeypatch.setattr(type(api.services.search), "find", fails)
        transport = httpx.ASGITransport(app=api.edge)
        async with httpx.AsyncClient(transport=transport, base_url="http://memfast") as client:
            body = {"user_id": "ada", "query": CANARY}
            await client.post("/v1/search", json=body, headers={"traceparent": CALLER.format(1)})
        span, _ = await found(receiver, 1)
    assert (span.status.code, span.status.message, not span.events) == (2, "", True)
    assert (attributes(span)["http.response.status_code"], attributes(span)["error.type"]) == (500, "500")
    assert CANARY.encode() not in b"".join(receiver.bodies)


@pytest.mark.parametrize("read", [False, True], ids=["before its body", "while it is served"])
async def test_a_client_that_leaves_is_told_of(traced, receiver, monkeypatch, read):
    """The span says so, has no status, and is no failure."""
    begun = asyncio.Event()

    async def waits(*_arguments, **_named):
        begun.set()
        await asyncio.get_running_loop().create_future()

    body = b'{"user_id": "ada", "query": "x"}'
    messages = [{"type": "http.request", "body": body, "more_body": False}] if read else []
    headers = {"traceparent": CALLER.format(1), "content-length": str(len(body)), "content-type": "application/json"}

    async def receive():
        if messages:
            return messages.pop()
        if read:
            await begun.wait()
        return {"type": "http.disconnect"}

    async def send(_message):
        raise AssertionError("nobody is there")

    scope = {"type": "http", "method": "POST", "path": "/v1/search", "raw_path": b"/v1/search", "query_string": b""}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    async with traced() as api:
        monkeypatch.setattr(type(api.services.search), "find", waits)
        await api.edge(scope, receive, send)
        span, _ = await found(receiver, 1)
    told = attributes(span)
    assert (span.name, span.status.code, told["memfast.abandoned"]) == ("POST /v1/search", 0, True)
    assert "http.response.status_code" not in told


async def test_nothing_that_is_exported_quotes_a_memory(traced, receiver):
    """Neither texts nor questions, metadata, tags, users or ids, whatever is asked of memories that hold a canary."""
    async with traced() as api:
        fields = {"tags": [CANARY], "entities": [CANARY], "metadata": {CANARY: CANARY}, "source": CANARY}
        made = await api.create(CANARY, f"the {CANARY} is blue", **fields)
        await api.search(CANARY, query=CANARY, tags=[CANARY])
        await api.search(CANARY, query=f"{CANARY} is")
        await api.client.post("/v1/search/batch", json={"user_id": CANARY, "searches": [{"query": CANARY}] * 2})
        await api.listing(CANARY, entity=CANARY)
        await api.patch(CANARY, made["id"], {"text": f"{CANARY} again"})
        await api.delete(CANARY, made["id"])
        await api.client.delete(f"/v1/users/{CANARY}")
        await api.client.get(f"/v1/users/{CANARY}", headers={"traceparent": CALLER.format(1)})
        await found(receiver, 1)
    assert len([each for each in receiver.spans() if each.kind == 2]) == 9
    exported = b"".join(receiver.bodies)
    assert CANARY.encode() not in exported
    assert made["id"].encode() not in exported


async def test_the_endpoint_that_embeds_is_told_whose_child_it_is(traced, receiver, endpoint):
    """Of the request's span, for writes and searches, also in batches; and a leg that was left out is named."""
    settings = {
        "embedding__provider": "openai",
        "embedding__model": "m",
        "embedding__base_url": endpoint.base_url,
        "embedding__dimensions": peer.DIMENSIONS,
        "search__leg_timeout_ms": 200,
    }
    async with traced(**settings) as api:
        one, two = {"query": "one"}, {"query": "two"}
        calls = [
            ("/v1/memories", {"text": "the kitchen is blue"}),
            ("/v1/memories/batch", {"memories": [{"text": f"the kitchen is blue {n}"} for n in range(200)]}),
            ("/v1/search", {"query": "is it blue?"}),
            ("/v1/search/batch", {"searches": [one, two]}),
            ("/v1/search/batch", {"searches": [{"query": "three"}, {"embedding": [1.0] * peer.DIMENSIONS}]}),
        ]
        for number, (path, body) in enumerate(calls, 1):
            before = len(endpoint.headers)
            headers = {"traceparent": CALLER.format(number)}
            answer = await api.client.post(path, json={"user_id": "ada"} | body, headers=headers)
            assert answer.status_code in {200, 201}, answer.text
            span, _ = await found(receiver, number)
            asked = zip(endpoint.requests[before:], endpoint.headers[before:], strict=True)
            sent = {told.get("traceparent") for request, told in asked if request["input"] != WARMING_UP}
            assert sent == {f"00-{TRACE_ID.hex()}-{span.span_id.hex()}-01"}
        await endpoint.die()
        await api.client.post(
            "/v1/search", json={"user_id": "ada", "query": "new"}, headers={"traceparent": CALLER.format(9)}
        )
        span, _ = await found(receiver, 9)
        assert attributes(span)["memfast.degraded"] == ["vector"]


async def test_no_receiver_costs_no_request(traced, receiver):
    """One that takes requests and says nothing: everything is answered, what is too much is counted."""
    receiver.answers.clear()
    async with traced(telemetry__queue_spans=64, telemetry__stop_timeout_s=0.1) as api:
        await api.create("ada", "the kitchen is blue")
        for number in range(50):
            assert (await api.search("ada", query=f"kitchen {number}")).status_code == 200
        assert receiver.asked.wait(ENOUGH_S)
        for number in range(50, 100):
            assert (await api.search("ada", query=f"kitchen {number}")).status_code == 200
        assert api.services.meter.counter("memfast_spans", "dropped").value > 0
        text = (await api.client.get("/metrics")).text
        assert 'memfast_spans_total{result="dropped"}' in text
