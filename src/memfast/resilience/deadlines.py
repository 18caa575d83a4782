"""Bounds on the time of many tasks, and an end to work whose caller has gone, for the price of a dictionary entry each.

`asyncio.timeout` arms and disarms a timer of the loop for every request. Here a single sweep some twenty times a second
finds those that are over their time; a request that takes longer than `WATCH_AFTER_S` is given a task that waits for
its client to leave. What is left of a request's time reaches everything that it waits for as its cancellation: asyncpg
cancels the statement at the server, the pool takes the caller out of its queue, a shared search ends with the last of
its callers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import Struct

from memfast.ports import Clock

__all__ = ["WATCH_AFTER_S", "Deadlines", "End"]

End = Literal["late", "gone"]
"""Why a task was cancelled: its time was up, or its caller has left."""

WATCH_AFTER_S = 0.1
"""From here on it is worth knowing whether the caller is still there, in seconds."""


class _Entry(Struct, frozen=True, gc=False):
    due: float
    watch_at: float
    leaves: Callable[[], Awaitable[object]] | None


class Deadlines:
    """Cancels tasks that are not done in time, or not wanted any more.

    Args:
        clock: monotonic seconds.
        sweep_s: time between sweeps: a task is cancelled at most that much after its time.
    """

    def __init__(self, clock: Clock, *, sweep_s: float = 0.05) -> None:
        self._sweep_s = sweep_s
        self._clock = clock
        self._open: dict[asyncio.Task[object], _Entry] = {}
        self._watched: dict[asyncio.Task[object], asyncio.Task[None]] = {}
        self._ended: dict[asyncio.Task[object], End] = {}
        self._rest: asyncio.Future[None] | None = None

    def enter(
        self, task: asyncio.Task[object], timeout_s: float, leaves: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Begin the task's time. `leave` must follow, whatever happens.

        Args:
            task: what is cancelled.
            timeout_s: its time, in seconds.
            leaves: returns when the caller has gone; called once, and not for a task that is done quickly.
        """
        now = self._clock.monotonic()
        self._open[task] = _Entry(now + timeout_s, now + WATCH_AFTER_S, leaves)
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    def leave(self, task: asyncio.Task[object]) -> End | None:
        """End the task's time; returns why it was cancelled by this, if it was, and takes that cancellation back."""
        self._open.pop(task, None)
        if task in self._watched:
            self._watched.pop(task).cancel()
        if task not in self._ended:
            return None
        task.uncancel()
        return self._ended.pop(task)

    def sweep(self) -> None:
        """Cancel what is late now, and watch over the callers of what takes long."""
        now = self._clock.monotonic()
        for task, entry in list(self._open.items()):
            if entry.due < now:
                self._end(task, "late")
            elif entry.leaves is not None and entry.watch_at < now and task not in self._watched:
                self._watched[task] = asyncio.create_task(self._watch(task, entry.leaves))

    async def run(self) -> None:
        """Sweep for ever, while there is anything to be found.

        Where this process stood still, what came meanwhile is heard before anybody is found late.
        """
        while True:
            if not self._open:
                await self._rested()
            began = self._clock.monotonic()
            await asyncio.sleep(self._sweep_s)
            if self._clock.monotonic() - began > 2 * self._sweep_s:
                await asyncio.sleep(self._sweep_s)
            self.sweep()

    async def _rested(self) -> None:
        """Wait until there is a task to look after."""
        self._rest = asyncio.get_running_loop().create_future()
        try:
            await self._rest
        finally:
            self._rest = None

    async def _watch(self, task: asyncio.Task[object], leaves: Callable[[], Awaitable[object]]) -> None:
        await leaves()
        self._end(task, "gone")

    def _end(self, task: asyncio.Task[object], why: End) -> None:
        if self._open.pop(task, None) is not None:
            self._ended[task] = why
            task.cancel()
