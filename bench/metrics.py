"""What it costs a request to be counted: the same requests with and without, in one process.

    python -m bench.metrics [--quick] [--planted] [--json FILE]

Of a hot search the whole is measured, in turns of two hundred through the application without a server: without means
that every call of what counts does nothing, and what those calls cost by themselves is added. Of a warm one the calls are
noted and made again. The gate is in microseconds of processor time, because the promise is.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import uvloop

from bench.harness.corpus import sentences
from bench.harness.report import Figure, Report, finish, options
from bench.harness.service import scratch_dir
from memfast.bootstrap import ground
from memfast.config import load
from memfast.http import edge as edges
from memfast.http.app import build_app
from memfast.kernels import Trace
from memfast.metrics import CURRENT, NO_REQUEST, trace
from memfast.service import search as searches

__all__ = ["call", "measure", "serving"]

GATE_US = 1.5
"""Microseconds that counting may cost a request."""

PLANTED_S = 5e-6
TURN = 200
MEMORIES = 200


class _Mute:
    """Stands for everything that counts, and does nothing."""

    parent = None
    request_id = b"bench"
    scope_id = None
    degraded = ()
    spent = ()

    def hot(self, *_arguments: object) -> None:
        """Do nothing, as all of these."""

    ended = refused = abandoned = start = lap = add = publish = set = hot


@contextmanager
def _without(edge: Any, mute: Any) -> Iterator[None]:
    """Nothing is counted within."""
    use = edge._use
    measures, use.measures = use.measures, mute
    with (
        patch.object(edges, "Trace", lambda *_: mute),
        patch.object(edges, "CURRENT", mute),
        patch.object(searches, "trace", lambda: mute),
    ):
        yield
    use.measures = measures


class _Noting(_Mute):
    """Notes the calls that are made."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in {"hot", "ended", "start", "lap", "add", "set"}:
            self.calls.append(name)
        return super().__getattribute__(name)


@asynccontextmanager
async def serving(edge: Any) -> AsyncIterator[None]:
    """Open an application's services for a block."""
    inbox: asyncio.Queue[Any] = asyncio.Queue()
    outbox: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(
        edge({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, inbox.get, outbox.put)
    )
    await inbox.put({"type": "lifespan.startup"})
    assert (await outbox.get())["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await inbox.put({"type": "lifespan.shutdown"})
        await outbox.get()
        await life


def _scope(path: str, body: bytes, *more: tuple[bytes, bytes]) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *more],
    }


async def call(edge: Any, path: str, body: bytes, tier: bytes = b"", *headers: tuple[bytes, bytes]) -> None:
    """One request, by its scope; its answer must be a success of this tier."""
    head: list[Any] = []

    parts = [body]

    async def receive() -> dict[str, Any]:
        if not parts:
            await asyncio.get_running_loop().create_future()  # the client stays
        return {"type": "http.request", "body": parts.pop(), "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        head.append(message)

    await edge(_scope(path, body, *headers), receive, send)
    if head[0]["status"] >= 300 or (tier and (b"memfast-tier", tier) not in head[0]["headers"]):
        raise RuntimeError(f"not a success of {tier!r}: {head[0]}")


async def _turn(edge: Any, bodies: list[bytes], tier: bytes) -> float:
    """Seconds of processor time of one request. The event loop has its turns between, so that nothing is late."""
    spent_s = 0.0
    for body in bodies:
        began_s = time.thread_time()
        await call(edge, "/v1/search", body, tier)
        spent_s += time.thread_time() - began_s
        await asyncio.sleep(0)
    return spent_s / len(bodies)


def _bodies(texts: list[str], turn: int, *, fresh: bool) -> list[bytes]:
    """Requests of one turn: all equal, or none that was ever asked before."""
    if not fresh:
        return [json.dumps({"user_id": "bench", "query": texts[0], "mode": "vector"}).encode()] * TURN
    return [
        json.dumps({"user_id": "bench", "query": f"{texts[number % 20]} {number}", "mode": "vector"}).encode()
        for number in range(turn * TURN, (turn + 1) * TURN)
    ]


async def _with_and_without_us(edge: Any, texts: list[str], pairs: int, *, planted: bool) -> float:
    """Microseconds that counting costs a hot search: the whole of it, in turns."""
    hot, mute, rounds = _bodies(texts, 0, fresh=False), _Mute(), 200_000
    began_s = time.thread_time()
    for _ in range(rounds):
        mute.hot()
    call_us = (time.thread_time() - began_s) / rounds * 1e6
    beyond_us = []
    for pair in range(pairs):
        spent = {}
        for counted in (True, False) if pair % 2 else (False, True):
            with nullcontext() if counted else _without(edge, mute):
                spent[counted] = await _turn(edge, hot, b"hot")
        beyond_us.append((spent[True] - spent[False] + (PLANTED_S if planted else 0)) * 1e6)
    return statistics.median(beyond_us) + call_us


async def _again_us(edge: Any, texts: list[str], *, planted: bool) -> float:
    """Microseconds that counting costs a warm search: the calls that one makes, made again on what counts.

    A warm search takes so long that the difference of two would be noise.
    """
    noting = _Noting()
    with _without(edge, noting):
        await call(edge, "/v1/search", _bodies(texts, 1, fresh=True)[0], b"warm")
    laps, adds, sets = (
        range(sum(noting.calls.count(name) for name in names)) for names in (("start", "lap"), ("add",), ("set",))
    )
    looks, measures, rounds, times = range(len(adds) + 3), edge._use.measures, 2_000, []
    asked = SimpleNamespace(status=200, operation=0, tier="warm", version=1, trace=None)
    for _ in range(21):
        began_s = time.thread_time()
        for _ in range(rounds):
            started = time.perf_counter()
            asked.trace = own = Trace(b"bench", None)
            for _ in sets:
                CURRENT.set(own)
            for _ in looks:
                trace()
            for _ in laps:
                own.lap(3)
            for _ in adds:
                own.add(3, time.perf_counter() - started)
            measures.ended(asked, started)
        times.append((time.thread_time() - began_s) / rounds * 1e6)
    CURRENT.set(NO_REQUEST)
    began_s = time.thread_time()
    for _ in range(rounds):
        for each in (sets, looks, laps, adds):
            for _ in each:
                pass
    loops_us = (time.thread_time() - began_s) / rounds * 1e6
    return min(times) - loops_us + (PLANTED_S * 1e6 if planted else 0)  # others' work only adds to it


async def _measure(site: Any, report: Report, *, quick: bool, planted: bool) -> None:
    edge = build_app(site)
    texts = list(sentences(np.random.default_rng(3), MEMORIES))
    async with serving(edge):
        items = [{"text": text} for text in texts]
        await call(edge, "/v1/memories/batch", json.dumps({"user_id": "bench", "memories": items}).encode())
        services = edge._use.services  # type: ignore[union-attr]
        principal = await services.access.authenticate(None)
        await services.warm.load(services.access.scope(principal, "bench"))
        for body in (_bodies(texts, 0, fresh=False)[:2], _bodies(texts, 9_999, fresh=True)[:20]):
            for each in body:
                await call(edge, "/v1/search", each)
        hot_us = await _with_and_without_us(edge, texts, 50 if quick else 250, planted=planted)
        warm_us = await _again_us(edge, texts, planted=planted)
        report.figures.append(Figure("being counted: hot search", hot_us, "us", at_most=GATE_US))
        report.figures.append(Figure("being counted: warm search", warm_us, "us", at_most=GATE_US))


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure hot and warm searches."""
    report = Report([])
    with scratch_dir() as scratch:
        flags = {"data_dir": str(scratch / "data"), "cache.entries": 200_000, "cache.memory_mb": 1024}
        config = load({}, flags=flags | {"memory.budget_mb": 8192}).config
        with ground(config, lambda _line: None) as site, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_measure(site, report, quick=quick, planted=planted))
    return report


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
