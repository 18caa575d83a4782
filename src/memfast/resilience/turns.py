"""Turns of the event loop for others, in the middle of long work."""

from __future__ import annotations

import asyncio

__all__ = ["Turns"]

_PAUSE_S = 0.001


class Turns:
    """Gives turns. Call `give` after each millisecond of work: it is a pause of another one.

    Turns without a pause would not do: the server's own threads, which bring in what others ask, wait for the
    interpreter, up to 5 ms while it has something to do.
    """

    async def give(self) -> None:
        """Let others go first."""
        await asyncio.sleep(_PAUSE_S)
