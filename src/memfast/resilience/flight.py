"""One piece of work for several callers, which ends when the last of them has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

__all__ = ["Flight"]

_T = TypeVar("_T")


class Flight(Generic[_T]):
    """Work under way. A caller who is cancelled leaves it; without any caller it is cancelled."""

    def __init__(self, work: Coroutine[Any, Any, _T]) -> None:
        self.task = asyncio.create_task(work)
        self._callers = 0
        self._left = False
        self.task.add_done_callback(_seen)

    @property
    def open(self) -> bool:
        """Whether it may be joined."""
        return not self._left

    async def join(self) -> _T:
        """The result, or the error, of the work."""
        self._callers += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._callers -= 1
            if self._callers == 0 and not self.task.done():
                self._left = True
                self.task.cancel()


def _seen(task: asyncio.Task[Any]) -> None:
    """Every caller may have gone: a failure that nobody waits for is nobody's."""
    if not task.cancelled():
        task.exception()
