"""Searches while Redis is stopped or killed ÷ the same while it works.

    python -m bench.redis_away [--quick] [--json FILE]

Cold searches that nobody asked before, four at a time: each looks for its answer in Redis and puts it there. In turns
Redis works, and is taken away by SIGSTOP or kill -9. Its breaker is waited for, under the same load; then the clock runs.
Every answer must be one of results.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from bench.harness.corpus import fill
from bench.harness.load import Connection, Run, call, closed_loop, connections, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.redis_server import RedisServer
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Service, scratch_dir
from bench.overload import searches

__all__ = ["measure"]

CLIENTS = 4
MEMORIES = 2_000
P50_GATE = 1.2
P99_TIMES, P99_MORE_MS = 2.0, 5.0
_STATE_S = 30.0
_USER = "cold"


class _Load:
    """Clients that search, and what their last searches took."""

    def __init__(self, lines: list[Connection], work: Iterator[bytes], probe: Connection) -> None:
        self._lines = lines
        self._work = work
        self._probe = probe

    async def ask(self, count: int) -> Run:
        """So many searches."""
        return await closed_loop(list(itertools.islice(self._work, count)), [_sender(line) for line in self._lines])

    async def until(self, state: str) -> float:
        """Search until the breaker of Redis has a state; returns the seconds that took."""
        began = time.perf_counter()
        while await self._breaker() != state:
            assert time.perf_counter() < began + _STATE_S, f"the breaker is not {state}"
            await self.ask(CLIENTS)
        return time.perf_counter() - began

    async def _breaker(self) -> str:
        health = await call(self._probe, "GET", "/v1/health")
        return next(each["state"] for each in health["breakers"] if each["name"] == "redis")


def _sender(line: Connection):
    async def send(request: bytes) -> None:
        status, body = await line.send(request)
        assert status == 200, body[:300]

    return send


def measure(*, quick: bool = False) -> Report:
    """Measure both ways of being away."""
    with scratch_dir() as root:
        (folder := root / "redis").mkdir()
        redis = RedisServer(folder)
        try:
            settings = _words({"index.memory_mb": 0, "redis.url": redis.url, "redis.min_cost_ms": 0})
            with Service(root / "data", settings=settings) as service:
                return run(_measure(service, redis, pairs=3 if quick else 7, count=400 if quick else 1500))
        finally:
            redis.close()


def _words(settings: dict[str, object]) -> tuple[str, ...]:
    return tuple(itertools.chain.from_iterable(("--set", f"{name}={value}") for name, value in settings.items()))


async def _measure(service: Service, redis: RedisServer, *, pairs: int, count: int) -> Report:
    rng = np.random.default_rng(23)
    report, rows = Report([]), []
    async with connections(service.address, CLIENTS) as lines, connections(service.address, 1) as (probe,):
        await fill(lines[0], _USER, MEMORIES, rng)
        load = _Load(lines, searches(rng), probe)
        for name, leave, back in (("stopped", redis.freeze, redis.thaw), ("killed", redis.kill, redis.start)):
            opened_s, closed_s = list[float](), list[float]()

            async def away(
                _number: int,
                leave: Callable[[], None] = leave,
                back: Callable[[], None] = back,
                opened_s: list[float] = opened_s,
                closed_s: list[float] = closed_s,
            ) -> Run:
                leave()
                try:
                    opened_s.append(await load.until("open"))
                    return await load.ask(count)
                finally:
                    await asyncio.to_thread(back)
                    closed_s.append(await load.until("closed"))

            async def there(_number: int) -> Run:
                return await load.ask(count)

            await interleaved(away, there, 1)
            measured = await interleaved(away, there, pairs)
            report.figures.extend(_figures(name, measured))
            rows.append((name, *(number(max(each)) for each in (opened_s, closed_s)), *_percentiles(measured)))
    print_table(("Redis", "open after, s", "closed after, s", "p50 away, there ms", "p99 away, there ms"), rows)
    return report


def _figures(name: str, measured: list[tuple[Run, Run]]) -> list[Figure]:
    middle, tail = ([[side.percentile_ms(percent) for side in pair] for pair in measured] for percent in (50, 99))
    allowed = [P99_TIMES * there + P99_MORE_MS for _, there in tail]
    return [
        Figure(
            f"Redis {name}: search p50 ÷ with Redis",
            median_ratio([away for away, _ in middle], [there for _, there in middle]),
            at_most=P50_GATE,
        ),
        Figure(
            f"Redis {name}: search p99 ÷ (2 x with Redis + 5 ms)",
            median_ratio([away for away, _ in tail], allowed),
            at_most=1,
        ),
    ]


def _percentiles(measured: list[tuple[Run, Run]]) -> list[str]:
    """Medians over the pairs, of both sides."""
    return [
        ", ".join(number(float(np.median([pair[side].percentile_ms(percent) for pair in measured]))) for side in (0, 1))
        for percent in (50, 99)
    ]


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__, lambda parser: parser.add_argument("--quick", action="store_true"), timed=False)
    return finish(measure(quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
