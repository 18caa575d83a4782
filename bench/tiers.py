"""What the copies are worth, and how long each operation takes.

    python -m bench.tiers [--quick] [--planted] [--json FILE]

One service, one user of 10,000 memories. The same search hot, warm and cold: a question that was asked before, a new
one of a user in memory, a new one of a user who is not (`index.memory_mb = 0`). Warm and cold
are gated for one client: with more, cold searches run in PostgreSQL's processes on both cores, and warm ones in one
worker on one. A listing kept and not: the same one again, and others of about its size. A text embedded before and not, in this process. SQL statements that 1,000
repeated reads take, by PostgreSQL's own count. Then percentiles of each operation at 16 clients, for reading beside
100, 50 and 100 ms.
"""

from __future__ import annotations

import base64
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np

from bench.harness.corpus import fill, sentences, unit_vectors
from bench.harness.load import Connection, call, closed_loop, connections, encode, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, options, print_table
from bench.harness.service import Planted, Service, scratch_dir
from bench.harness.turns import Turn, take_turn
from memfast.embedding.wordllama import WordLlamaEmbedder
from memfast.kernels import ByteCache
from memfast.resilience.clock import SystemClock
from memfast.service.embeddings import CachedEmbedder

__all__ = ["measure"]

USER = "u"
CLIENTS = 4
OPERATION_CLIENTS = 16
ROWS = 10_000
HOT_GATE, WARM_GATE, LIST_GATE, EMBEDDING_GATE, STATEMENTS_GATE = 20, 10, 10, 20, 0.1
EMBEDDING_BATCH_GATE = 3
PLANTED = Planted(request_s=2e-3)


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure with a service that keeps users in memory and one that does not, then the embedder alone."""
    pairs, rows = (3, ROWS) if quick else (7, ROWS)
    report = Report([])
    with scratch_dir() as scratch:
        run(_searches(scratch, report, pairs, rows, PLANTED if planted else None))
    report.figures.extend([run(_embeddings(pairs)), run(_embedding_batch(pairs))])
    return report


async def _searches(scratch: Path, report: Report, pairs: int, rows: int, slow: Planted | None) -> None:
    keeping = Service(scratch / "keeping", planted=slow)
    without = Service(scratch / "without", settings=("--set", "index.memory_mb=0"))
    with keeping, without:
        rng = np.random.default_rng(1)
        for service in (keeping, without):
            async with connections(service.address, 1) as (connection,):
                await fill(connection, USER, rows, np.random.default_rng(7))
        async with connections(keeping.address, 1) as (connection,):
            await call(connection, "POST", "/v1/warm", {"users": [USER]})
        report.figures.extend(await _tiers(keeping, without, pairs, rng))
        report.figures.append(await _listings(keeping, pairs))
        report.figures.append(await _statements(keeping, without))
        report.details["operations"] = await _operations(keeping, rng)


def _search(vector: Any) -> bytes:
    embedding = base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return encode("POST", "/v1/search", {"user_id": USER, "embedding": embedding})


async def _turn(
    service: Service, requests: Sequence[bytes], tier: bytes, strays: float = 0.02, clients: int = CLIENTS
) -> Turn:
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(connections(service.address, clients))
        return await take_turn(service, opened, requests, tier, strays=strays)


async def _tiers(keeping: Service, without: Service, pairs: int, rng: np.random.Generator) -> list[Figure]:
    """Requests per second hot, warm and cold, in turns."""
    question = _search(unit_vectors(rng, 1)[0])
    await _turn(keeping, [question] * 5, b"", 1.0)

    async def hot(_pair: int) -> Turn:
        return await _turn(keeping, [question] * 2000, b"hot")

    def warm(clients: int) -> Callable[[int], Awaitable[Turn]]:
        async def turn(_pair: int) -> Turn:
            return await _turn(keeping, [_search(v) for v in unit_vectors(rng, 400)], b"warm", clients=clients)

        return turn

    def cold(clients: int) -> Callable[[int], Awaitable[Turn]]:
        async def turn(_pair: int) -> Turn:
            return await _turn(without, [_search(v) for v in unit_vectors(rng, 60)], b"cold", clients=clients)

        return turn

    hot_cold = await interleaved(hot, cold(CLIENTS), pairs)
    warm_cold = await interleaved(warm(1), cold(1), pairs)
    warm_cold_many = await interleaved(warm(CLIENTS), cold(CLIENTS), pairs)

    def ratio(turns: list[tuple[Turn, Turn]]) -> float:
        return median_ratio([a.run.per_second for a, _ in turns], [b.run.per_second for _, b in turns])

    return [
        Figure("recall hot ÷ cold, requests/s", ratio(hot_cold), at_least=HOT_GATE),
        Figure("recall warm ÷ cold, 1 client, requests/s", ratio(warm_cold), at_least=WARM_GATE),
        Figure("recall warm ÷ cold, 4 clients, requests/s", ratio(warm_cold_many)),
    ]


async def _listings(service: Service, pairs: int) -> Figure:
    """A listing of 100 memories kept, and the same one computed: each request asks for one more."""
    kept = encode("GET", f"/v1/memories?user_id={USER}&limit=100")
    await _turn(service, [kept] * 5, b"", 1.0)
    full = [encode("GET", f"/v1/memories?user_id={USER}&limit={101 + n}") for n in range(pairs * 40)]

    async def again(_pair: int) -> Turn:
        return await _turn(service, [kept] * 2000, b"hot")

    async def anew(pair: int) -> Turn:
        return await _turn(service, full[pair * 40 : (pair + 1) * 40], b"cold")

    turns = await interleaved(again, anew, pairs)
    ratio = median_ratio([a.run.per_second for a, _ in turns], [b.run.per_second for _, b in turns])
    return Figure("list kept ÷ computed, requests/s", ratio, at_least=LIST_GATE)


async def _statements(keeping: Service, without: Service) -> Figure:
    """Statements that the same 1,000 reads take, by transactions that PostgreSQL counted."""
    questions = [_search(vector) for vector in unit_vectors(np.random.default_rng(3), 20)]
    spent = []
    for service, reads in ((keeping, questions * 50), (without, [_search(v) for v in _distinct(1000)])):
        connection = await asyncpg.connect(**service.database())
        before = await _transactions(connection)
        await _turn(service, reads, b"", 1.0)
        spent.append(await _transactions(connection) - before)
        await connection.close()
    return Figure("statements for 1,000 reads, with copies ÷ without", spent[0] / spent[1], at_most=STATEMENTS_GATE)


def _distinct(count: int) -> Any:
    return unit_vectors(np.random.default_rng(4), count)


async def _transactions(connection: Any) -> int:
    await connection.execute("SELECT pg_stat_force_next_flush()")
    query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    return int(await connection.fetchval(query))


async def _embeddings(pairs: int) -> Figure:
    """A text of 40 sentences that is held, and the same model asked for new ones."""
    cache = ByteCache(64 << 20, entry_limit=100_000, ttl_ns=10**12, idle_ns=10**12)
    embedder = CachedEmbedder(WordLlamaEmbedder(), cache, SystemClock())
    texts = [" ".join(sentences(np.random.default_rng(seed), 40)) for seed in range(200 * pairs)]
    held = texts[0]
    await embedder.embed([held])

    async def rate(batch: Sequence[str]) -> float:
        began = time.perf_counter()
        for text in batch:
            await embedder.embed([text])
        return len(batch) / (time.perf_counter() - began)

    async def again(_pair: int) -> float:
        return await rate([held] * 2000)

    async def anew(pair: int) -> float:
        return await rate(texts[pair * 200 + 1 : (pair + 1) * 200])

    turns = await interleaved(again, anew, pairs)
    ratio = median_ratio([a for a, _ in turns], [b for _, b in turns])
    await embedder.close()
    return Figure("embedding held ÷ made, texts/s", ratio, at_least=EMBEDDING_GATE)


async def _embedding_batch(pairs: int) -> Figure:
    """100 texts of which half are held, in one batch, and as many new ones, one by one."""
    cache = ByteCache(64 << 20, entry_limit=100_000, ttl_ns=10**12, idle_ns=10**12)
    embedder = CachedEmbedder(WordLlamaEmbedder(), cache, SystemClock())
    texts = itertools.cycle(sentences(np.random.default_rng(11), 1000))
    numbers = itertools.count()

    def some(count: int) -> list[str]:
        return [f"{next(texts)} {next(numbers)}" for _ in range(count)]

    async def together(_pair: int) -> float:
        held = some(50)
        await embedder.embed(held)
        batch = held + some(50)
        began = time.perf_counter()
        await embedder.embed(batch)
        return len(batch) / (time.perf_counter() - began)

    async def one_by_one(_pair: int) -> float:
        singles = some(100)
        began = time.perf_counter()
        for text in singles:
            await embedder.embed([text])
        return len(singles) / (time.perf_counter() - began)

    turns = await interleaved(together, one_by_one, pairs)
    ratio = median_ratio([a for a, _ in turns], [b for _, b in turns])
    await embedder.close()
    return Figure("100 embeddings, half held, in a batch ÷ one by one", ratio, at_least=EMBEDDING_BATCH_GATE)


async def _operations(service: Service, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Percentiles of each operation at 16 clients."""
    table = []
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(connections(service.address, OPERATION_CLIENTS))
        ids = [await _created(opened[0], text) for text in sentences(rng, 300)]
        batch = {"user_id": "ops", "memories": [{"text": text} for text in sentences(rng, 100)]}
        work = {
            "create": [encode("POST", "/v1/memories", {"user_id": "ops", "text": t}) for t in sentences(rng, 300)],
            "get": [encode("GET", f"/v1/memories/{i}?user_id=ops") for i in ids],
            "patch": [encode("PATCH", f"/v1/memories/{i}?user_id=ops", {"text": "changed"}) for i in ids],
            "search": [encode("POST", "/v1/search", {"user_id": "ops", "query": t}) for t in sentences(rng, 300)],
            "delete": [encode("DELETE", f"/v1/memories/{i}?user_id=ops") for i in ids],
            "batch of 100": [encode("POST", "/v1/memories/batch", batch)] * 50,
        }
        for name, requests in work.items():
            latencies = await _latencies(opened, requests)
            row = {f"p{p}": float(np.percentile(latencies, p)) for p in (50, 95, 99)}
            table.append({"operation": name, "wanted_ms": {"search": 50, "batch of 100": 10_000}.get(name, 100), **row})
    rows = [(r["operation"], *(f"{r[p]:.1f}" for p in ("p50", "p95", "p99")), f"{r['wanted_ms']}") for r in table]
    print("milliseconds at 16 clients")
    print_table(("operation", "p50", "p95", "p99", "wanted p99"), rows)
    return table


async def _latencies(opened: Sequence[Connection], requests: Sequence[bytes]) -> Any:
    def client(connection: Connection) -> Any:
        async def send(request: bytes) -> None:
            status, body = await connection.send(request)
            if status >= 300:
                raise RuntimeError(f"answered with {status}: {body[:300]!r}")

        return send

    return (await closed_loop(requests, [client(connection) for connection in opened])).latencies_ms


async def _created(connection: Connection, text: str) -> str:
    answer = await call(connection, "POST", "/v1/memories", {"user_id": "ops", "text": text})
    return str(answer["id"])


if __name__ == "__main__":
    chosen = options(__doc__)
    sys.exit(finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json))
