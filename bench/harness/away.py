"""What is asked of a service while something it can do without is away ÷ the same while that works."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bench.harness.load import Connection, Run, call, closed_loop, connections
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, number, print_table

__all__ = ["Absence", "Load", "compare"]

P50_GATE = 1.2
P99_TIMES, P99_MORE_MS = 2.0, 5.0
_STATE_S = 120.0


class Absence(NamedTuple):
    """A way of being away: what brings it about, and what ends it; both may block."""

    name: str
    leave: Callable[[], None]
    back: Callable[[], None]


class Load:
    """Clients that ask, what they ask, and what the breaker before the other one says.

    Connections are opened for each turn: the service closes those that are idle in between.

    Args:
        address: of the service.
        clients: how many ask at a time.
        work: encoded requests, none of them twice; each must be answered with 200.
        breaker: its name.
    """

    def __init__(self, address: tuple[str, int], clients: int, work: Iterator[bytes], breaker: str) -> None:
        self._address = address
        self._clients = clients
        self._work = work
        self._breaker = breaker

    async def ask(self, count: int) -> Run:
        """So many requests."""
        async with connections(self._address, self._clients) as lines:
            return await closed_loop(list(itertools.islice(self._work, count)), [_sender(line) for line in lines])

    async def until(self, state: str) -> float:
        """Ask until the breaker has a state; returns the seconds that took."""
        began = time.perf_counter()
        while await self._state() != state:
            assert time.perf_counter() < began + _STATE_S, f"the breaker of {self._breaker} is not {state}"
            await self.ask(self._clients)
        return time.perf_counter() - began

    async def _state(self) -> str:
        async with connections(self._address, 1) as (probe,):
            health = await call(probe, "GET", "/v1/health")
        return next(each["state"] for each in health["breakers"] if each["name"] == self._breaker)


def _sender(line: Connection) -> Callable[[bytes], Awaitable[None]]:
    async def send(request: bytes) -> None:
        status, body = await line.send(request)
        assert status == 200, body[:300]

    return send


async def compare(
    load: Load,
    what: str,
    asked: str,
    absences: Sequence[Absence],
    *,
    pairs: int,
    count: int,
    restored: Callable[[], Awaitable[None]] | None = None,
) -> Report:
    """In turns it works, and is away in each of the ways, once its breaker has opened.

    Args:
        load: the clients.
        what: what is away, e.g. Redis.
        asked: what is asked meanwhile, e.g. search.
        absences: the ways.
        pairs: turns, after one that does not count.
        count: requests of a turn.
        restored: is waited for when the breaker has closed again.
    """
    report, rows = Report([]), []
    for absence in absences:
        opened_s, closed_s = list[float](), list[float]()

        async def away(
            _number: int,
            absence: Absence = absence,
            opened_s: list[float] = opened_s,
            closed_s: list[float] = closed_s,
        ) -> Run:
            await asyncio.to_thread(absence.leave)
            try:
                opened_s.append(await load.until("open"))
                return await load.ask(count)
            finally:
                await asyncio.to_thread(absence.back)
                closed_s.append(await load.until("closed"))
                if restored is not None:
                    await restored()

        async def there(_number: int) -> Run:
            return await load.ask(count)

        await interleaved(away, there, 1)
        measured = await interleaved(away, there, pairs)
        report.figures.extend(_figures(f"{what} {absence.name}: {asked}", what, measured))
        longest = (number(max(each)) for each in (opened_s, closed_s))
        rows.append((absence.name, *longest, *_percentiles(measured)))
    print_table((what, "open after, s", "closed after, s", "p50 away, there ms", "p99 away, there ms"), rows)
    return report


def _figures(name: str, what: str, measured: list[tuple[Run, Run]]) -> list[Figure]:
    middle, tail = ([[side.percentile_ms(percent) for side in pair] for pair in measured] for percent in (50, 99))
    allowed = [P99_TIMES * there + P99_MORE_MS for _, there in tail]
    return [
        Figure(
            f"{name} p50 ÷ with {what}",
            median_ratio([away for away, _ in middle], [there for _, there in middle]),
            at_most=P50_GATE,
        ),
        Figure(f"{name} p99 ÷ (2 x with {what} + 5 ms)", median_ratio([away for away, _ in tail], allowed), at_most=1),
    ]


def _percentiles(measured: list[tuple[Run, Run]]) -> list[str]:
    """Medians over the pairs, of both sides."""
    return [
        ", ".join(number(float(np.median([pair[side].percentile_ms(percent) for pair in measured]))) for side in (0, 1))
        for percent in (50, 99)
    ]
