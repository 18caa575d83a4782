"""Searches while Redis is stopped or killed ÷ the same while it works.

    python -m bench.redis_away [--quick] [--json FILE]

Cold searches that nobody asked before, four at a time: each looks for its answer in Redis and puts it there. In turns
Redis works, and is taken away by SIGSTOP or kill -9. Its breaker is waited for, under the same load; then the clock runs.
Every answer must be one of results.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np

from bench.harness.away import Absence, Load, compare
from bench.harness.corpus import fill
from bench.harness.load import connections, run
from bench.harness.redis_server import RedisServer
from bench.harness.report import Report, finish, options
from bench.harness.service import Service, scratch_dir
from bench.overload import searches

__all__ = ["measure"]

CLIENTS = 4
MEMORIES = 2_000
_USER = "cold"


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
    absences = [Absence("stopped", redis.freeze, redis.thaw), Absence("killed", redis.kill, redis.start)]
    async with connections(service.address, 1) as (line,):
        await fill(line, _USER, MEMORIES, rng)
    load = Load(service.address, CLIENTS, searches(rng), "redis")
    return await compare(load, "Redis", "search", absences, pairs=pairs, count=count)


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__, lambda parser: parser.add_argument("--quick", action="store_true"), timed=False)
    return finish(measure(quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
