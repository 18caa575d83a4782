"""Walks over links by a copy of them in another engine, where that is as new as the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from memfast.errors import Unavailable
from memfast.links import Walk
from memfast.model import Neighbourhood, Scope, Trail
from memfast.ports import Graph, LinkStore
from memfast.ports.projection import Projection
from memfast.projection import Walked

__all__ = ["CopiedGraph"]

_Found = TypeVar("_Found", Neighbourhood, Trail)


class CopiedGraph:
    """`ports.Graph` over a copy, which names memories, and the store, which says whether that is true, and has them.

    The copy is asked first, and the store in one statement after it: what the copy had seen by then of later versions
    shows in the store's. Where they differ the copy is late, and the store walks itself.

    Args:
        copy: of the links, in another engine.
        store: has the links, and reads what a walk found.
        graph: walks in the store.
    """

    def __init__(self, copy: Projection, store: LinkStore, graph: Graph) -> None:
        self._copy = copy
        self._store = store
        self._graph = graph

    async def related(self, scope: Scope, walk: Walk, *, now: datetime) -> Neighbourhood | None:
        """See `ports.Graph.related`; `degraded` names the copy's engine where it should have answered and did not."""
        return await self._asked(
            self._copy.related(scope.id, walk, now=now),
            partial(self._graph.related, scope, walk, now=now),
            partial(self._store.walked, scope, now=now),
        )

    async def trail(self, scope: Scope, walk: Walk, *, now: datetime) -> Trail | None:
        """See `ports.Graph.trail`, and `related`."""
        return await self._asked(
            self._copy.related(scope.id, walk, now=now),
            partial(self._graph.trail, scope, walk, now=now),
            partial(self._store.confirmed, scope),
        )

    async def _asked(
        self,
        asked: Awaitable[Walked | None],
        own: Callable[[], Awaitable[_Found | None]],
        confirm: Callable[[Walked], Awaitable[_Found | None]],
    ) -> _Found | None:
        """What the copy found, if the store confirms it; else what the store finds by its `own` walk."""
        try:
            walked = await asked
        except Unavailable:
            found = await own()
            return None if found is None else replace(found, degraded=[self._copy.engine])
        if walked is not None and walked.start:
            found = await confirm(walked)
            if found is not None:
                return replace(found, engine=self._copy.engine)
        return await own()
