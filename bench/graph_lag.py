"""How far the graph is behind the database while links are written, and what telling it costs a write.

    python -m bench.graph_lag [--quick] [--json FILE]

Clients send 500 links a second to a service with a Neo4j, in requests of ten, at their times whether the answers before
have come or not. From each acknowledgement on the graph is asked every few milliseconds until it has that version: its
lag, as whoever reads it would see it. Then the same writes, as fast as they go, to a service with a graph and to one
without, in turns.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import Iterator
from uuid import UUID

from bench.harness.load import Connection, call, closed_loop, connections, run
from bench.harness.neo4j_server import Neo4jServer, missing_reason
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Service, scratch_dir
from memfast.bootstrap.graph import open_graph
from memfast.config import load
from memfast.ports.projection import Projection
from memfast.resilience.clock import SystemClock
from memfast.store.embedded import Cluster
from memfast.store.pool import connect

__all__ = ["measure"]

LINKS_S = 500
BATCH = 10
LAG_GATE_S = 1.0
USERS, MEMORIES = 20, 100
CLIENTS = 8
_LOOK_S = 0.005
_PATIENCE_S = 60.0


def measure(*, quick: bool = False) -> Report:
    """Measure with a Neo4j of its own."""
    if reason := missing_reason():
        raise SystemExit(reason)
    with scratch_dir() as root, Neo4jServer(root / "neo4j") as neo4j:
        settings = {"graph.uri": neo4j.uri, "graph.user": neo4j.user, "graph.password": neo4j.password}
        words = tuple(itertools.chain.from_iterable(("--set", f"{key}={value}") for key, value in settings.items()))
        with Service(root / "with", settings=words) as service, Service(root / "without") as plain:
            config = load({}, flags=settings | {"graph.read_timeout_s": 10.0}).config

            async def measured() -> Report:
                async with open_graph(config, SystemClock()) as layer:
                    assert layer is not None
                    await _lag(
                        service, root / "with", layer.projection, seconds=5
                    )  # Neo4j plans and compiles what it is asked
                    report = await _lag(service, root / "with", layer.projection, seconds=5 if quick else 20)
                    report.figures.append(await _cost(service, plain, pairs=3 if quick else 7))
                    return report

            return run(measured())


class _Links:
    """Requests for links between memories that are there."""

    def __init__(self, ids: dict[str, list[str]], seed: int) -> None:
        self._ids = ids
        self._chance = random.Random(seed)

    def __iter__(self) -> Iterator[tuple[str, dict[str, object]]]:
        while True:
            user = self._chance.choice(list(self._ids))
            pairs = [self._chance.sample(self._ids[user], 2) for _ in range(BATCH)]
            links = [{"from_id": a, "to_id": b, "weight": round(self._chance.random(), 3)} for a, b in pairs]
            yield user, {"user_id": user, "links": links}


async def _filled(line: Connection) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    memories = [{"text": f"memory {turn}"} for turn in range(MEMORIES)]
    for user in (f"user {turn}" for turn in range(USERS)):
        answer = await call(line, "POST", "/v1/memories/batch", {"user_id": user, "memories": memories})
        ids[user] = [each["id"] for each in answer["results"]]
    return ids


async def _lag(service: Service, data_dir: object, projection: Projection, *, seconds: int) -> Report:
    lags_s: list[float] = []
    waiting: dict[UUID, list[tuple[int, float]]] = {}
    async with connections(service.address, CLIENTS) as lines:
        ids, scopes = await _filled(lines[0]), await _scopes(data_dir)
        work, free = iter(_Links(ids, 5)), asyncio.Queue[Connection]()
        for line in lines:
            free.put_nowait(line)

        async def send() -> None:
            line = await free.get()
            user, body = next(work)
            answer = await call(line, "POST", "/v1/links/batch", body)
            version = max(each.get("version", 0) for each in answer["results"])
            waiting.setdefault(scopes[user], []).append((version, time.perf_counter()))
            free.put_nowait(line)

        looking = asyncio.create_task(_look(projection, waiting, lags_s))
        began, count = time.perf_counter(), seconds * LINKS_S // BATCH
        async with asyncio.TaskGroup() as group:
            for turn in range(count):
                await asyncio.sleep(max(0.0, began + turn * BATCH / LINKS_S - time.perf_counter()))
                group.create_task(send())
        rate = count * BATCH / (time.perf_counter() - began)
        async with asyncio.timeout(_PATIENCE_S):
            while any(waiting.values()):
                await asyncio.sleep(_LOOK_S)
        looking.cancel()
    lags_s.sort()
    shown = [lags_s[int(share * (len(lags_s) - 1))] for share in (0.5, 0.99, 1.0)]
    print_table(("links/s", "lag p50, s", "p99", "most"), [(number(rate), *map(number, shown))])
    gate = Figure(f"graph lag p99 at {LINKS_S} links/s", shown[1], "s", at_most=LAG_GATE_S)
    return Report([gate], {"lags_s": lags_s, "links_s": rate})


async def _look(projection: Projection, waiting: dict[UUID, list[tuple[int, float]]], lags_s: list[float]) -> None:
    while True:
        versions = await projection.versions([scope_id for scope_id, own in waiting.items() if own])
        now = time.perf_counter()
        for scope_id, version in versions.items():
            lags_s += [now - at for wanted, at in waiting[scope_id] if wanted <= version]
            waiting[scope_id] = [each for each in waiting[scope_id] if each[0] > version]
        await asyncio.sleep(_LOOK_S)


async def _scopes(data_dir: object) -> dict[str, UUID]:
    endpoint = Cluster(data_dir).running()
    connection = await connect(dict(endpoint.connect_arguments()), connect_timeout_s=5.0, command_timeout_s=60.0)
    try:
        rows = await connection.fetch("SELECT user_id, scope_id FROM scopes")
    finally:
        await connection.close()
    return {row["user_id"]: row["scope_id"] for row in rows}


async def _cost(service: Service, plain: Service, *, pairs: int) -> Figure:
    """CPU time of a worker for a request of ten links, with a graph ÷ without."""

    async def load(served: Service, work: Iterator[tuple[str, dict[str, object]]]) -> float:
        async with connections(served.address, CLIENTS) as lines:

            async def send(body: dict[str, object], line: Connection) -> None:
                await call(line, "POST", "/v1/links/batch", body)

            bodies = [body for _, body in itertools.islice(work, 200)]
            before_s = served.worker_cpu_s()
            clients = [lambda body, line=line: send(body, line) for line in lines]
            await closed_loop(bodies, clients)
            await asyncio.sleep(1.0)  # the graph is told of the last ones too
            return served.worker_cpu_s() - before_s

    works = []
    for served in (service, plain):
        async with connections(served.address, 1) as (line,):
            works.append(iter(_Links(await _filled(line), 7)))
    measured = await interleaved(lambda _n: load(service, works[0]), lambda _n: load(plain, works[1]), pairs)
    ratio = median_ratio([pair[0] for pair in measured], [pair[1] for pair in measured])
    return Figure("CPU of a write of links with a graph ÷ without", ratio)


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__, lambda parser: parser.add_argument("--quick", action="store_true"), timed=False)
    return finish(measure(quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
