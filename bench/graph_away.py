"""Walks and searches over links while Neo4j is stopped or killed ÷ the same while it works.

    python -m bench.graph_away [--quick] [--json FILE]

Four clients ask for what a memory is related to, each time with another smallest weight, so that no answer is kept, and
every fourth time they search and go on over links. In turns Neo4j works, and is taken away by SIGSTOP or kill -9. Its breaker
is waited for, under the same load; then the clock runs. Every answer must be one of results.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from bench.harness.away import Absence, Load, compare
from bench.harness.corpus import fill
from bench.harness.load import call, connections, encode, run
from bench.harness.neo4j_server import Neo4jServer, missing_reason
from bench.harness.report import Report, finish, options
from bench.harness.service import Service, scratch_dir

__all__ = ["measure"]

CLIENTS = 4
MEMORIES, LINKS = 1_000, 4_000
_USER = "walker"
_BATCH = 500
_COPIED_S = 300.0


def measure(*, quick: bool = False) -> Report:
    """Measure both ways of being away.

    Raises:
        SystemExit: there can be no Neo4j here.
    """
    if reason := missing_reason():
        raise SystemExit(reason)
    with scratch_dir() as root, Neo4jServer(root / "neo4j") as server:
        settings = {"uri": server.uri, "user": server.user, "password": server.password}
        words = itertools.chain.from_iterable(("--set", f"graph.{key}={value}") for key, value in settings.items())
        with Service(root / "data", settings=tuple(words)) as service:
            return run(_measure(service, server, pairs=1 if quick else 5, count=300 if quick else 1000))


async def _measure(service: Service, server: Neo4jServer, *, pairs: int, count: int) -> Report:
    chance = random.Random(29)
    absences = [Absence("stopped", server.freeze, server.thaw), Absence("killed", server.kill, server.start)]
    async with connections(service.address, 1) as (line,):
        await fill(line, _USER, MEMORIES, np.random.default_rng(29))
        listed = await call(line, "GET", f"/v1/memories?user_id={_USER}&limit=1000")
        ids = [each["id"] for each in listed["memories"]]
        for _ in range(LINKS // _BATCH):
            pairs_of = [chance.sample(ids, 2) for _ in range(_BATCH)]
            links = [{"from_id": a, "to_id": b, "weight": round(chance.uniform(0.5, 1), 3)} for a, b in pairs_of]
            await call(line, "POST", "/v1/links/batch", {"user_id": _USER, "links": links})

    numbers = itertools.count()

    async def copied() -> None:
        async with asyncio.timeout(_COPIED_S), connections(service.address, 1) as (line,):
            for number in numbers:
                path = f"/v1/memories/{chance.choice(ids)}/related?user_id={_USER}&min_weight={number * 1e-7:.7f}"
                if (await call(line, "GET", path))["engine"] == "neo4j":
                    return
                await asyncio.sleep(0.5)

    await copied()
    load = Load(service.address, CLIENTS, _questions(ids, chance), "neo4j")
    return await compare(load, "Neo4j", "walks", absences, pairs=pairs, count=count, restored=copied)


def _questions(ids: Sequence[str], chance: random.Random) -> Iterator[bytes]:
    """Requests, none of them twice: three walks, then a search that goes on over links."""
    for number in itertools.count(1):
        if number % 4 == 0:
            question = {"user_id": _USER, "query": f"memory {number}", "expand": {"depth": 1}}
            yield encode("POST", "/v1/search", question)
            continue
        weight = f"{0.1 + number * 1e-7:.7f}"
        yield encode("GET", f"/v1/memories/{chance.choice(ids)}/related?user_id={_USER}&depth=2&min_weight={weight}")


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__, lambda parser: parser.add_argument("--quick", action="store_true"), timed=False)
    return finish(measure(quick=chosen.quick), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
