"""What spans cost a hot search: the same requests with and without, in one process.

    python -m bench.spans [--quick] [--json FILE]

A hot search is asked in turns of two hundred through the application without a server, with a `traceparent`; what measures
requests is exchanged between the turns: that of a service without a receiver, the one that tells a receiver, and the same for
callers who keep no trace. Processor time is that of the event loop's thread; the thread that sends, of the SDK, is read by a
clock of its own. There is no gate: the ratio of two turns without a receiver is what the machine's noise is.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import threading
import time
from typing import Any

import numpy as np
import uvloop

from bench.harness.corpus import sentences
from bench.harness.otlp_receiver import receiving
from bench.harness.report import Figure, Report, finish, options
from bench.harness.service import scratch_dir
from bench.metrics import call, serving
from memfast.bootstrap import ground
from memfast.config import load
from memfast.http.app import build_app
from memfast.http.measures import Measures

__all__ = ["measure"]

TURN = 200
MEMORIES = 200
_SENDER = "OtelBatchSpanRecordProcessor"
"""The thread of the SDK that encodes and sends."""
_TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-"
_KEPT, _NOT_KEPT = _TRACE + b"01", _TRACE + b"00"


async def _turn(edge: Any, body: bytes, measures: Any, parent: bytes) -> float:
    """Microseconds of the loop's processor time for one request that is measured so."""
    use, spent_s = edge._use, 0.0
    own, use.measures = use.measures, measures
    for _ in range(TURN):
        began_s = time.thread_time()
        await call(edge, "/v1/search", body, b"hot", (b"traceparent", parent))
        spent_s += time.thread_time() - began_s
        await asyncio.sleep(0)
    use.measures = own
    return spent_s / TURN * 1e6


async def _compare(edge: Any, body: bytes, report: Report, pairs: int) -> None:
    traced = edge._use.measures
    services = edge._use.services
    plain = Measures(services.meter, edge._routes, edge._pages, edge._surfaces, edge._log)
    kinds = {
        "without a receiver again": (plain, _KEPT),
        "a trace that its caller does not keep": (traced, _NOT_KEPT),
        "a span": (traced, _KEPT),
    }
    for name, subject in kinds.items():
        floor = plain, _KEPT
        measured = [await _pair(edge, body, subject, floor, swap=bool(pair % 2)) for pair in range(pairs)]
        ratio = statistics.median(above / below for above, below in measured)
        beyond_us = statistics.median(above - below for above, below in measured)
        report.figures.append(Figure(f"hot search, {name}: loop's CPU ÷ without a receiver", ratio))
        report.figures.append(Figure(f"hot search, {name}: beyond", beyond_us, "us"))
        report.details[name] = measured


async def _pair(edge: Any, body: bytes, subject: Any, floor: Any, *, swap: bool) -> tuple[float, float]:
    """Both, in either order."""
    if swap:
        below = await _turn(edge, body, *floor)
        return await _turn(edge, body, *subject), below
    above = await _turn(edge, body, *subject)
    return above, await _turn(edge, body, *floor)


async def _measure(site: Any, report: Report, *, quick: bool) -> None:
    edge = build_app(site)
    texts = list(sentences(np.random.default_rng(3), MEMORIES))
    async with serving(edge):
        items = [{"text": text} for text in texts]
        stored = json.dumps({"user_id": "bench", "memories": items}).encode()
        await call(edge, "/v1/memories/batch", stored)
        body = json.dumps({"user_id": "bench", "query": texts[0]}).encode()
        for _ in range(TURN):
            await call(edge, "/v1/search", body, b"", (b"traceparent", _NOT_KEPT))
        (sender,) = (each for each in threading.enumerate() if each.name == _SENDER)
        await _compare(edge, body, report, 15 if quick else 100)
        meter = edge._use.services.meter  # type: ignore[union-attr]
        exported = meter.counter("memfast_spans", "exported")
        while not exported.value:
            await asyncio.sleep(0.1)
        assert sender.ident is not None
        spent_s = time.clock_gettime(time.pthread_getcpuclockid(sender.ident))
        report.figures.append(Figure("a span: CPU of the thread that sends", spent_s / exported.value * 1e6, "us"))
        assert not meter.counter("memfast_spans", "dropped").value


def measure(*, quick: bool = False) -> Report:
    """Measure a hot search."""
    report = Report([])
    with scratch_dir() as scratch, receiving() as receiver:
        flags = {"data_dir": str(scratch / "data"), "memory.budget_mb": 8192, "telemetry.endpoint": receiver.url}
        config = load({}, flags=flags | {"telemetry.queue_spans": 1_000_000, "telemetry.interval_s": 0.1}).config
        with ground(config, lambda _line: None) as site, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_measure(site, report, quick=quick))
    return report


def main() -> int:
    """Run from the command line."""
    chosen = options(
        __doc__, lambda parser: parser.add_argument("--quick", action="store_true", help="fewer rounds"), timed=False
    )
    return finish(measure(quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
