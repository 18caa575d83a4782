"""Whether the service can do its work."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from memfast.errors import MemfastError
from memfast.model import StoreHealth
from memfast.ports import Clock, Embedder, MemoryStore

__all__ = ["Health", "Report"]

_REMEMBERED_S = 1.0
"""How long an answer is reused, in seconds: a probe must not become a load."""


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

    async def report(self) -> Report:
        """The state now, at most a second old."""
        now = self._clock.monotonic()
        if self._last is None or now - self._last[0] >= _REMEMBERED_S:
            self._last = (now, await self._look())
        return self._last[1]

    async def _look(self) -> Report:
        problem: str | None = None
        store: StoreHealth | None = None
        try:
            store = await self._store.check()
        except MemfastError as error:
            problem = str(error)
        return Report(
            status="not-ready" if problem else "ready",
            problem=problem,
            store=store,
            embedder=self._embedder.model,
            dimensions=self._embedder.dimensions,
        )
