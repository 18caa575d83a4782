"""Rounds that end with a power cut: what was not flushed to the disk is gone, and the service starts on what is left."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

from bench.durability.clients import read_back, writing
from bench.durability.journal import Account, Journal
from bench.durability.kills import ROUND_S, WRITERS, Round
from bench.durability.planted import Unsafe
from bench.durability.site import Site, site
from bench.harness.disk import VolatileDisk

__all__ = ["power_rounds"]

_USERS = 4


async def power_rounds(
    root: Path,
    *,
    rounds: int,
    seed: int,
    unsafe: Unsafe | None = None,
    honest: bool = True,
    template: Path | None = None,
) -> AsyncIterator[Round]:
    """Run rounds on a data directory on a disk of its own; each begins on what the one before left.

    Args:
        root: an empty directory.
        rounds: how many.
        seed: of the first round; each has one of its own.
        unsafe: a promise that is broken.
        honest: whether the disk keeps its promise; see `VolatileDisk`.
        template: a stopped data directory to begin with a copy of.

    Where a promise is broken, and of a template, the first state is flushed for good: later writes are at stake.

    Raises:
        NotPermitted: this machine lets nobody mount.
    """
    disk = VolatileDisk(root, honest=honest)
    await asyncio.to_thread(disk.__enter__)
    try:
        with site(disk.path / "data", unsafe=unsafe, template=template) as place:
            if unsafe is not None or template is not None or not honest:
                await asyncio.to_thread(disk.flush)
            for number in range(rounds):
                async with asyncio.timeout(ROUND_S):
                    found = await _round(disk, place, seed + number)
                yield found
    finally:
        await asyncio.to_thread(disk.__exit__)


async def _round(disk: VolatileDisk, place: Site, seed: int) -> Round:
    chance, journal = random.Random(seed), Journal()
    users = [f"round-{seed}-{number}" for number in range(_USERS)]
    async with writing(place.address, journal, users, writers=WRITERS, seed=seed):
        await asyncio.sleep(chance.uniform(0.2, 1.0))
        journal.closed = True  # what is told from here on, a machine without power would not tell
        disk.cut()
        cut_at = time.monotonic()
        await asyncio.to_thread(place.end)
    await asyncio.to_thread(disk.replug)
    try:
        await asyncio.to_thread(place.start)
    except RuntimeError as error:
        lost = Account(acknowledged=journal.account.acknowledged)
        lost.note("lost", f"everything: the service does not start. {error}")
        return Round("power cut", seed, lost, time.monotonic() - cut_at)
    back_s = time.monotonic() - cut_at
    await read_back(place.address, journal)
    return Round("power cut", seed, journal.account, back_s)
