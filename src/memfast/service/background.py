"""Work that no request waits for: one bounded queue, a few tasks at once, and a list of what failed."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime

from msgspec import Struct

from memfast.errors import MemfastError, Unavailable
from memfast.ports import Clock
from memfast.resilience.retry import Retry

__all__ = ["Background", "BackgroundSnapshot", "DeadLetter"]

_log = logging.getLogger("memfast.background")

DEAD_MAX = 100
"""Failed tasks that are listed; of more the oldest leave the list and stay in the count."""

TASK_S = 60.0
"""Time after the begin of a task within which it may be tried again, in seconds."""

Work = Callable[[], Awaitable[None]]


class DeadLetter(Struct, frozen=True, kw_only=True):
    """A task that failed for good: which, when, how often it was tried, and the last error."""

    name: str
    at: datetime
    attempts: int
    error: str


class BackgroundSnapshot(Struct, frozen=True, kw_only=True):
    """The queue now, and counts since the worker started. `dead_letters` are the last ones, newest first."""

    queued: int
    queue_limit: int
    running: int
    done: int
    retried: int
    refused: int
    dead: int
    dead_letters: list[DeadLetter]


class Background:
    """Runs tasks beside the requests. Each fails alone: after its tries it is counted, listed and logged.

    Only what may pass (`Unavailable`) is tried again, so a task must bear being run twice.

    Args:
        retry: how often and when a task is tried again.
        clock: both clocks.
        queue_limit: tasks that may wait.
        parallel: tasks that run at once.
    """

    def __init__(self, retry: Retry, clock: Clock, *, queue_limit: int, parallel: int) -> None:
        self._retry = retry
        self._clock = clock
        self._queue: asyncio.Queue[tuple[str, Work]] = asyncio.Queue(queue_limit)
        self._parallel = parallel
        self._dead_letters: deque[DeadLetter] = deque(maxlen=DEAD_MAX)
        self._running = self._done = self._retried = self._refused = self._dead = 0
        self._stopped = False

    @property
    def stopping(self) -> bool:
        """Whether the service stops: a task of many steps may leave the rest to another time."""
        return self._stopped

    def offer(self, name: str, work: Work) -> bool:
        """Take a task, unless the queue is full or the service stops.

        Args:
            name: one of few words for what it does, without content.
            work: makes the coroutine of one try.
        """
        if self._stopped or self._queue.full():
            self._refused += 1
            return False
        self._queue.put_nowait((name, work))
        return True

    async def put(self, name: str, work: Work) -> bool:
        """As `offer`, for whoever makes many tasks: waits for room as long as the service runs."""
        if self._stopped:
            self._refused += 1
            return False
        await self._queue.put((name, work))
        return True

    async def run(self) -> None:
        """Work for ever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._parallel):
                group.create_task(self._work())

    async def join(self) -> None:
        """Wait until everything that was taken is over."""
        await self._queue.join()

    async def drain(self, timeout_s: float) -> None:
        """Take no more tasks and wait, at most `timeout_s`, for those that were taken."""
        self._stopped = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._queue.join()
        except TimeoutError:
            left = self._queue.qsize() + self._running
            _log.warning("%d background tasks were not finished within %g s", left, timeout_s)

    def snapshot(self) -> BackgroundSnapshot:
        """Counters since the start, and the state now."""
        return BackgroundSnapshot(
            queued=self._queue.qsize(),
            queue_limit=self._queue.maxsize,
            running=self._running,
            done=self._done,
            retried=self._retried,
            refused=self._refused,
            dead=self._dead,
            dead_letters=list(reversed(self._dead_letters)),
        )

    async def _work(self) -> None:
        while True:
            name, work = await self._queue.get()
            self._running += 1
            try:
                await self._do(name, work)
            finally:
                self._running -= 1
                self._queue.task_done()

    async def _do(self, name: str, work: Work) -> None:
        attempts = 0

        async def attempt() -> None:
            nonlocal attempts
            attempts += 1
            await work()

        try:
            await self._retry.run(attempt, _passing, until_s=self._clock.monotonic() + TASK_S)
            self._done += 1
        except Exception as error:  # noqa: BLE001 - a task's edge: what one task meets must not end the others
            self._bury(name, attempts, error)
        self._retried += attempts - 1

    def _bury(self, name: str, attempts: int, error: Exception) -> None:
        self._dead += 1
        kind = type(error).__name__
        told = f"{kind}: {error}" if isinstance(error, MemfastError) else kind  # others may quote what they met
        self._dead_letters.append(DeadLetter(name=name, at=self._clock.now(), attempts=attempts, error=told))
        if isinstance(error, MemfastError):
            _log.warning("the background task %r failed for good: %s", name, told)
        else:
            _log.error("the background task %r failed", name, exc_info=error)


def _passing(error: Exception) -> bool:
    return isinstance(error, Unavailable)
