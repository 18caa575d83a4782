"""Turns of the event loop for others, in the middle of long work."""

from __future__ import annotations

import asyncio

__all__ = ["Turns"]

_PAUSE_S = 0.001
_PAUSE_EVERY = 2


class Turns:
    """Gives turns. Call `give` after each millisecond of work; every second time it is a pause of a millisecond.

    Turns alone would not do: the server's own threads, which bring in what others ask, wait for the interpreter, up to
    5 ms while it has something to do.
    """

    def __init__(self) -> None:
        self._given = 0

    async def give(self) -> None:
        """Let others go first."""
        self._given += 1
        await asyncio.sleep(0 if self._given % _PAUSE_EVERY else _PAUSE_S)
