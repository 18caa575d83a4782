"""A disk that fills up under writers: what they are told, what is read meanwhile, and that room is all it takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from bench.durability.clients import Client, read_back, writing
from bench.durability.journal import DIMENSIONS, Journal
from bench.durability.kills import ROUND_S, WRITERS, Round
from bench.durability.site import Site, site
from bench.harness.disk import small_disk
from memfast.store.embedded.process import read_postmaster

__all__ = ["DISK_MB", "RESERVE_MB", "fill_rounds"]

DISK_MB = 112
RESERVE_MB = 32
"""What writes leave of it. A new database takes 46 MiB, a segment of its log 16."""

_BALLAST_MB = 16
_NOISE_BYTES = 12_000
_USERS = 4
_FULL_S = 90.0
_POLL_S = 0.02
_WHOLE_S = 1.0
_MIB = 1024 * 1024
_BODY = {"user_id": "full", "text": "no room", "embedding": [1.0] * DIMENSIONS}
_SETTINGS = ("--set", f"postgres.disk_reserve_mb={RESERVE_MB}")


async def fill_rounds(root: Path, *, seed: int, template: Path | None = None) -> AsyncIterator[Round]:
    """Two rounds, each on a disk of its own: writers fill it to the bound, and somebody else fills it to the last byte.

    In the first, PostgreSQL must never end. In the second it may, when its log has to grow just then; but nobody has
    to start anything again. `template` is a stopped data directory to begin with a copy of.

    Raises:
        NotPermitted: this machine lets nobody mount.
        AssertionError: the service did not do what it should.
    """
    for number, fill in enumerate((_by_writers, _by_others)):
        async with _placed(root / str(number), template) as (place, disk), asyncio.timeout(ROUND_S):
            found = await fill(place, disk, seed + number)
        yield found


async def _by_writers(place: Site, disk: Path, seed: int) -> Round:
    before = _processes(place)
    with _filler(disk / "ballast", _BALLAST_MB * _MIB):
        journal = await _written(place, seed, until=507)
        assert set(journal.statuses) == {507}, f"writers were answered with {journal.statuses}"
        assert shutil.disk_usage(disk).free > RESERVE_MB * _MIB // 4
        await _reads_go_on(place, journal)
        with _filler(disk / "filler", DISK_MB * _MIB):
            await asyncio.sleep(_WHOLE_S)
            await _reads_go_on(place, journal)
            assert (await _asked(place, "POST", "/v1/memories", _BODY))[0] == 507
            assert (await _asked(place, "GET", "/v1/health/ready"))[0] == 503
    back_s = await place.written()
    assert _processes(place) == before, "something was started anew"
    await _again(place, journal, seed)
    return Round("disk full", seed, journal.account, back_s)


async def _by_others(place: Site, disk: Path, seed: int) -> Round:
    journal = Journal(_NOISE_BYTES)
    users = [f"round-{seed}-{number}" for number in range(_USERS)]
    async with writing(place.address, journal, users, writers=WRITERS, seed=seed):
        while journal.account.acknowledged < 100:
            await asyncio.sleep(_POLL_S)
        with _filler(disk / "filler", DISK_MB * _MIB):
            await asyncio.sleep(random.Random(seed).uniform(1.0, 3.0))
            assert 507 in journal.statuses, f"writers were answered with {journal.statuses}"
        back_s = await place.written()
    await read_back(place.address, journal)
    await _again(place, journal, seed)
    return Round("disk full at once", seed, journal.account, back_s)


async def _written(place: Site, seed: int, *, until: int) -> Journal:
    """Write until a write is answered with this status."""
    journal = Journal(_NOISE_BYTES)
    users = [f"round-{seed}-{number}" for number in range(_USERS)]
    async with writing(place.address, journal, users, writers=WRITERS, seed=seed), asyncio.timeout(_FULL_S):
        while until not in journal.statuses:
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(1.0)  # it stays so
    return journal


async def _reads_go_on(place: Site, journal: Journal) -> None:
    """All memories are read and judged, from the database, and one user is searched until memory answers."""
    await read_back(place.address, journal)
    client, tiers, chance = Client(place.address), set(), random.Random(1)
    try:
        async with asyncio.timeout(_FULL_S):
            while "warm" not in tiers:
                vector = [chance.uniform(0.1, 1.0) for _ in range(DIMENSIONS)]
                body = {"user_id": journal.users()[0], "embedding": vector, "limit": 5}
                status, _, answer = await client.ask("POST", "/v1/search", body)
                assert status == 200, f"a search was answered with {status}: {answer[:500]!r}"
                tiers.add(client.tier)
    finally:
        client.close()


async def _asked(place: Site, method: str, path: str, body: Any = None) -> tuple[int, int, bytes]:
    client = Client(place.address)
    try:
        return await client.ask(method, path, body)
    finally:
        client.close()


async def _again(place: Site, journal: Journal, seed: int) -> None:
    """Everything stands also after everything was killed."""
    place.kill("everything", random.Random(seed))
    await asyncio.to_thread(place.reap_and_start)
    await read_back(place.address, journal)


def _processes(place: Site) -> tuple[object, ...]:
    """Everything that would be another after a start."""
    postmaster = read_postmaster(place.pgdata)
    return (place.service.pid, sorted(place.workers()), postmaster and postmaster.pid)


@asynccontextmanager
async def _placed(root: Path, template: Path | None) -> AsyncIterator[tuple[Site, Path]]:
    root.mkdir()
    with (
        small_disk(root / "disk", DISK_MB) as disk,
        site(disk / "data", settings=_SETTINGS, template=template) as place,
    ):
        yield place, disk


@contextmanager
def _filler(path: Path, size: int) -> Iterator[None]:
    """A file that takes so much room, or all there is, as long as it is entered."""
    taken = 0
    try:
        with path.open("wb") as file:
            while taken < size and (free := min(size - taken, shutil.disk_usage(path.parent).free)):
                with contextlib.suppress(OSError):  # others were faster
                    os.posix_fallocate(file.fileno(), taken, free)
                    taken += free
        yield
    finally:
        path.unlink(missing_ok=True)
