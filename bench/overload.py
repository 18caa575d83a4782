"""Cold searches at ten times the rate that the service can do, and a service that is knocked over under its usual load.

    python -m bench.overload [--quick] [--json FILE]

Peak is what eight clients get in a closed loop. Then so many searches are sent for a while, one a request, whatever
becomes of them; those that are answered with results count. Everything else must be a refusal that says when to come
back. Health is asked all the while, over a connection of its own. The share of the peak that is left has no gate: client,
service and PostgreSQL take the processor from each other, and on a machine with anything else to do that decides it.

The second part is `bench.metastable`: every copy gone, every worker killed, PostgreSQL stopped for ten seconds (three with
--quick), under four fifths of the load that the service can do. By ten seconds after that it must answer as before.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bench import metastable
from bench.harness.corpus import fill, unit_vectors
from bench.harness.load import Connection, closed_loop, connections, encode, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Service, scratch_dir

__all__ = ["measure", "searches"]

TIMES = 10
MEMORIES = 5_000
CLIENTS = 8
LINES = 512
_USER = "cold"


@dataclass
class Flood:
    """What became of the searches of one flood."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    good_ms: list[float] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Searches that were answered, by second."""
        return self.statuses[200] / self.seconds


def measure(*, quick: bool = False, settings: tuple[str, ...] = ()) -> Report:
    """Measure peak and flood in turns."""
    words = ("--set", "index.memory_mb=0", *settings)
    with scratch_dir() as root, Service(root / "data", settings=words) as service:
        return run(_measure(service, pairs=3 if quick else 7, seconds=3.0 if quick else 8.0))


async def _measure(service: Service, *, pairs: int, seconds: float) -> Report:
    rng = np.random.default_rng(21)
    async with connections(service.address, LINES) as lines, connections(service.address, 1) as (probe,):
        await fill(lines[0], _USER, MEMORIES, rng)
        work = searches(rng)

        async def peak(_number: int) -> float:
            done = await closed_loop(list(itertools.islice(work, 200)), [_sender(line) for line in lines[:CLIENTS]])
            return done.per_second

        await peak(0)
        rate = TIMES * await peak(0)

        async def flood(_number: int) -> Flood:
            return await _flood(lines, probe, work, rate, seconds)

        measured = await interleaved(flood, peak, pairs)
    return _report(measured, rate)


def searches(rng: np.random.Generator) -> Iterator[bytes]:
    """Searches that nobody asked before, without end."""
    while True:
        for vector in unit_vectors(rng, 1000):
            body = {"user_id": _USER, "embedding": base64.b64encode(vector.tobytes()).decode(), "limit": 10}
            yield encode("POST", "/v1/search", body)


def _sender(line: Connection):
    async def send(request: bytes) -> None:
        status, body = await line.send(request)
        assert status == 200, body[:300]

    return send


async def _flood(
    lines: list[Connection], probe: Connection, work: Iterator[bytes], rate: float, seconds: float
) -> Flood:
    flood, free = Flood(), list(lines)
    under_way: set[asyncio.Task[None]] = set()
    asked = asyncio.create_task(_ask_health(probe, flood))

    async def send(line: Connection, request: bytes) -> None:
        began = time.perf_counter()
        status, _ = await line.send(request)
        flood.statuses[status] += 1
        if status == 200:
            flood.good_ms.append((time.perf_counter() - began) * 1000)
        else:
            assert b"retry-after: " in line.head, line.head
        free.append(line)

    began, sent = time.perf_counter(), 0
    while (now := time.perf_counter()) < began + seconds:
        for _ in range(min(len(free), int(rate * (now - began)) - sent)):
            under_way.add(task := asyncio.create_task(send(free.pop(), next(work))))
            task.add_done_callback(under_way.discard)
            sent += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*under_way)
    flood.seconds = time.perf_counter() - began
    asked.cancel()
    await asyncio.wait([asked])
    return flood


async def _ask_health(probe: Connection, flood: Flood) -> None:
    request = encode("GET", "/v1/health/live")
    while True:
        began = time.perf_counter()
        status, _ = await asyncio.shield(asyncio.ensure_future(probe.send(request)))
        assert status == 200
        flood.health_s.append(time.perf_counter() - began)
        await asyncio.sleep(0.05)


def _report(measured: list[tuple[Flood, float]], rate: float) -> Report:
    floods, peaks = [pair[0] for pair in measured], [pair[1] for pair in measured]
    statuses = sum((each.statuses for each in floods), Counter())
    good_ms = np.concatenate([each.good_ms for each in floods])
    health_s = [value for each in floods for value in each.health_s]
    goodput = median_ratio([each.per_second for each in floods], peaks)
    print(f"cold searches of {MEMORIES:,} memories, {number(rate)} a second")
    rows = [
        ("peak, answered/s", number(statistics.median(peaks))),
        ("flood, answered/s", number(statistics.median(each.per_second for each in floods))),
        ("flood, sent/s", number(statistics.median(sum(each.statuses.values()) / each.seconds for each in floods))),
        ("answered, p50 and p99 ms", " ".join(number(float(np.percentile(good_ms, share))) for share in (50, 99))),
        ("health, p99 ms", number(float(np.percentile(health_s, 99)) * 1000)),
    ]
    print_table(("", ""), rows)
    others = sum(count for status, count in statuses.items() if status not in {200, 503, 504})
    return Report(
        [
            Figure(f"cold searches at {TIMES} times the peak rate: answered ÷ peak", goodput),
            Figure("their answers that are neither results nor refusals", others, at_most=0),
            Figure("health meanwhile, longest", max(health_s), "s"),
        ],
        {"statuses": dict(statuses), "rate": rate, "peak": peaks, "flood": [each.per_second for each in floods]},
    )


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__, lambda parser: parser.add_argument("--quick", action="store_true"), timed=False)
    flood, fall = measure(quick=chosen.quick), metastable.measure(quick=chosen.quick)
    return finish(Report(flood.figures + fall.figures, {"flood": flood.details, "fall": fall.details}), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
