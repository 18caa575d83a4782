"""A service whose embedding endpoint dies, stalls or drips: what goes on, what is refused, and that both end."""

import asyncio
import base64
import importlib.util
import re
import sys
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from memfast.service.modes import HOLD_S

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT = (ROOT / "docs" / "resilience.md").read_text()
ROWS = re.findall(
    r"^\| `(.+)` \| (.+) \|$", DOCUMENT.split("## An embedding endpoint away\n")[1].split("\n## ")[0], re.MULTILINE
)
FAILURES = 3
WAIT_S = 60.0
PATIENT_S = 60.0
"""As long as no machine is busy."""
RNG = np.random.default_rng(8)
numbers = count()


def endpoint_module():
    """The local embeddings endpoint, loaded once for all tests."""
    name = "embedding_endpoint"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, ROOT / "tests" / "integration" / "embedding" / "endpoint.py"
        )
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


peer = endpoint_module()


async def die(endpoint):
    """Nobody listens."""
    await endpoint.die()


async def stall(endpoint):
    """Connections are taken, and nothing is said."""
    endpoint.release.clear()


async def drip(endpoint):
    """The answer begins, and never ends."""
    endpoint.answer = lambda request: peer.Reply(peer.embeddings(request).body, cut_after=10, drip_s=0.01)


async def heal(endpoint):
    """As before."""
    endpoint.answer = peer.embeddings
    endpoint.release.set()
    await endpoint.die()
    await endpoint.listen()


@pytest.fixture
async def endpoint(monkeypatch):
    """An endpoint that works."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with peer.serving() as running:
        yield running


@pytest.fixture
def open_service(server, make_site, open_api, endpoint, monkeypatch):
    """Function: a service over the endpoint, whose breaker opens after three failures."""
    monkeypatch.setitem(HOLD_S, "reduced", 0.2)
    monkeypatch.setattr("memfast.embedding.guarded.PING_INTERVAL_S", 0.1)

    @asynccontextmanager
    async def service(**more):
        settings = {
            "embedding__provider": "openai",
            "embedding__model": "m",
            "embedding__base_url": endpoint.base_url,
            "embedding__dimensions": peer.DIMENSIONS,
            "embedding__failures": FAILURES,
            "embedding__hold_s": 600.0,
            "search__leg_timeout_ms": 200,
        }
        async with open_api(make_site(server.new_database(), **settings | more)) as api:
            wait_for_vectors(api, PATIENT_S)
            monkeypatch.setattr(api.services.search, "_leg_timeout_s", PATIENT_S)  # reading memories has all the time
            yield api

    return service


def wait_for_vectors(api, seconds):
    """How long a search waits for the endpoint from now on: shortly only where it says nothing anyway."""
    api.services.search._vector_timeout_s = seconds


def asked(endpoint):
    """What requests asked of it: checks of the background embed one word."""
    return sum(request["input"] != ["memfast"] for request in endpoint.requests)


def text():
    """A text that nobody has embedded."""
    return f"the kitchen is blue {next(numbers)}"


def embedding():
    """Some vector."""
    return base64.b64encode(RNG.standard_normal(peer.DIMENSIONS).astype("<f4").tobytes()).decode()


def breaker(api):
    """The endpoint's, as the service counts."""
    return next(each.snapshot() for each in api.services.breakers if each.name == "embedder")


async def until(condition):
    """Wait for something to come true."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def ask(api, user, request):
    """One of the requests of the document's table."""
    create = {"user_id": user, "text": text()}
    sent = {
        "hybrid search": ("/v1/search", {"user_id": user, "query": text()}),
        "lexical search": ("/v1/search", {"user_id": user, "query": text(), "mode": "lexical"}),
        "vector search by text": ("/v1/search", {"user_id": user, "query": text(), "mode": "vector"}),
        "hybrid search with an embedding": ("/v1/search", {"user_id": user, "query": text(), "embedding": embedding()}),
        "vector search by embedding": ("/v1/search", {"user_id": user, "embedding": embedding()}),
        "write of a text": ("/v1/memories", create),
        "batch of texts": ("/v1/memories/batch", {"user_id": user, "memories": [{"text": text()} for _ in range(3)]}),
        "write with an embedding": ("/v1/memories", create | {"embedding": embedding()}),
    }
    path, body = sent[request]
    return await api.client.post(path, json=body)


@pytest.mark.parametrize("harm", [die, stall, drip])
@pytest.mark.parametrize("warm", [False, True])
async def test_an_endpoint_that_is_away(open_service, endpoint, harm, warm):
    """Searches go on from the first moment; once the breaker is open everything is as the document says, at once."""
    async with open_service() as api:
        user, question = api.new_user(), text()
        await api.create_many(user, [{"text": text()} for _ in range(5)])
        if warm:
            await api.client.post("/v1/warm", json={"users": [user]})
        whole = await api.search(user, query=question)
        assert whole.json()["degraded"] == []
        api.services.embedder._cache.clear()
        api.services.answers.clear()
        await harm(endpoint)
        wait_for_vectors(api, 0.2)
        before = asked(endpoint)
        while breaker(api).state == "closed":
            found = await api.search(user, query=question)
            assert (found.status_code, found.json()["degraded"]) == (200, ["vector"])
            assert len(found.json()["results"]) == 5
        assert breaker(api).opened == 1
        assert asked(endpoint) - before <= FAILURES, "who asked after the breaker had opened?"

        counts = await api.counts()
        for request, answer in ROWS:
            refused = breaker(api).refused
            got = await ask(api, user, request)
            spared = breaker(api).refused - refused
            if answer == "503":
                assert (got.status_code, spared) == (503, 1), request
                assert got.json()["type"] == "urn:memfast:problem:embedder-unavailable"
                assert 1 <= int(got.headers["retry-after"]) <= 5
                assert await api.counts() == counts
            else:
                assert got.status_code in {200, 201}, request
                degraded = got.json().get("degraded", [])
                assert (degraded, spared) == ((["vector"], 1) if "degraded" in answer else ([], 0)), request
                assert got.headers.get("memfast-mode") == "reduced"
        health = (await api.client.get("/v1/health")).json()
        assert (health["mode"], health["degraded"], health["status"]) == ("reduced", ["embedder"], "ready")
        assert "127.0.0.1" not in health["mode_reason"], "health is public, the endpoint's address is not"

        await heal(endpoint)
        wait_for_vectors(api, PATIENT_S)
        await until(lambda: breaker(api).state == "closed" and api.services.modes.standing().mode == "full")
        assert (await ask(api, user, "write of a text")).status_code == 201
        assert (await ask(api, user, "vector search by text")).status_code == 200
        after = await api.search(user, query=question)
        assert after.json()["degraded"] == [], "an answer by words alone was kept"


async def test_a_cold_search_reads_the_memories_while_the_query_is_embedded(open_service, endpoint):
    """The endpoint answers only when the memories are being read, which waits until the endpoint was asked."""
    async with open_service() as api:
        user = api.new_user()
        await api.create_many(user, [{"text": text()} for _ in range(5)])
        read = api.services.warm.transient

        async def transient(scope):
            await endpoint.wait_for_waiting(1)
            endpoint.release.set()
            return await read(scope)

        api.services.warm.transient = transient
        endpoint.release.clear()
        answer = await api.search(user, query=text())
        assert (answer.headers["memfast-tier"], answer.json()["degraded"]) == ("cold", [])


def test_the_table_has_every_request():
    """And says of each what becomes of it."""
    assert len(ROWS) == 8
    assert {answer.split(",")[0] for _, answer in ROWS} == {"complete", "503", "by words"}


async def test_a_batch_of_searches_without_the_endpoint(open_service, endpoint):
    """Each of them as it would be alone, and the endpoint is waited for once."""
    async with open_service() as api:
        user, known = api.new_user(), text()
        await api.create_many(user, [{"text": text()} for _ in range(3)])
        await api.search(user, query=known)
        api.services.answers.clear()
        await stall(endpoint)
        wait_for_vectors(api, 0.2)
        before = asked(endpoint)
        searches = [
            {"query": text()},
            {"query": text(), "mode": "vector"},
            {"query": text(), "mode": "lexical"},
            {"embedding": embedding()},
            {"query": known},
            *({"query": text()} for _ in range(10)),
        ]
        body = {"searches": [{"user_id": user} | each for each in searches]}
        done = (await api.client.post("/v1/search/batch", json=body)).json()["results"]
        assert asked(endpoint) == before + 1
        assert done[1]["problem"]["type"].endswith("embedder-unavailable")
        degraded = [each.get("degraded", []) for each in done if "results" in each]
        assert degraded == [["vector"], [], [], [], *([["vector"]] * 10)], done
        endpoint.release.set()


async def test_a_deadline_ends_the_wait_for_the_endpoint(open_service, endpoint):
    """With 504, the write undone; who gave up after so long says that the endpoint is slow."""
    async with open_service() as api:
        user, counts = api.new_user(), await api.counts()
        await stall(endpoint)
        sent = {"user_id": user, "text": text()}
        late = await api.client.post("/v1/memories", json=sent, headers={"Memfast-Timeout-Ms": "2000"})
        assert late.status_code == 504
        assert late.json()["type"] == "urn:memfast:problem:deadline-exceeded"
        assert breaker(api).failures == 1
        assert await api.counts() == counts
        endpoint.release.set()


async def test_what_one_request_is_refused_for_is_no_failure(open_service, endpoint):
    """A text that is too long for the model keeps nobody else waiting."""
    async with open_service() as api:
        user = api.new_user()
        endpoint.answer = lambda _request: peer.Reply(b"{}", 400)
        for _ in range(3 * FAILURES):
            assert (await ask(api, user, "write of a text")).status_code == 503
        assert (breaker(api).state, breaker(api).failures) == ("closed", 0)
        endpoint.answer = lambda _request: peer.Reply(b"{}", 500)
        for _ in range(FAILURES):
            assert (await ask(api, user, "write of a text")).status_code == 503
        assert breaker(api).state == "open"


async def test_an_endpoint_that_asks_for_patience_is_given_it(open_service, endpoint):
    """As long as a hold at most: it is not asked every moment whether its limit is over."""
    async with open_service(embedding__hold_s=0.5, embedding__failures=1) as api:
        endpoint.answer = lambda _request: peer.Reply(b"{}", 429, {"retry-after": "60"})
        await ask(api, api.new_user(), "write of a text")
        await until(lambda: breaker(api).state == "half_open")
        looked = len(endpoint.requests)
        await until(lambda: len(endpoint.requests) >= looked + 2)
        endpoint.answer = peer.embeddings
        await until(lambda: breaker(api).state == "closed")
