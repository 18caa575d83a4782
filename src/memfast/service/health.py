"""Whether the service can do its work."""

from __future__ import annotations

import asyncio
from typing import Literal

from msgspec import Struct

from memfast.errors import MemfastError
from memfast.ports import Clock, Embedder, MemoryStore
from memfast.readings import StoreHealth

__all__ = ["Health", "Report"]

_REMEMBERED_S = 1.0
"""How long an answer is reused, in seconds: a probe must not become a load."""

_LOOK_S = 2.0
"""How long a dependency may take to show that it works, in seconds."""


class Report(Struct, frozen=True, kw_only=True):
    """What a health check found. `problem` says why the service is not ready."""

    status: Literal["ready", "not-ready"]
    problem: str | None
    store: StoreHealth | None
    embedder: str
    dimensions: int


class Health:
    """Checks every dependency by using it."""

    def __init__(self, store: MemoryStore, embedder: Embedder, clock: Clock) -> None:
        self._store = store
        self._embedder = embedder
        self._clock = clock
        self._last: tuple[float, Report] | None = None
        self._looking: asyncio.Task[Report] | None = None

    async def report(self) -> Report:
        """The state now, at most a second old; however many ask, one looks."""
        now = self._clock.monotonic()
        if self._last is not None and now - self._last[0] < _REMEMBERED_S:
            return self._last[1]
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        return await asyncio.shield(self._looking)

    def _looked(self, look: asyncio.Task[Report]) -> None:
        self._looking = None
        if not look.cancelled() and look.exception() is None:
            self._last = (self._clock.monotonic(), look.result())

    async def _look(self) -> Report:
        problem: str | None = None
        store: StoreHealth | None = None
        try:
            async with asyncio.timeout(_LOOK_S):
                store = await self._store.check()
        except MemfastError as error:
            problem = str(error)
        except TimeoutError:
            problem = f"PostgreSQL did not commit within {_LOOK_S:g} s"
        return Report(
            status="not-ready" if problem else "ready",
            problem=problem,
            store=store,
            embedder=self._embedder.model,
            dimensions=self._embedder.dimensions,
        )
