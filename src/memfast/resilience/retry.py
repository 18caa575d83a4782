"""Trying again: a few times, with jitter, inside a deadline, and never so often that it becomes the load."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from memfast.ports import Clock

__all__ = ["Budget", "Retry"]

_T = TypeVar("_T")


class Budget:
    """A token bucket: every first try puts in `share`, every further try takes out one.

    Args:
        share: further tries by first tries, in the long run.
        burst: tokens that it holds at most, and at the start.
    """

    def __init__(self, share: float = 0.1, burst: float = 10.0) -> None:
        self._share = share
        self._burst = burst
        self._tokens = burst

    def earn(self) -> None:
        """A first try."""
        self._tokens = min(self._burst, self._tokens + self._share)

    def spend(self) -> bool:
        """Whether one further try may be made; it is counted."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Retry:
    """Tries idempotent work again after an error that may pass. The waits grow exponentially, with full jitter.

    Args:
        budget: shared by everything that asks the same dependency.
        clock: monotonic seconds.
        sleep: waits so many seconds, as `asyncio.sleep`.
        random: uniform numbers from 0 to 1.
        attempts: tries at most, the first one included.
        base_s: the longest first wait, in seconds; each further one may be twice as long.
    """

    def __init__(
        self,
        budget: Budget,
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
        *,
        attempts: int = 3,
        base_s: float = 0.05,
    ) -> None:
        self._budget = budget
        self._clock = clock
        self._sleep = sleep
        self._random = random
        self._attempts = attempts
        self._base_s = base_s
        self.retried = 0
        """Further tries so far."""

    async def run(
        self, work: Callable[[], Awaitable[_T]], passing: Callable[[Exception], bool], *, until_s: float
    ) -> _T:
        """What the work gives, which may begin several times but is never cut off by this.

        Args:
            work: idempotent, or harmless when it fails.
            passing: whether an error may pass.
            until_s: no try begins after this moment of the monotonic clock.

        Raises:
            Exception: the last error of the work.
        """
        self._budget.earn()
        for attempt in range(self._attempts - 1):
            try:
                return await work()
            except Exception as error:
                wait_s = self._random() * self._base_s * 2**attempt
                if not passing(error) or self._clock.monotonic() + wait_s >= until_s or not self._budget.spend():
                    raise
            self.retried += 1
            await self._sleep(wait_s)
        return await work()
