"""What the guard of a remote embedder counts, and how often it looks."""

import asyncio

import numpy as np
import pytest

from memfast.embedding import guarded
from memfast.embedding.guarded import GuardedEmbedder
from memfast.errors import EmbedderUnavailable, InvalidRequest
from memfast.resilience.breaker import Breaker

FAILURES = 2
SLOW_S = 0.5


class SetClock:
    """Monotonic seconds that the test sets."""

    seconds = 0.0

    def monotonic(self):
        return self.seconds


class Far:
    """An embedder that waits for the test's word."""

    model, dimensions = "far", 2

    def __init__(self):
        self.answers = asyncio.Queue()
        self.asked = 0
        self.closed = False

    async def embed(self, texts):
        self.asked += 1
        answer = await self.answers.get()
        if answer is not None:
            raise answer
        return np.ones((len(texts), 2), dtype=np.float32)

    async def check(self):
        await self.embed(["memfast"])

    async def close(self):
        self.closed = True


class Case:
    """A guard, its breaker, and what stands behind both."""

    def __init__(self):
        self.clock, self.far = SetClock(), Far()
        self.breaker = Breaker("embedder", self.clock, failures=FAILURES, hold_s=10.0)
        self.guard = GuardedEmbedder(self.far, self.breaker, self.clock, slow_s=SLOW_S, hold_s=10.0)

    async def given_up_after(self, seconds):
        """Somebody calls, and waits no longer than that."""
        call = asyncio.create_task(self.guard.embed(["a"]))
        await asyncio.sleep(0)
        self.clock.seconds += seconds
        call.cancel()
        await asyncio.wait([call])

    async def fails_with(self, error):
        self.far.answers.put_nowait(error)
        with pytest.raises(type(error)):
            await self.guard.embed(["a"])


@pytest.fixture
def case():
    """A guard of one's own."""
    return Case()


async def test_it_is_the_embedder_behind_it(case):
    """Name, length, rows and end."""
    case.far.answers.put_nowait(None)
    assert (case.guard.model, case.guard.dimensions) == ("far", 2)
    assert (await case.guard.embed(["a", "b"])).shape == (2, 2)
    await case.guard.close()
    assert case.far.closed


async def test_what_was_given_up_early_says_nothing_and_late_that_it_is_slow(case):
    """Whoever gave it up."""
    for _ in range(3 * FAILURES):
        await case.given_up_after(SLOW_S - 0.01)
    assert case.breaker.state == "closed"
    for _ in range(FAILURES):
        await case.given_up_after(SLOW_S)
    assert case.breaker.state == "open"
    assert case.breaker.reason == "it took 0.5 s"


async def test_only_what_the_endpoint_did_wrong_is_a_failure(case):
    """Not what a request was refused for."""
    for _ in range(3 * FAILURES):
        await case.fails_with(EmbedderUnavailable("this text is too long"))
        await case.fails_with(InvalidRequest("no Unicode"))
    assert case.breaker.state == "closed"
    for _ in range(FAILURES):
        await case.fails_with(EmbedderUnavailable("it failed (HTTP 500)", failure="HTTP 500"))
    assert case.breaker.reason == "HTTP 500"
    with pytest.raises(EmbedderUnavailable, match="not asked now") as refused:
        await case.guard.embed(["a"])
    assert (refused.value.begun, refused.value.retry_after_s) == (False, guarded.RETRY_AFTER_S)


async def test_it_looks_only_while_the_endpoint_is_away(case, monkeypatch):
    """And an answer closes the breaker; an order is not lifted by one."""
    monkeypatch.setattr(guarded, "PING_INTERVAL_S", 0.001)
    watch = asyncio.create_task(case.guard.watch())
    try:
        await asyncio.sleep(0.02)
        assert case.far.asked == 0
        case.breaker.isolate("ordered")
        await asyncio.sleep(0.02)
        assert case.far.asked == 0
        case.breaker.restore()
        for _ in range(FAILURES):
            await case.fails_with(EmbedderUnavailable("it failed", failure="HTTP 500"))
        for answer in (EmbedderUnavailable("still", failure="HTTP 500"), ValueError("a bug"), None):
            assert case.breaker.state == "open"
            case.far.answers.put_nowait(answer)
            asked = case.far.asked
            async with asyncio.timeout(10):
                while case.far.asked == asked or not case.far.answers.empty():
                    await asyncio.sleep(0.001)
            if isinstance(answer, EmbedderUnavailable):  # its default hint is a second
                watch.cancel()
                await asyncio.wait([watch])
                watch = asyncio.create_task(case.guard.watch())
        async with asyncio.timeout(10):
            while case.breaker.state != "closed":
                await asyncio.sleep(0.001)
    finally:
        watch.cancel()
        await asyncio.wait([watch])
