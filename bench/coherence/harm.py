"""Workers that die while they are asked and written to."""

from __future__ import annotations

import asyncio

from bench.coherence.driver import Tally
from bench.coherence.fleet import Fleet
from bench.coherence.truth import Database

__all__ = ["harm"]

POOL = 4
"""Connections of a worker to PostgreSQL."""

APART_S = 4.0
"""Granian gives up on workers that die within 3.5 s of their start."""

_POLL_S = 0.02


async def harm(fleet: Fleet, database: Database, tally: Tally, *, seed: int, kills: int, every: int) -> None:
    """Kill one worker after another, each time after so many reads, and wait until another has its place."""
    for number in range(kills):
        began = asyncio.get_running_loop().time()
        while tally.checked < every * (number + 1) or asyncio.get_running_loop().time() < began + APART_S:
            await asyncio.sleep(_POLL_S)
        await database.remember(POOL)
        await fleet.kill(fleet.workers[(seed + number) % len(fleet.workers)])
        tally.kills += 1
