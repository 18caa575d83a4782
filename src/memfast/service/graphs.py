"""Walks over links by a copy of them in another engine, where that is as new as the store."""

from __future__ import annotations

from datetime import datetime

from msgspec.structs import replace

from memfast.errors import Unavailable
from memfast.links import Walk
from memfast.model import Neighbourhood, Scope
from memfast.ports import Graph, LinkStore
from memfast.ports.projection import Projection

__all__ = ["CopiedGraph"]


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
        try:
            walked = await self._copy.related(scope.id, walk, now=now)
        except Unavailable:
            found = await self._graph.related(scope, walk, now=now)
            return None if found is None else replace(found, degraded=[self._copy.engine])
        if walked is not None and walked.start:
            found = await self._store.walked(scope, walked, now=now)
            if found is not None:
                return replace(found, engine=self._copy.engine)
        return await self._graph.related(scope, walk, now=now)
