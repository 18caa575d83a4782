"""Cold search over HTTP beside a loop that does the same SQL by hand.

    python -m bench.cold_search [--quick] [--planted] [--json FILE]

The floor runs the service's own statement over as many connections to the same server as the service has, and
fetches every column; it checks, ranks and encodes nothing. Scopes have 1,000 and 10,000 memories of 256 dimensions,
no query comes twice, the index in memory is off, and every answer must say that it was cold.
"""

from __future__ import annotations

import asyncio
import base64
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.corpus import fill, unit_vectors
from bench.harness.load import Connection, Run, closed_loop, connections, encode, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Planted, Service, scratch_dir
from memfast.search.rank import SLACK
from memfast.store.pool import connect
from memfast.store.queries import READ

__all__ = ["measure"]

GATE = 0.5
"""The least share of the floor's requests per second, at 16 clients."""

LIMIT = 10
POOL = 4
"""Connections to PostgreSQL: the service's own number for an embedded one."""

PLANTED = Planted(request_s=0.01)
_SETTINGS = tuple(
    word
    for setting in (f"postgres.pool_min={POOL}", f"postgres.pool_max={POOL}", "index.memory_mb=0")
    for word in ("--set", setting)
)
_GATED_CLIENTS = 16
_QUERIES = {1_000: {1: 400, 16: 1_200}, 10_000: {1: 100, 16: 240}}
"""Searches of one side of a pair: by memories in the scope and by clients."""


@dataclass(frozen=True)
class Side:
    """One side of a pair: its run, and the CPU seconds of the process that asks PostgreSQL."""

    run: Run
    cpu_s: float

    @property
    def cpu_ms(self) -> float:
        """CPU time of a request, in milliseconds."""
        return self.cpu_s / len(self.run.latencies_ms) * 1000


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure both sizes at 1 and at 16 clients."""
    slow = PLANTED if planted else None
    with scratch_dir() as root, Service(root / "data", settings=_SETTINGS, planted=slow) as service:
        return run(_measure(service, pairs=9 if quick else 21, share=6 if quick else 3))


async def _measure(service: Service, *, pairs: int, share: int) -> Report:
    report = Report([])
    rng = np.random.default_rng(11)
    async with _by_hand(service) as pool:
        for memories, counts in _QUERIES.items():
            user_id = f"cold-{memories}"
            async with connections(service.address, 1) as (connection,):
                await fill(connection, user_id, memories, rng)
            await pool.settle()
            for clients, searches in counts.items():
                async with connections(service.address, clients) as opened:
                    measured = await _pairs(service, opened, pool, user_id, rng, searches // share, pairs)
                _add(report, memories, clients, measured)
    return report


async def _pairs(
    service: Service,
    opened: list[Connection],
    pool: _Pool,
    user_id: str,
    rng: np.random.Generator,
    searches: int,
    pairs: int,
) -> list[tuple[Side, Side]]:
    search_by_hand = await pool.searcher(user_id)

    async def subject(_number: int) -> Side:
        requests = [_request(user_id, vector) for vector in unit_vectors(rng, searches)]
        before_s = service.worker_cpu_s()
        done = await closed_loop(requests, [_sender(connection) for connection in opened])
        return Side(done, service.worker_cpu_s() - before_s)

    async def floor(_number: int) -> Side:
        vectors = list(unit_vectors(rng, searches))
        before_s = time.process_time()
        done = await closed_loop(vectors, [search_by_hand] * len(opened))
        return Side(done, time.process_time() - before_s)

    await interleaved(subject, floor, 1)
    return await interleaved(subject, floor, pairs)


def _request(user_id: str, vector: NDArray[np.float32]) -> bytes:
    body = {"user_id": user_id, "embedding": base64.b64encode(vector.tobytes()).decode(), "limit": LIMIT}
    return encode("POST", "/v1/search", body)


def _sender(connection: Connection) -> Callable[[bytes], Awaitable[None]]:
    async def send(request: bytes) -> None:
        status, body = await connection.send(request)
        if status != 200:
            raise RuntimeError(f"a search was answered with {status}: {body[:300]!r}")
        if b"memfast-tier: cold" not in connection.head:
            raise RuntimeError(f"a search was not cold: {connection.head!r}")

    return send


class _Pool:
    """Connections that clients take first come, first served: what a pool is, without what a pool costs."""

    def __init__(self, opened: list[Any]) -> None:
        self._free = list(opened)
        self._turn = asyncio.Semaphore(len(opened))

    async def settle(self) -> None:
        """Let PostgreSQL do now what it would else do while the clock runs."""
        await self._free[0].execute("VACUUM ANALYZE memories")
        await self._free[0].execute("VACUUM ANALYZE memory_vectors")

    async def searcher(self, user_id: str) -> Callable[[NDArray[np.float32]], Awaitable[None]]:
        """A client that searches a user's memories."""
        row = await self._free[0].fetchrow("SELECT scope_id, generation FROM scopes WHERE user_id = $1", user_id)

        async def search(vector: NDArray[np.float32]) -> None:
            async with self._turn:
                connection = self._free.pop()
                rows = await connection.fetch(READ.nearest, *row, vector, LIMIT + SLACK, datetime.now(UTC))
                self._free.append(connection)
            assert len(rows) == LIMIT + SLACK

        return search


@asynccontextmanager
async def _by_hand(service: Service) -> Any:
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(POOL):
            connection = await connect(service.database(), connect_timeout_s=5.0, command_timeout_s=60.0)
            stack.push_async_callback(connection.close)
            opened.append(connection)
        yield _Pool(opened)


def _add(report: Report, memories: int, clients: int, measured: list[tuple[Side, Side]]) -> None:
    subjects, floors = ([pair[side] for pair in measured] for side in (0, 1))
    name = f"cold search of {memories:,}, {clients} client{'s' * (clients > 1)}"
    ratio = median_ratio([side.run.per_second for side in subjects], [side.run.per_second for side in floors])
    gate = GATE if clients == _GATED_CLIENTS else None
    report.figures.append(Figure(f"{name}: requests/s ÷ SQL by hand", ratio, at_least=gate))
    rows = {"over HTTP": _summary(subjects), "SQL by hand": _summary(floors)}
    report.details[name] = rows
    print(name)
    head = ("", *next(iter(rows.values())))
    print_table(head, [(side, *map(number, summary.values())) for side, summary in rows.items()])


def _summary(sides: list[Side]) -> dict[str, float]:
    return {
        "requests/s": statistics.median(side.run.per_second for side in sides),
        "p50 ms": statistics.median(side.run.percentile_ms(50) for side in sides),
        "p99 ms": statistics.median(side.run.percentile_ms(99) for side in sides),
        "CPU ms/request": statistics.median(side.cpu_ms for side in sides),
    }


def main() -> int:
    """Run from the command line; 1 when the gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
