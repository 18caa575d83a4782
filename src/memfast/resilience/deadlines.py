"""One bound on the time of many tasks, for the price of a dictionary entry each.

`asyncio.timeout` arms and disarms a timer of the loop for every request. Requests share one bound, so a single sweep a
few times a second finds those that are over it.
"""

from __future__ import annotations

import asyncio

from memfast.ports import Clock

__all__ = ["Deadlines"]


class Deadlines:
    """Cancels tasks that are not done in time.

    Args:
        timeout_s: the bound. A task is cancelled at most `sweep_s` after it.
        sweep_s: time between sweeps.
        clock: monotonic seconds.
    """

    def __init__(self, timeout_s: float, clock: Clock, *, sweep_s: float = 0.1) -> None:
        self._timeout_s = timeout_s
        self._sweep_s = sweep_s
        self._clock = clock
        self._open: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()

    def enter(self, task: asyncio.Task[object]) -> None:
        """Begin the task's time. `leave` must follow, whatever happens."""
        self._open[task] = self._clock.monotonic()

    def leave(self, task: asyncio.Task[object]) -> bool:
        """End the task's time; returns whether it was cancelled for being late, and takes that cancellation back."""
        self._open.pop(task, None)
        if task in self._late:
            self._late.discard(task)
            task.uncancel()
            return True
        return False

    def sweep(self) -> None:
        """Cancel what is late now."""
        oldest = self._clock.monotonic() - self._timeout_s
        for task in [task for task, started in self._open.items() if started < oldest]:
            del self._open[task]
            self._late.add(task)
            task.cancel()

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(self._sweep_s)
            self.sweep()
