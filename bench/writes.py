"""Durable creates beside a loop that does the same SQL by hand, and what company is worth to them.

    python -m bench.writes [--quick] [--planted] [--json FILE]

The floor is what one writes without memfast: 64 connections to the service's own server, and for each create BEGIN, the
statement that raises the user's version, the one that inserts the memory with its vector, COMMIT. It checks, answers and
voids nothing. Printed beside it is the same as one statement that commits by itself, which keeps no count and no lock.
Over HTTP the same memories come as JSON with their vectors in base64, from 64 connections of as many users, to a
service as it is installed: one worker, four connections, every write flushed to the disk before it is answered.

Then the service beside itself: 64 clients ÷ one, the slowest hundredth ÷ the time in which each of 64 gets its turn, and
a hundred memories a request ÷ single ones, with vectors given and with texts that it embeds.
"""

from __future__ import annotations

import base64
import itertools
import statistics
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from bench.harness.corpus import sentences, unit_vectors
from bench.harness.load import Connection, Run, closed_loop, connections, encode, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Planted, Service, scratch_dir
from memfast.store.pool import connect
from memfast.store.queries import WRITE
from memfast.store.texts import hash_text

__all__ = ["measure"]

FLOOR_GATE = 1.5
"""The least multiple of the creates per second that the loop by hand commits."""
COMPANY_GATE = 3.0
"""How many times more creates per second 64 clients must get than one."""
FAIRNESS_GATE = 2.5
"""The most that the slowest hundredth may take, in turns: 64 clients ÷ creates per second."""
BATCH_GATES = {"vectors given": 8.0, "texts": 6.0}
"""How many times more memories per second batches must take than single creates of the same client."""

CLIENTS = 64
BATCH = 100
PLANTED = Planted(request_s=0.45, every=250)
"""A worker that stands still now and then: fewer creates, with company too, and 64 callers that wait for it."""

_ONE_STATEMENT = """
WITH raised AS (
    INSERT INTO scopes AS s (scope_id, namespace, user_id, generation, version, memories, created_at, updated_at)
    VALUES ($1, 'default', $22, $20, $3, 1, $13, $14)
    ON CONFLICT (scope_id) DO UPDATE SET version = s.version + 1, updated_at = EXCLUDED.updated_at
), vector AS (
    INSERT INTO memory_vectors (scope_id, generation, id, expires_at, embedding) VALUES ($1, $20, $2, $15, $21)
)
INSERT INTO memories (scope_id, id, version, text, kind, tags, entities, importance, metadata, agent_id, run_id,
                      source, created_at, updated_at, expires_at, text_hash, actor, event, event_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
"""

_user_numbers = itertools.count()


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure on a service of its own."""
    pairs, creates = (3, 2000) if quick else (7, 4000)
    report = Report([])
    with scratch_dir() as root, Service(root / "data", planted=PLANTED if planted else None) as service:
        run(_against_floor(service, report, pairs, creates))
        run(_company(service, report, pairs, creates))
        run(_batches(service, report, pairs, split=planted))
    return report


class _Memories:
    """Texts and vectors that nobody has sent yet."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def some(self, count: int) -> list[tuple[str, Any]]:
        """So many, each a text and a vector."""
        return list(zip(sentences(self._rng, count), unit_vectors(self._rng, count), strict=True))


async def _against_floor(service: Service, report: Report, pairs: int, creates: int) -> None:
    memories = _Memories(41)
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(connections(service.address, CLIENTS))
        by_hand = await stack.enter_async_context(_sessions(service, CLIENTS))
        cpu_us: list[float] = []

        async def over_http(_pair: int) -> Run:
            requests = _creates(memories.some(creates), CLIENTS)
            before_s = service.worker_cpu_s()
            done = await closed_loop(requests, [partial(_send, connection) for connection in opened])
            cpu_us.append((service.worker_cpu_s() - before_s) / creates * 1e6)
            return done

        async def loop(_pair: int) -> Run:
            return await closed_loop(_rows(memories.some(creates)), [partial(_transaction, own) for own in by_hand])

        async def one_statement(_pair: int) -> Run:
            return await closed_loop(_rows(memories.some(creates)), [partial(_statement, own) for own in by_hand])

        await interleaved(over_http, loop, 1)
        cpu_us.clear()
        measured = await interleaved(over_http, loop, pairs)
        single = [await one_statement(pair) for pair in range(pairs)]
    ratio = _ratio([pair[0] for pair in measured], [pair[1] for pair in measured])
    beside = _ratio([pair[0] for pair in measured], single)
    report.figures.append(Figure(f"creates/s ÷ SQL by hand, {CLIENTS} clients", ratio, at_least=FLOOR_GATE))
    report.figures.append(Figure(f"creates/s ÷ one statement each, {CLIENTS} clients", beside))
    sides = {"over HTTP": [a for a, _ in measured], "by hand": [b for _, b in measured], "one statement": single}
    report.details["floor"] = {
        name: {"creates/s": statistics.median(done.per_second for done in runs), **_percentiles(runs)}
        for name, runs in sides.items()
    }
    report.details["worker CPU us a create"] = statistics.median(cpu_us)
    print(f"durable creates, {CLIENTS} clients; worker CPU {number(statistics.median(cpu_us))} us a create")
    rows = [(name, *map(number, row.values())) for name, row in report.details["floor"].items()]
    print_table(("", "creates/s", "p50 ms", "p99 ms"), rows)


async def _company(service: Service, report: Report, pairs: int, creates: int) -> None:
    memories = _Memories(42)

    def clients(count: int, requests: int) -> Callable[[int], Awaitable[Run]]:
        async def turn(_pair: int) -> Run:
            bodies = _creates(memories.some(requests), count)
            async with connections(service.address, count) as opened:
                return await closed_loop(bodies, [partial(_send, connection) for connection in opened])

        return turn

    measured = (await interleaved(clients(CLIENTS, creates), clients(1, creates // 5), pairs + 1))[1:]
    many = [pair[0] for pair in measured]
    company = _ratio(many, [pair[1] for pair in measured])
    fairness = statistics.median(done.percentile_ms(99) / 1000 * done.per_second / CLIENTS for done in many)
    report.figures.append(Figure(f"creates/s, {CLIENTS} clients ÷ 1", company, at_least=COMPANY_GATE))
    name = f"p99 of creates ÷ ({CLIENTS} clients ÷ creates/s)"
    report.figures.append(Figure(name, fairness, at_most=FAIRNESS_GATE))
    report.details["one client, creates/s"] = statistics.median(pair[1].per_second for pair in measured)


async def _batches(service: Service, report: Report, pairs: int, *, split: bool) -> None:
    """`split` is this figure's planted slow-down: every batch goes out as batches of one."""
    memories = _Memories(43)
    size = 1 if split else BATCH
    async with connections(service.address, 1) as (connection,):
        send = [partial(_send, connection)]
        for name, gate in BATCH_GATES.items():
            given = name == "vectors given"

            async def singles(_pair: int, given: bool = given) -> float:
                return (await closed_loop(_creates(memories.some(300), 1, given=given), send)).per_second

            async def batches(_pair: int, given: bool = given) -> float:
                bodies = [_batch(memories.some(size), given=given) for _ in range(20 * BATCH // size)]
                return size * (await closed_loop(bodies, send)).per_second

            measured = (await interleaved(batches, singles, pairs + 1))[1:]
            ratio = median_ratio([a for a, _ in measured], [b for _, b in measured])
            report.figures.append(Figure(f"{BATCH} in a batch ÷ single creates, {name}", ratio, at_least=gate))
            report.details[f"batches, {name}"] = measured


def _ratio(above: Sequence[Run], below: Sequence[Run]) -> float:
    return median_ratio([done.per_second for done in above], [done.per_second for done in below])


def _percentiles(runs: Sequence[Run]) -> dict[str, float]:
    return {f"p{each}": statistics.median(done.percentile_ms(each) for done in runs) for each in (50, 99)}


def _creates(memories: Sequence[tuple[str, Any]], users: int, *, given: bool = True) -> list[bytes]:
    """Requests that create a memory each, for new users in turns."""
    names = itertools.cycle([_next_user() for _ in range(users)])
    return [
        encode("POST", "/v1/memories", {"user_id": name, **_item(text, vector, given=given)})
        for name, (text, vector) in zip(names, memories, strict=False)
    ]


def _batch(memories: Sequence[tuple[str, Any]], *, given: bool) -> bytes:
    items = [_item(text, vector, given=given) for text, vector in memories]
    return encode("POST", "/v1/memories/batch", {"user_id": _next_user(), "memories": items})


def _item(text: str, vector: Any, *, given: bool) -> dict[str, Any]:
    return {"text": text, **({"embedding": base64.b64encode(vector.tobytes()).decode()} if given else {})}


def _next_user() -> str:
    return f"writes-{next(_user_numbers)}"


async def _send(connection: Connection, request: bytes) -> None:
    status, answer = await connection.send(request)
    if status >= 300 or b'"status":"error"' in answer:
        raise RuntimeError(f"a create was answered with {status}: {answer[:300]!r}")


@asynccontextmanager
async def _sessions(service: Service, count: int) -> Any:
    """So many connections to the service's server, closed afterwards."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(count):
            session = await connect(service.database(), connect_timeout_s=10.0, command_timeout_s=60.0)
            stack.push_async_callback(session.close)
            opened.append(session)
        yield opened


def _rows(memories: Sequence[tuple[str, Any]]) -> list[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """The arguments of both statements of each create; as many users as clients, in turns."""
    now, first = datetime.now(UTC), uuid.uuid4().int >> 64 << 64
    users = itertools.cycle([(uuid.uuid4(), _next_user()) for _ in range(CLIENTS)])
    rows = []
    for position, (scope_id, user_id) in zip(range(len(memories)), users, strict=False):
        text, vector = memories[position]
        scope = (scope_id, "default", user_id, 1, 1, 1, now, now, True)
        said = (text, "fact", [], [], 0.5, b"{}", None, None, None, now, now, None, hash_text(text), None, None, None)
        rows.append((scope, (scope_id, uuid.UUID(int=first + position), position + 1, *said, 1, vector)))
    return rows


async def _transaction(session: Any, row: tuple[tuple[Any, ...], tuple[Any, ...]]) -> None:
    async with session.transaction():
        await session.fetchrow(WRITE.raise_version, *row[0])
        await session.execute(WRITE.insert_memory, *row[1])


async def _statement(session: Any, row: tuple[tuple[Any, ...], tuple[Any, ...]]) -> None:
    await session.execute(_ONE_STATEMENT, *row[1], row[0][2])


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
