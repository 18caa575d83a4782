"""What is logged of slow and of failing requests, by which ids, and that no memory is ever quoted."""

import asyncio
import io
import json
import logging
import re

import pytest

from memfast.cli.logs import JsonFormatter
from memfast.http.app import ROUTES

pytestmark = pytest.mark.asyncio(loop_scope="module")

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CANARY = "wombat-7731"


@pytest.fixture
def lines():
    """Function: every line that was logged so far, of any level of the service, as JSON."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(), logging.getLogger("memfast")]
    levels = [logger.level for logger in loggers]
    loggers[0].addHandler(handler)
    for logger, level in zip(loggers, (logging.WARNING, logging.DEBUG), strict=True):  # as the service does
        logger.setLevel(level)
    yield lambda: [json.loads(line) for line in output.getvalue().splitlines()]
    loggers[0].removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    handler.close()


def slow(lines):
    """The lines of slow searches."""
    return [line for line in lines() if line["logger"] == "memfast.slow" and line["operation"] == "POST /v1/search"]


async def waiting(connection, count):
    """Return when so many statements have waited for a lock for a fifth of a second."""
    async with asyncio.timeout(60):
        while (
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                " AND clock_timestamp() - query_start > interval '0.2 s'"
            )
            < count
        ):
            await asyncio.sleep(0.01)


async def test_a_slow_query_is_told_with_its_stages(api, user, lines):
    """A search that waits for a lock: one line with where the time went, whose it was by a hash, and its ids."""
    await api.create(user, text=f"the {CANARY} is blue")
    counter = r'memfast_slow_operations_total{method="POST",route="/v1/search",stage="sql"}'
    before = (await api.request("GET", "/metrics")).text
    async with api.database() as blocker:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE memories IN ACCESS EXCLUSIVE MODE")
        body = {"user_id": user, "query": CANARY, "mode": "vector"}
        headers = {"x-request-id": "slow-1", "traceparent": PARENT}
        search = asyncio.create_task(api.client.post("/v1/search", json=body, headers=headers))
        await waiting(blocker, 1)
        await transaction.rollback()
        answer = await search
    assert answer.status_code == 200
    (line,) = slow(lines)
    assert line["operation"] == "POST /v1/search"
    assert (line["request_id"], line["trace_id"]) == ("slow-1", PARENT[3:35])
    assert (line["status"], line["tier"]) == (200, "cold")
    assert line["version"] == int(answer.headers["memfast-version"])
    assert re.fullmatch("[0-9a-f]{32}", line["scope"])
    assert line["took_ms"] >= line["stages_ms"]["sql"] >= 100
    assert sum(line["stages_ms"].values()) <= line["took_ms"]
    assert user not in json.dumps(line)
    timing = answer.headers["server-timing"]
    assert timing.startswith("total;dur=")
    assert re.search(r", sql;dur=\d{3}", timing)
    after = (await api.request("GET", "/metrics")).text
    counts = [float(re.search(rf"^{re.escape(counter)} (.*)$", text, re.MULTILINE)[1]) for text in (before, after)]
    assert counts[1] >= counts[0] + 1
    answer = await api.client.post("/v1/search", json=body)
    assert re.fullmatch(r"total;dur=[\d.]+", answer.headers["server-timing"]), "hot answers have no time for it"
    assert len(slow(lines)) == 1, "what is fast is not told"


async def test_writes_and_reads_that_wait_for_a_lock_say_so(api, user, lines):
    """The user's row is locked: what writes was in its transaction, what reads in its statement, a batch as its search."""
    memory = (await api.create(user, text="the door is green"))["id"]
    before = (await api.request("GET", "/metrics")).text
    vector = {"query": "door", "mode": "vector"}
    asked = {
        "POST /v1/memories": {"user_id": user, "text": "the roof is red"},
        "POST /v1/search/batch": {"user_id": user, "searches": [vector, vector | {"limit": 3}]},
        "POST /v1/memories/get": {"user_id": user, "ids": [memory]},
    }
    async with api.database() as blocker:
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE memories, scopes IN ACCESS EXCLUSIVE MODE")
        tasks = [asyncio.create_task(api.client.request(*name.split(), json=body)) for name, body in asked.items()]
        await waiting(blocker, 3)
        await transaction.rollback()
        assert all([(await task).is_success for task in tasks])
    told = {line["operation"]: line for line in lines() if line["logger"] == "memfast.slow"}
    assert set(told) == set(asked)
    for line in told.values():
        assert line["took_ms"] >= line["stages_ms"]["sql"] >= 100
        assert sum(line["stages_ms"].values()) <= line["took_ms"]
    assert {"embed", "wait"} <= set(told["POST /v1/memories"]["stages_ms"])
    after = (await api.request("GET", "/metrics")).text
    for name in asked:
        method, route = name.split()
        counter = f'memfast_slow_operations_total{{method="{method}",route="{route}",stage="sql"}} '
        assert _value(after, counter) == _value(before, counter) + 1
    written = 'memfast_write_stage_duration_seconds_count{stage="sql"} '
    assert _value(after, written) == _value(before, written) + 1
    searched = 'memfast_search_stage_duration_seconds_count{stage="sql"} '
    assert _value(after, searched) == _value(before, searched) + 2, "a batch is counted as its searches alone"


def _value(text, start):
    """The value of the sample that begins so."""
    (line,) = [line for line in text.splitlines() if line.startswith(start)]
    return float(line.removeprefix(start))


async def test_whoever_asks_why_is_told_the_stages_of_any_tier(api, user):
    """`explain` has them in Server-Timing, warm too; without it only a cold answer has."""
    await api.create(user, text="the cellar is dry")
    await api.services.warm.load(api.services.access.scope((await api.services.access.authenticate(None)), user))
    timings = {}
    for explain in (True, False):
        body = {"user_id": user, "query": "cellar", "explain": explain}
        answer = await api.client.post("/v1/search", json=body)
        assert answer.headers["memfast-tier"] == "warm"
        timings[explain] = answer.headers["server-timing"]
    stages = dict(re.findall(r"(\w+);dur=([\d.]+)", timings[True]))
    assert {"total", "decode", "cache", "warm", "embed", "rank", "encode"} <= set(stages)
    assert sum(map(float, stages.values())) <= 2 * float(stages["total"]) + 0.01
    assert re.fullmatch(r"total;dur=[\d.]+", timings[False])


@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        (PARENT, PARENT),
        ("cc" + PARENT[2:] + "-more", PARENT),
        ("ff" + PARENT[2:], None),
        (PARENT + "-more", None),
        (PARENT.upper(), None),
        ("00-" + "0" * 32 + PARENT[35:], None),
        (PARENT[:36] + "0" * 16 + "-01", None),
        (PARENT[:-1], None),
        ("nonsense", None),
        ("x" * 5000, None),
    ],
)
async def test_a_trace_is_returned_if_it_is_one(api, user, sent, returned):
    """As version 00 of it; hot, cold, refused, and beside the routes."""
    headers = {"traceparent": sent}
    body = {"user_id": user, "query": "anything"}
    answers = [await api.client.post("/v1/search", json=body, headers=headers) for _ in range(2)]
    answers.append(await api.client.post("/v1/search", json={}, headers=headers))
    answers += [await api.request("GET", path, headers=headers) for path in ("/schema", "/v1/nowhere", "/metrics")]
    assert [answer.headers.get("traceparent") for answer in answers] == [returned] * 6


async def test_lines_of_a_request_carry_its_id(api, lines, monkeypatch):
    """Whoever logs below the edge need not know it."""

    async def find(*_arguments):
        logging.getLogger("memfast.somewhere").info("looked")
        raise RuntimeError(CANARY)

    monkeypatch.setattr(type(api.services.search), "find", find)
    body = {"user_id": "u", "query": "x"}
    headers = {"x-request-id": "wrong-1", "traceparent": PARENT}
    edge = api.edge
    status = await _status(edge, "POST", "/v1/search", body, headers)
    assert status == 500
    told = [line for line in lines() if line.get("request_id") == "wrong-1"]
    assert [line["logger"] for line in told] == ["memfast.somewhere", "memfast.http"]
    assert all(line["trace_id"] == PARENT[3:35] for line in told)
    assert "RuntimeError" in told[1]["trace"]
    assert CANARY not in json.dumps(told)


async def _status(edge, method, path, body, headers):
    """The status of an answer that the contract would not allow: of a fault of ours."""
    sent = []
    content = json.dumps(body).encode()

    async def receive():
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message):
        sent.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    pairs += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    await edge(scope | {"headers": pairs, "http_version": "1.1"}, receive, send)
    return sent[0]["status"]


async def test_no_line_quotes_a_memory(api, lines, monkeypatch):
    """A word that stands in every text, name and value of every route, good and bad, at every level of the log."""
    said = {
        "user_id": CANARY, "text": CANARY, "query": CANARY, "metadata": {CANARY: CANARY}, "tags": [CANARY],
        "entities": [CANARY], "kind": CANARY, "source": CANARY, "type": CANARY, "ids": [CANARY],
        "memories": [{"text": CANARY, "metadata": {CANARY: "\x00"}}, {"text": CANARY}],
        "searches": [{"query": CANARY, "filter": {CANARY: CANARY}}], "filter": {"metadata." + CANARY: CANARY},
    }  # fmt: skip
    memory = await api.create(CANARY, text=CANARY, metadata={"word": CANARY}, tags=[CANARY])
    bodies = [said, CANARY, [CANARY], {"user_id": CANARY, "text": CANARY}, {"user_id": CANARY, "query": CANARY}]
    for route in ROUTES:
        path = route.path.replace("{memory_id}", memory["id"]).replace("{user_id}", CANARY)
        for target in (path, f"{path}?user_id={CANARY}", f"{path}?{CANARY}=1", path.replace(memory["id"], CANARY)):
            for body in bodies if route.method in {"POST", "PATCH"} else [None]:
                arguments = {} if body is None else {"json": body}
                await api.request(route.method, target, **arguments)

    async def fails(*_arguments, **_named):
        raise ValueError(f"invalid input for query argument $1: {CANARY}")

    for name in ("get", "list", "nearest", "load", "apply"):
        monkeypatch.setattr(type(api.services.recall._store), name, fails)
    for method, path, body in (
        ("POST", "/v1/search", {"user_id": "other", "query": CANARY}),
        ("POST", "/v1/memories", {"user_id": "other", "text": CANARY}),
        ("POST", "/v1/memories/batch", {"user_id": "other", "memories": [{"text": CANARY}, {"text": CANARY * 2}]}),
    ):
        await _status(api.edge, method, path, body, {})
    told = lines()
    assert any("ValueError" in line.get("trace", "") for line in told), "the failures were logged"
    assert not [line for line in told if CANARY in json.dumps(line)]
