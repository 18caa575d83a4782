"""The service with a fault that only time shows, to show that a soak catches it.

    python -m bench.harness.leaky <descriptors | tasks | breaker> serve …

Each new connection to PostgreSQL costs a descriptor, or a task that never ends; or a breaker that has opened stays open.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import Any, Literal

from memfast.cli import main
from memfast.resilience.breaker import Breaker
from memfast.store.pool import Pool

__all__ = ["Leaky"]


@dataclass(frozen=True)
class Leaky:
    """Which fault."""

    fault: Literal["descriptors", "tasks", "breaker"]

    def program(self) -> list[str]:
        """The module that runs such a service, and its first argument."""
        return ["bench.harness.leaky", self.fault]


def _plant(fault: str) -> None:
    """Workers are forked from this process, and inherit what is changed."""
    if fault == "breaker":
        Breaker.pinged = lambda *_arguments, **_options: None  # type: ignore[method-assign]
        Breaker._advance = lambda _self: None  # type: ignore[method-assign]
        return
    connected, kept = Pool._connected, []

    async def leak(self: Pool, connection: Any) -> None:
        if fault == "tasks":
            kept.append(asyncio.create_task(asyncio.Event().wait()))
        else:
            kept.append(os.dup(0))
        await connected(self, connection)

    Pool._connected = leak  # type: ignore[method-assign]


if __name__ == "__main__":
    _plant(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
