"""Rounds in which clients write and something is killed; afterwards all memories are looked at."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.durability.clients import read_back, writing
from bench.durability.journal import Account, Journal
from bench.durability.planted import Unsafe
from bench.durability.site import Site, site

__all__ = ["FAULTS", "ROUND_S", "WRITERS", "Round", "kill_rounds"]

FAULTS = ("everything", "worker", "backend", "postmaster", "parent", "helper")
"""What is killed: all processes at once; a worker; a server process that serves a worker; the postmaster alone; the
service's parent alone; a server process that serves no worker, as the checkpointer or the writer of the log.
"""

WRITERS = 8
ROUND_S = 180.0
"""A round that takes longer has hung."""

_USERS = 4
_NEEDS_START = frozenset({"everything", "parent"})


@dataclass(frozen=True)
class Round:
    """What one round found. `back_s`: seconds from the fault until a write succeeded again."""

    fault: str
    seed: int
    account: Account
    back_s: float

    def line(self) -> str:
        """It in one line, and below it whatever was wrong."""
        found = self.account
        line = (
            f"seed {self.seed}: {self.fault}: {found.acknowledged} acknowledged, {found.refused} refused, "
            f"{found.unanswered} unanswered ({found.made} happened), back after {self.back_s:.2f} s, wrong: {found.wrong}"
        )
        return "\n    ".join([line, *found.told[:5]])


async def kill_rounds(
    root: Path,
    *,
    rounds: int,
    seed: int,
    faults: Sequence[str] = FAULTS,
    unsafe: Unsafe | None = None,
    template: Path | None = None,
) -> AsyncIterator[Round]:
    """Run rounds on one data directory below `root`; at the end all memories of all rounds are judged once more.

    Args:
        root: an empty directory.
        rounds: how many; the faults take turns.
        seed: of the first round; each has one of its own.
        faults: what is killed.
        unsafe: a promise that is broken; then the last look is left out, for it would find the same again.
        template: a stopped data directory to begin with a copy of.
    """
    with site(root / "data", unsafe=unsafe, template=template) as place:
        journals: list[Journal] = []
        for number in range(rounds):
            fault = faults[number % len(faults)]
            async with asyncio.timeout(ROUND_S):
                journal, back_s = await _round(place, fault, seed + number)
            journals.append(journal)
            yield Round(fault, seed + number, journal.account, back_s)
        if unsafe is None:
            place.kill("everything", random.Random(seed))
            yield await _once_more(place, journals, seed)


async def _round(place: Site, fault: str, seed: int) -> tuple[Journal, float]:
    chance = random.Random(seed)
    journal = Journal()
    users = [f"round-{seed}-{number}" for number in range(_USERS)]
    async with writing(place.address, journal, users, writers=WRITERS, seed=seed):
        await asyncio.sleep(chance.uniform(0.1, 0.8))
        place.kill(fault, chance)
        killed_at = time.monotonic()
        if fault in _NEEDS_START:
            await asyncio.to_thread(place.reap_and_start)
        await place.written()
        back_s = time.monotonic() - killed_at
        await asyncio.sleep(chance.uniform(0.05, 0.3))
    await read_back(place.address, journal)
    return journal, back_s


async def _once_more(place: Site, journals: Sequence[Journal], seed: int) -> Round:
    killed_at = time.monotonic()
    await asyncio.to_thread(place.reap_and_start)
    await place.written()
    back_s = time.monotonic() - killed_at
    total = Account()
    for journal in journals:
        journal.account = Account()
        await read_back(place.address, journal)
        total.add(journal.account)
    return Round("all rounds, read again after a last kill", seed, total, back_s)
