"""Import over HTTP beside COPY of the same rows, and searches while an import runs beside searches alone.

    python -m bench.transfer [--quick] [--planted] [--json FILE]

The floor of an import is what PostgreSQL takes for the rows alone: memories, vectors and an event of history for every
second memory, each table by COPY with all its indexes, a thousand memories a transaction. Over HTTP the same rows come
as lines of JSON. Every request of both sides fills a user of its own.

Searches are new ones, by vector, of a warm user, a hundred a second whether or not they are answered; imports of other
users follow each other meanwhile, sent by a thread that holds no lock while it sends.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import itertools
import statistics
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import numpy as np

from bench.harness.corpus import fill, sentences, unit_vectors
from bench.harness.load import JSON, Run, call, closed_loop, connections, encode, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.planted_lines import PlantedLines
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Service, scratch_dir
from bench.harness.turns import open_loop
from memfast.store.pool import connect
from memfast.store.queries import WRITE
from memfast.store.records import MEMORY_COLUMNS, VECTOR_COLUMNS
from memfast.store.texts import hash_text

__all__ = ["measure"]

COPY_GATE = 0.4
"""The least share of the memories per second that COPY takes."""

SEARCH_FACTOR, SEARCH_MS = 3.0, 5.0
"""What a search may take while an import runs: so many times its time alone, and so many milliseconds."""

MEMORIES = 5000
STEP = 1000
RATE = 100.0
PLANTED = PlantedLines(0.002)
_SEARCHED = 2000
_HISTORY_COLUMNS = (
    *("scope_id", "id", "version", "event", "at", "superseded_at", "text", "kind", "tags", "entities", "importance"),
    *("metadata", "created_at", "updated_at"),
)
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_user_numbers = itertools.count()


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure against COPY, then searches with and without imports."""
    with scratch_dir() as root, Service(root / "data", planted=PLANTED if planted else None) as service:
        report = Report([])
        texts, body = _file()
        run(_against_copy(service, report, texts, body, pairs=3 if quick else 7))
        run(_searches(service, report, body, pairs=3 if quick else 7, seconds=5 if quick else 10))
        return report


def _file() -> tuple[list[str], bytes]:
    """Texts, and as an export has them: every second memory was changed once. Lines name no user."""
    rng = np.random.default_rng(21)
    texts = sentences(rng, MEMORIES)
    lines: list[dict[str, Any]] = []
    first = uuid.UUID("01980000-0000-7000-8000-000000000000").int
    for position, (text, vector) in enumerate(zip(texts, unit_vectors(rng, MEMORIES), strict=True)):
        own = {"id": uuid.UUID(int=first + position), "kind": "fact", "importance": 0.5, "created_at": _BEGIN}
        embedding = base64.b64encode(vector.tobytes()).decode()
        memory = {"type": "memory", "text": text, "version": 2 * position + 2, "updated_at": _BEGIN, **own}
        lines.append({**memory, "embedding": embedding})
        if position % 2:
            event = {"event": "created", "at": _BEGIN, "superseded_at": _BEGIN + timedelta(days=1)}
            past = {"type": "history", "text": text + " once", "version": 2 * position + 1, "updated_at": _BEGIN}
            lines.append({**past, **own, **event})
    return texts, msgspec.json.Encoder().encode_lines(lines)


async def _against_copy(service: Service, report: Report, texts: Sequence[str], body: bytes, *, pairs: int) -> None:
    vectors = unit_vectors(np.random.default_rng(21), MEMORIES)
    database = await connect(service.database(), connect_timeout_s=5.0, command_timeout_s=60.0)
    cpu_us: list[float] = []

    async def over_http(_number: int) -> Run:
        before_s = service.worker_cpu_s()
        done = await closed_loop([_next_user()], [partial(asyncio.to_thread, _import, service.address, body)])
        cpu_us.append((service.worker_cpu_s() - before_s) / MEMORIES * 1e6)
        return done

    async def by_copy(_number: int) -> Run:
        tables = [_records(texts, vectors)]
        return await closed_loop(tables, [partial(_copy, database)])

    try:
        await interleaved(over_http, by_copy, 1)
        cpu_us.clear()
        measured = await interleaved(over_http, by_copy, pairs)
        counts = await database.fetch(
            "SELECT (SELECT count(*) FROM memories), (SELECT count(*) FROM memory_vectors), (SELECT count(*) FROM history)"
        )
        sides = 2 * (pairs + 1)
        assert tuple(counts[0]) == (sides * MEMORIES, sides * MEMORIES, sides * MEMORIES // 2), counts
    finally:
        await database.close()
    per_second = {
        name: [MEMORIES * done[side].per_second for done in measured] for side, name in enumerate(("import", "COPY"))
    }
    ratio = median_ratio(per_second["import"], per_second["COPY"])
    report.figures.append(Figure("import: memories/s ÷ COPY", ratio, at_least=COPY_GATE))
    report.details["copy"] = {name: statistics.median(values) for name, values in per_second.items()}
    report.details["worker CPU us a memory"] = statistics.median(cpu_us)
    print(f"import of {MEMORIES:,} memories with their vectors and {MEMORIES // 2:,} events of history")
    rows = [(name, number(value)) for name, value in report.details["copy"].items()]
    print_table(("", "memories/s"), [*rows, ("worker CPU, µs a memory", number(statistics.median(cpu_us)))])


async def _searches(service: Service, report: Report, body: bytes, *, pairs: int, seconds: int) -> None:
    rng = np.random.default_rng(22)
    count = int(RATE * seconds)
    async with connections(service.address, 1) as (connection,):
        await fill(connection, "reader", _SEARCHED, rng)
        for vector in unit_vectors(rng, 4):
            await call(connection, "POST", "/v1/search", {"user_id": "reader", "embedding": vector.tolist()})
    imports: list[int] = []

    async def alone(_number: int) -> Run:
        async with connections(service.address, 16) as opened:
            return await open_loop(opened, _queries(rng, count), RATE)

    async def beside(_number: int) -> Run:
        with _importing(service.address, body) as done:
            measured = await alone(0)
        imports.append(len(done))
        return measured

    await interleaved(beside, alone, 1)
    imports.clear()
    measured = await interleaved(beside, alone, pairs)
    assert min(imports) > 0, "no import ran"
    p99 = [(one.percentile_ms(99), other.percentile_ms(99)) for one, other in measured]
    used = statistics.median(one / (SEARCH_FACTOR * other + SEARCH_MS) for one, other in p99)
    report.figures.append(
        Figure(f"search p99 during an import ÷ ({SEARCH_FACTOR:g} x alone + {SEARCH_MS:g} ms)", used, at_most=1.0)
    )
    table = []
    for percent in (50, 90, 99):
        pair = [statistics.median(done[side].percentile_ms(percent) for done in measured) for side in (1, 0)]
        report.details[f"search p{percent} ms"] = pair
        table.append((f"p{percent}", *map(number, pair)))
    print(f"searches at {RATE:g}/s, alone and beside imports ({sum(imports)} in all), ms")
    print_table(("", "alone", "beside"), table)


def _queries(rng: np.random.Generator, count: int) -> list[bytes]:
    return [
        encode("POST", "/v1/search", {"user_id": "reader", "embedding": vector.tolist()}, media_type=JSON)
        for vector in unit_vectors(rng, count)
    ]


@contextmanager
def _importing(address: tuple[str, int], body: bytes) -> Iterator[list[str]]:
    """Imports, one after another, until the block ends; gives the users that were filled."""
    ended, filled = threading.Event(), list[str]()

    def work() -> None:
        while not ended.is_set():
            user_id = _next_user()
            _import(address, body, user_id)
            filled.append(user_id)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield filled
    finally:
        ended.set()
        thread.join()


def _import(address: tuple[str, int], body: bytes, user_id: str) -> None:
    connection = http.client.HTTPConnection(*address, timeout=120)
    try:
        connection.request("POST", f"/v1/import?user_id={user_id}", body, {"content-type": "application/x-ndjson"})
        answer = connection.getresponse()
        report = msgspec.json.decode(answer.read())
        if answer.status != 200 or report["created"] != MEMORIES or report["history"] != MEMORIES // 2:
            raise RuntimeError(f"an import was answered with {answer.status}: {report}")
    finally:
        connection.close()


def _next_user() -> str:
    return f"import-{next(_user_numbers)}"


def _records(texts: Sequence[str], vectors: np.ndarray[Any, np.dtype[np.float32]]) -> list[tuple[Any, ...]]:
    """What the service would write, a part for each transaction: scope, memories, vectors, history."""
    scope_id, first = uuid.uuid4(), uuid.uuid4().int >> 64 << 64
    user_id = _next_user()
    parts = []
    for start in range(0, MEMORIES, STEP):
        memories: list[tuple[Any, ...]] = []
        rows: list[tuple[Any, ...]] = []
        history: list[tuple[Any, ...]] = []
        for position in range(start, start + STEP):
            own, text = uuid.UUID(int=first + position), texts[position]
            said = (text, "fact", [], [], 0.5, b"{}", None, None, None, _BEGIN, _BEGIN, None)
            memories.append((scope_id, own, 2 * position + 2, *said, hash_text(text), None, None, None))
            rows.append((scope_id, 1, own, None, vectors[position]))
            if position % 2:
                event = ("created", _BEGIN, _BEGIN + timedelta(days=1), text + " once", "fact", [], [], 0.5, b"{}")
                history.append((scope_id, own, 2 * position + 1, *event, _BEGIN, _BEGIN))
        scope = (scope_id, "default", user_id, 1, STEP, STEP, _BEGIN, _BEGIN, True)
        parts.append((scope, memories, rows, history))
    return parts


async def _copy(database: Any, parts: list[tuple[Any, ...]]) -> None:
    for scope, memories, vectors, history in parts:
        async with database.transaction():
            await database.fetchrow(WRITE.raise_version, *scope)
            await database.copy_records_to_table("memories", records=memories, columns=MEMORY_COLUMNS)
            await database.copy_records_to_table("memory_vectors", records=vectors, columns=VECTOR_COLUMNS)
            await database.copy_records_to_table("history", records=history, columns=_HISTORY_COLUMNS)


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
