"""Work that goes on as long as something is open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

__all__ = ["run_beside"]


def run_beside(stack: AsyncExitStack, *work: Coroutine[Any, Any, None]) -> None:
    """Run what never ends by itself until the stack is closed."""
    for each in work:
        stack.push_async_callback(_cancel, asyncio.create_task(each))


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
