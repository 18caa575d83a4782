"""Batch create over HTTP beside COPY of the same rows, and beside one memory at a time.

    python -m bench.batch_create [--quick] [--planted] [--json FILE]

The floor is what PostgreSQL takes for the rows alone: in one transaction raise the scope's version and COPY a
thousand rows into `memories` and a thousand into `memory_vectors`, on the service's own server. Over HTTP the same
thousand come as msgpack with their vectors, are checked, and each is answered for. Every request of both sides
fills a user of its own.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.corpus import sentences, unit_vectors
from bench.harness.load import JSON, MSGPACK, Connection, Run, closed_loop, connections, encode, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Planted, Service, scratch_dir
from memfast.store.pool import connect
from memfast.store.queries import WRITE
from memfast.store.texts import hash_text

__all__ = ["measure"]

COPY_GATE = 0.4
"""The least share of the rows per second that COPY takes."""

SINGLES_GATE = 6.7
"""How many times faster 100 memories must be in one batch than one by one."""

ROWS = 1000
PLANTED = Planted(request_s=0.1)
_GATED_BATCH = 100
_BATCHES = (1, 10, 50, 100, 1000)
_MEMORY_COLUMNS = (
    *("scope_id", "id", "version", "text", "kind", "tags", "entities", "importance", "metadata"),
    *("agent_id", "run_id", "source", "created_at", "updated_at", "expires_at", "text_hash"),
)
_VECTOR_COLUMNS = ("scope_id", "generation", "id", "expires_at", "embedding")

_user_numbers = itertools.count()


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure against COPY, then batches of several sizes against single creates."""
    with scratch_dir() as root, Service(root / "data", planted=PLANTED if planted else None) as service:
        report = Report([])
        run(_against_copy(service, report, pairs=3 if quick else 9, requests=4 if quick else 10))
        run(_against_singles(service, report, rounds=3 if quick else 7, split=planted))
        return report


async def _against_copy(service: Service, report: Report, *, pairs: int, requests: int) -> None:
    rng = np.random.default_rng(12)
    database = await connect(service.database(), connect_timeout_s=5.0, command_timeout_s=60.0)
    cpu_ms: list[float] = []
    try:
        async with connections(service.address, 1) as (connection,):

            async def over_http(_number: int) -> Run:
                bodies = [_batch(sentences(rng, ROWS), unit_vectors(rng, ROWS)) for _ in range(requests)]
                before_s = service.worker_cpu_s()
                done = await closed_loop(bodies, [partial(_send, connection)])
                cpu_ms.append((service.worker_cpu_s() - before_s) / requests * 1000)
                return done

            async def by_copy(_number: int) -> Run:
                tables = [_records(sentences(rng, ROWS), unit_vectors(rng, ROWS)) for _ in range(requests)]
                return await closed_loop(tables, [partial(_copy, database)])

            await interleaved(over_http, by_copy, 1)
            cpu_ms.clear()
            measured = await interleaved(over_http, by_copy, pairs)
        counts = await database.fetch("SELECT count(*) FROM memories GROUP BY scope_id")
        assert {row[0] for row in counts} == {ROWS}, "a side has not stored all of its rows"
    finally:
        await database.close()
    sides = {"over HTTP": [pair[0] for pair in measured], "COPY": [pair[1] for pair in measured]}
    rows_per_s = {name: [ROWS * done.per_second for done in runs] for name, runs in sides.items()}
    ratio = median_ratio(rows_per_s["over HTTP"], rows_per_s["COPY"])
    report.figures.append(Figure("batch create: rows/s ÷ COPY", ratio, at_least=COPY_GATE))
    summary = {
        name: {
            "rows/s": statistics.median(rows_per_s[name]),
            "p50 ms": statistics.median(done.percentile_ms(50) for done in runs),
        }
        for name, runs in sides.items()
    }
    summary["over HTTP"]["worker CPU ms"] = statistics.median(cpu_ms)
    report.details["copy"] = summary
    print(f"batch create of {ROWS:,} memories with their vectors")
    print_table(
        ("", "rows/s", "p50 ms", "worker CPU ms"),
        [(name, *map(number, values.values()), *[""] * (3 - len(values))) for name, values in summary.items()],
    )


async def _against_singles(service: Service, report: Report, *, rounds: int, split: bool) -> None:
    """Texts as agents send them: JSON, embedded by the service. One connection, items per second of each way.

    `split` is this figure's planted slow-down: every batch goes out as batches of one.
    """
    rng = np.random.default_rng(13)
    per_second: dict[str, list[float]] = {}
    async with connections(service.address, 1) as (connection,):
        for _ in range(rounds):
            texts = sentences(rng, _GATED_BATCH)
            user_id = _next_user()
            singles = [encode("POST", "/v1/memories", {"user_id": user_id, "text": text}) for text in texts]
            done = await closed_loop(singles, [partial(_send, connection)])
            per_second.setdefault("one by one", []).append(done.per_second)
            for size in _BATCHES:
                rows, part = max(size, _GATED_BATCH), 1 if split else size
                batches = [_batch(sentences(rng, part)) for _ in range(rows // part)]
                done = await closed_loop(batches, [partial(_send, connection)])
                per_second.setdefault(f"batches of {size}", []).append(rows / done.seconds)
    singles_per_s = per_second["one by one"]
    ratios = {name: median_ratio(values, singles_per_s) for name, values in per_second.items()}
    gated = ratios[f"batches of {_GATED_BATCH}"]
    report.figures.append(Figure(f"{_GATED_BATCH} memories one by one ÷ in one batch", gated, at_least=SINGLES_GATE))
    report.details["singles"] = {
        name: {"items/s": statistics.median(values), "ratio": ratios[name]} for name, values in per_second.items()
    }
    print("creates by size of the batch, texts embedded by the service")
    rows = [(name, number(row["items/s"]), number(row["ratio"])) for name, row in report.details["singles"].items()]
    print_table(("", "items/s", "times one by one"), rows)


def _next_user() -> str:
    return f"batch-{next(_user_numbers)}"


def _batch(texts: Sequence[str], vectors: NDArray[np.float32] | None = None) -> bytes:
    items: list[dict[str, Any]] = [{"text": text} for text in texts]
    if vectors is not None:
        for item, vector in zip(items, vectors, strict=True):
            item["embedding"] = vector.tobytes()
    body = {"user_id": _next_user(), "memories": items}
    return encode("POST", "/v1/memories/batch", body, media_type=JSON if vectors is None else MSGPACK)


async def _send(connection: Connection, request: bytes) -> None:
    status, answer = await connection.send(request)
    if status >= 300 or b'"status":"error"' in answer:
        raise RuntimeError(f"a create was answered with {status}: {answer[:300]!r}")


def _records(texts: Sequence[str], vectors: NDArray[np.float32]) -> tuple[Any, ...]:
    """What the service would write for these memories: the values of its first statement, and two tables."""
    scope_id, now, first = uuid.uuid4(), datetime.now(UTC), uuid.uuid4().int >> 64 << 64
    ids = [uuid.UUID(int=first + position) for position in range(len(texts))]
    memories = [
        (scope_id, own, version, text, "fact", [], [], 0.5, b"{}", None, None, None, now, now, None, hash_text(text))
        for version, (own, text) in enumerate(zip(ids, texts, strict=True), 1)
    ]
    rows = [(scope_id, 1, own, None, vector) for own, vector in zip(ids, vectors, strict=True)]
    scope = (scope_id, "default", _next_user(), 1, len(texts), len(texts), now, now, True)
    return scope, memories, rows


async def _copy(database: Any, records: tuple[Any, ...]) -> None:
    scope, memories, vectors = records
    async with database.transaction():
        await database.fetchrow(WRITE.raise_version, *scope)
        await database.copy_records_to_table("memories", records=memories, columns=_MEMORY_COLUMNS)
        await database.copy_records_to_table("memory_vectors", records=vectors, columns=_VECTOR_COLUMNS)


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
