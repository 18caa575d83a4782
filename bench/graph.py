"""Walks over links over HTTP beside the same statement by hand, and links made in batches beside single ones.

    python -m bench.graph [--neo4j] [--quick] [--planted] [--json FILE]

The user has 10,000 memories and 100,000 links. Each walk is two links deep, gives a hundred memories, and starts where none
has started before, so nothing that is kept can answer it. The floor runs the service's own statement on one connection
to the same server and fetches every column. With --neo4j a service with a Neo4j of its own walks there, beside
the same Cypher by hand; the service then reads those memories from PostgreSQL too, the floor has ids alone.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import neo4j
import numpy as np

from bench.harness.corpus import BATCH_ITEMS, fill
from bench.harness.load import Connection, Run, call, closed_loop, connections, encode, run
from bench.harness.neo4j_server import Neo4jServer, missing_reason
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Planted, Service, scratch_dir
from memfast.graph.queries import walk_statement
from memfast.links import FANOUT_LINKS, LEVEL_MEMORIES
from memfast.store.pool import connect
from memfast.store.queries import LINKS

__all__ = ["measure"]

WALK_GATE = 1.5
"""The longest that a walk over HTTP may take, in times of its statement by hand."""

BATCH_GATE = 8.0
"""How many times faster links must be made in requests of `BATCH` than one by one."""

MEMORIES, LINKED = 10_000, 100_000
DEPTH, LIMIT = 2, 100
BATCH, SINGLES = 100, 100
BATCHED = 1000
PLANTED = Planted(request_s=0.02)
_USER, _WRITER = "walked", "linked"
_BEGIN_S = 240.0
_NEO4J_READ_S = 10.0

_Walk = Callable[[str], Awaitable[None]]


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure walks of PostgreSQL, and batches."""
    pairs, walks = (9, 30) if quick else (35, 50)  # short turns: what disturbs the machine falls on both sides
    with scratch_dir() as root, Service(root / "data", planted=PLANTED if planted else None) as service:
        report = Report([])
        run(_over_postgres(service, report, pairs, walks))
        run(_batches(service, report, rounds=3 if quick else 7, split=planted))
        return report


def measure_neo4j(*, quick: bool = False) -> Report:
    """Measure walks of a Neo4j of its own.

    Raises:
        SystemExit: there can be none here.
    """
    if reason := missing_reason():
        raise SystemExit(reason)
    pairs, walks = (5, 30) if quick else (19, 50)
    with scratch_dir() as root, Neo4jServer(root / "neo4j") as server:
        settings = {"uri": server.uri, "user": server.user, "password": server.password}
        settings |= {"read_timeout_s": str(_NEO4J_READ_S)}
        words = itertools.chain.from_iterable(("--set", f"graph.{key}={value}") for key, value in settings.items())
        with Service(root / "data", settings=tuple(words)) as service:
            report = Report([])
            run(_over_neo4j(service, server, report, pairs, walks))
            return report


async def _over_postgres(service: Service, report: Report, pairs: int, walks: int) -> None:
    async with connections(service.address, 1) as (connection,), _database(service) as database:
        starts = await _filled(connection, database)
        await database.execute("VACUUM ANALYZE links")
        await database.execute("VACUUM ANALYZE memories")
        scope_id = await database.fetchval("SELECT scope_id FROM scopes WHERE user_id = $1", _USER)

        async def by_hand(start: str) -> None:
            values = (UUID(start), datetime.now(UTC), DEPTH, LIMIT, None, 0.0, FANOUT_LINKS, LEVEL_MEMORIES, True)
            rows = await database.fetch(LINKS.related, scope_id, *values)
            assert len(rows) == LIMIT

        measured = await _compared(_over_http(connection, "postgresql"), by_hand, starts, pairs, walks)
    _add(report, "related, 100,000 links", "SQL by hand", measured)


async def _over_neo4j(service: Service, server: Neo4jServer, report: Report, pairs: int, walks: int) -> None:
    async with (
        connections(service.address, 1) as (connection,),
        _database(service) as database,
        neo4j.AsyncGraphDatabase.driver(
            server.uri,
            auth=(server.user, server.password),
            telemetry_disabled=True,
            notifications_min_severity="OFF",
        ) as driver,
        driver.session(database="neo4j", default_access_mode=neo4j.READ_ACCESS) as session,
    ):
        starts = await _filled(connection, database)
        scope_id = await database.fetchval("SELECT scope_id FROM scopes WHERE user_id = $1", _USER)
        statement = walk_statement(DEPTH, apoc=True)
        values = {"scope_id": str(scope_id), "limit": LIMIT, "only": {"type": None}, "min_weight": 0.0}
        values |= {"fanout": FANOUT_LINKS, "level": LEVEL_MEMORIES}

        async def by_hand(start: str) -> None:
            now = int(datetime.now(UTC).timestamp() * 1e6)
            result = await session.run(statement, values | {"start": start, "now": now})
            ((*_, levels),) = [record.values() async for record in result]
            assert sum(map(len, levels)) >= LIMIT

        async with asyncio.timeout(_BEGIN_S):
            while (await call(connection, "GET", _path(next(starts))))["engine"] != "neo4j":
                await asyncio.sleep(0.5)
        measured = await _compared(_over_http(connection, "neo4j"), by_hand, starts, pairs, walks)
    _add(report, "related by Neo4j, 100,000 links", "Cypher by hand", measured)


async def _compared(
    subject: _Walk, floor: _Walk, starts: Iterator[str], pairs: int, walks: int
) -> list[tuple[Run, Run]]:
    def side(walk: _Walk) -> Callable[[int], Awaitable[Run]]:
        return lambda _number: closed_loop(list(itertools.islice(starts, walks)), [walk])

    await interleaved(side(subject), side(floor), 1)
    return await interleaved(side(subject), side(floor), pairs)


async def _filled(connection: Connection, database: Any) -> Iterator[str]:
    """Make the user with memories and links; the memories in random order, each of which may be a start once."""
    chance = random.Random(21)
    await fill(connection, _USER, MEMORIES, np.random.default_rng(21))
    ids = await _ids(database, _USER)
    links = _links(ids, chance)
    for _ in range(LINKED // BATCH_ITEMS):
        await _send(connection, _batch(_USER, list(itertools.islice(links, BATCH_ITEMS))))
    return iter(chance.sample(ids, len(ids)))


async def _ids(database: Any, user_id: str) -> list[str]:
    rows = await database.fetch(
        "SELECT m.id FROM memories m JOIN scopes s USING (scope_id) WHERE s.user_id = $1 ORDER BY m.id", user_id
    )
    return [str(row["id"]) for row in rows]


def _links(ids: Sequence[str], chance: random.Random) -> Iterator[dict[str, Any]]:
    """Links, none of them twice."""
    made = set[tuple[str, str]]()
    while True:
        low, high = sorted(chance.sample(ids, 2))
        if (low, high) not in made:
            made.add((low, high))
            yield {"from_id": low, "to_id": high, "weight": round(chance.random(), 3)}


def _batch(user_id: str, links: Sequence[dict[str, Any]]) -> bytes:
    return encode("POST", "/v1/links/batch", {"user_id": user_id, "links": links})


def _path(start: str) -> str:
    return f"/v1/memories/{start}/related?user_id={_USER}&depth={DEPTH}&limit={LIMIT}"


def _over_http(connection: Connection, engine: str) -> _Walk:
    wanted = f'"engine":"{engine}"'.encode()

    async def walk(start: str) -> None:
        status, body = await connection.send(encode("GET", _path(start)))
        if status != 200 or wanted not in body:
            raise RuntimeError(f"a walk was answered with {status}, not by {engine}: {body[-300:]!r}")

    return walk


async def _send(connection: Connection, request: bytes) -> None:
    status, answer = await connection.send(request)
    if status >= 300 or b'"status":"error"' in answer:
        raise RuntimeError(f"a write of links was answered with {status}: {answer[:300]!r}")


async def _batches(service: Service, report: Report, *, rounds: int, split: bool) -> None:
    """Links per second of one connection each way. `split` is this figure's planted slow-down: batches of one."""
    async with connections(service.address, 1) as (connection,), _database(service) as database:
        await fill(connection, _WRITER, BATCH_ITEMS, np.random.default_rng(22))
        links = _links(await _ids(database, _WRITER), random.Random(22))

        async def batched(_number: int) -> float:
            size = 1 if split else BATCH
            count = SINGLES if split else BATCHED
            requests = [_batch(_WRITER, list(itertools.islice(links, size))) for _ in range(count // size)]
            return count / (await closed_loop(requests, [lambda each: _send(connection, each)])).seconds

        async def single(_number: int) -> float:
            bodies = [{"user_id": _WRITER} | link for link in itertools.islice(links, SINGLES)]
            requests = [encode("POST", "/v1/links", body) for body in bodies]
            return (await closed_loop(requests, [lambda each: _send(connection, each)])).per_second

        await interleaved(batched, single, 1)
        measured = await interleaved(batched, single, rounds)
    ratio = median_ratio([pair[0] for pair in measured], [pair[1] for pair in measured])
    report.figures.append(Figure(f"{BATCH} links in one batch: links/s ÷ one by one", ratio, at_least=BATCH_GATE))
    sides = {"batched": [pair[0] for pair in measured], "one by one": [pair[1] for pair in measured]}
    report.details["links"] = {name: statistics.median(values) for name, values in sides.items()}
    print_table(("", "links/s"), [(name, number(value)) for name, value in report.details["links"].items()])


def _add(report: Report, name: str, floor: str, measured: list[tuple[Run, Run]]) -> None:
    over_http, by_hand = ([pair[side].percentile_ms(50) for pair in measured] for side in (0, 1))
    figure = Figure(f"{name}: p50 ÷ {floor}", median_ratio(over_http, by_hand), at_most=WALK_GATE)
    report.figures.append(figure)
    p50_ms = {"over HTTP": statistics.median(over_http), floor: statistics.median(by_hand)}
    report.details[name] = {"p50_ms": p50_ms, "load": os.getloadavg()[0]}
    print(f"{name}: {DEPTH} deep, {LIMIT} memories, at a load of {os.getloadavg()[0]:.1f}")
    print_table(("", "p50 ms"), [(side, number(value)) for side, value in p50_ms.items()])


@asynccontextmanager
async def _database(service: Service) -> AsyncIterator[Any]:
    connection = await connect(service.database(), connect_timeout_s=5.0, command_timeout_s=60.0)
    try:
        yield connection
    finally:
        await connection.close()


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--neo4j", action="store_true", help="walks of a Neo4j instead")


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__, _arguments)
    if chosen.neo4j:
        return finish(measure_neo4j(quick=chosen.quick), chosen.json)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
