"""Rounds in which connections between service and PostgreSQL break, most of them at COMMIT."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from bench.durability.clients import read_back, writing
from bench.durability.journal import Journal
from bench.durability.kills import ROUND_S, WRITERS, Round
from bench.durability.planted import Unsafe
from bench.durability.site import Site
from bench.harness.proxy import AtCommit, Break, Proxy
from memfast.store.embedded import Cluster, Endpoint

__all__ = ["CUTS", "cut_rounds"]

CUTS: tuple[Break | None, ...] = ("before", "after", "withheld", "silent", None)
"""How COMMITs break, see `proxy.AtCommit`; None breaks connections at any moment instead."""

_USERS = 4
_SHARE = 0.05
"""Of the COMMITs, so many break."""

_APART_S = 0.1
_SETTINGS = ("--set", "postgres.command_timeout_s=1", "--set", "postgres.connect_timeout_s=1")
"""What a connection does not answer is given up soon."""


async def cut_rounds(
    root: Path,
    *,
    rounds: int,
    seed: int,
    cuts: Sequence[Break | None] = CUTS,
    unsafe: Unsafe | None = None,
    template: Path | None = None,
) -> AsyncIterator[Round]:
    """Run rounds on a PostgreSQL of their own with a proxy before it.

    Args:
        root: an empty directory.
        rounds: how many; the cuts take turns.
        seed: of the first round; each has one of its own.
        cuts: how connections break.
        unsafe: a promise that the service breaks.
        template: a stopped data directory for the server to begin with a copy of.

    Raises:
        TimeoutError: not one COMMIT of a round broke: the proxy does not recognise them.
    """
    async with _server(root / "server", template) as endpoint:
        folder = root / "proxy"
        folder.mkdir()
        listen = folder / f".s.PGSQL.{endpoint.port}"
        async with Proxy(endpoint.socket_dir / f".s.PGSQL.{endpoint.port}", listen) as proxy:
            environment = {"MEMFAST_POSTGRES_DSN": _dsn(endpoint, folder)}
            place = Site(root / "data", settings=_SETTINGS, environment=environment, unsafe=unsafe)
            try:
                await asyncio.to_thread(place.start)
                for number in range(rounds):
                    async with asyncio.timeout(ROUND_S):
                        found = await _round(place, proxy, cuts[number % len(cuts)], seed + number)
                    yield found
            finally:
                await asyncio.to_thread(place.end)


async def _round(place: Site, proxy: Proxy, cut: Break | None, seed: int) -> Round:
    chance, journal = random.Random(seed), Journal()
    users = [f"round-{seed}-{number}" for number in range(_USERS)]
    fault = AtCommit(lambda: cut if chance.random() < _SHARE else None)
    async with writing(place.address, journal, users, writers=WRITERS, seed=seed):
        proxy.faults.append(fault)
        for _ in range(chance.randint(5, 15)):
            await asyncio.sleep(_APART_S)
            if cut is None:
                proxy.cut()
        while cut is not None and not fault.broken:
            await asyncio.sleep(_APART_S)
        proxy.faults.remove(fault)
        proxy.cut()  # also those that are neither broken nor alive
        back_s = await place.written()
    await read_back(place.address, journal)
    return Round(f"cut {cut} COMMIT" if cut else "cut at any moment", seed, journal.account, back_s)


@asynccontextmanager
async def _server(data_dir: Path, template: Path | None) -> AsyncIterator[Endpoint]:
    if template is not None:
        subprocess.run(["cp", "-a", template, data_dir], check=True)
    cluster = Cluster(data_dir)
    try:
        yield await asyncio.to_thread(cluster.start)
    finally:
        await asyncio.to_thread(cluster.stop)


def _dsn(endpoint: Endpoint, folder: Path) -> str:
    user, password, host = endpoint.user, quote(endpoint.password), quote(os.fspath(folder), safe="")
    return f"postgresql://{user}:{password}@/{endpoint.database}?host={host}&port={endpoint.port}"
