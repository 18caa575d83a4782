"""Links in PostgreSQL: as rows of the driver, listed, and walked over (`ports.LinkStore`, `ports.Graph`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from memfast.links import (
    AUTOMATIC,
    FANOUT_LINKS,
    LEVEL_MEMORIES,
    Holder,
    Link,
    LinkKey,
    LinkPage,
    LinkQuery,
    Reached,
    Spread,
    Walk,
)
from memfast.model import Neighbourhood, Scope, Trail
from memfast.projection import Walked
from memfast.store.pool import Pool
from memfast.store.queries import LINKS
from memfast.store.records import read_related

__all__ = ["FIRST_KEY", "PostgresLinks", "link_values", "read_link"]

FIRST_KEY = LinkKey(UUID(int=0), UUID(int=0), "")


class PostgresLinks:
    """Reads links and what they lead to, each in one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def list(self, scope: Scope, query: LinkQuery, *, now: datetime) -> LinkPage:
        """See `ports.LinkStore.list`."""
        after = query.after or FIRST_KEY
        arguments = (scope.id, now, after.from_id, after.to_id, after.type, query.type, query.limit + 1)
        if query.memory_id is None:
            records = await self._pool.fetch(LINKS.list_links, *arguments)
        else:
            records = await self._pool.fetch(LINKS.list_links_of, *arguments, query.memory_id)
        links = [read_link(record, 2) for record in records if record[2] is not None]
        return LinkPage(links[: query.limit], len(links) > query.limit, records[0][0] or 0, records[0][1])

    async def spread(self, scope: Scope, spread: Spread, *, now: datetime) -> tuple[Sequence[Reached], int]:
        """See `ports.LinkStore.spread`."""
        ids, scores = [start for start, _ in spread.starts], [score for _, score in spread.starts]
        bounds = (FANOUT_LINKS, LEVEL_MEMORIES)
        records = await self._pool.fetch(LINKS.spread, scope.id, ids, scores, now, spread.depth, *bounds)
        return [Reached(*record[1:5]) for record in records if record[1] is not None], records[0][0] or 0

    async def automatic(self, scope: Scope, type_: str, ids: Sequence[UUID], *, limit: int) -> Sequence[LinkKey]:
        """See `ports.LinkStore.automatic`."""
        told = bytes(AUTOMATIC).decode()
        records = await self._pool.fetch(LINKS.automatic_links, scope.id, list(ids), type_, told, limit)
        return [LinkKey(*record) for record in records]

    async def holders(
        self, scope: Scope, entities: Sequence[str], *, limit: int, now: datetime
    ) -> Mapping[str, Sequence[Holder]]:
        """See `ports.LinkStore.holders`."""
        found: dict[str, list[Holder]] = {}
        for entity, *holder in await self._pool.fetch(LINKS.holders, scope.id, list(entities), now, limit):
            found.setdefault(entity, []).append(Holder(*holder))
        return found

    async def related(self, scope: Scope, walk: Walk, *, now: datetime) -> Neighbourhood | None:
        """See `ports.Graph.related`."""
        records = await self._walk(scope, walk, now, memories=True)
        version, found, holds_until = records[0][:3]
        if not found:
            return None
        results = [
            read_related(scope.user_id, record, 5, record[3], record[4]) for record in records if record[3] is not None
        ]
        return Neighbourhood(results, version, holds_until)

    async def trail(self, scope: Scope, walk: Walk, *, now: datetime) -> Trail | None:
        """See `ports.Graph.trail`."""
        records = await self._walk(scope, walk, now, memories=False)
        version, found, holds_until = records[0][:3]
        if not found:
            return None
        steps = [(record[5], record[3], record[4]) for record in records if record[3] is not None]
        return Trail(steps, version, holds_until)

    async def walked(self, scope: Scope, walked: Walked, *, now: datetime) -> Neighbourhood | None:
        """See `ports.LinkStore.walked`."""
        ids = [id_ for id_, _, _ in walked.found]
        records = await self._pool.fetch(LINKS.walked, scope.id, ids, now)
        version, lineage = records[0][:2]
        found = [record for record in records if record[2] is not None]
        if (version, lineage) != (walked.version, walked.mark.lineage) or len(found) < len(ids):
            return None
        results = [
            read_related(scope.user_id, record, 2, depth, weight)
            for record, (_, depth, weight) in zip(found, walked.found, strict=True)
        ]
        return Neighbourhood(results, version, walked.expires_at)

    async def confirmed(self, scope: Scope, walked: Walked) -> Trail | None:
        """See `ports.LinkStore.confirmed`."""
        (standing,) = await self._pool.fetch(LINKS.standing, scope.id)
        if tuple(standing) != (walked.version, walked.mark.lineage):
            return None
        return Trail(walked.found, walked.version, walked.expires_at)

    async def _walk(self, scope: Scope, walk: Walk, now: datetime, *, memories: bool) -> Sequence[Any]:
        asked = (walk.start, now, walk.depth, walk.limit, walk.type, walk.min_weight, FANOUT_LINKS, LEVEL_MEMORIES)
        return await self._pool.fetch(LINKS.related, scope.id, *asked, memories)


def read_link(record: Any, start: int = 0) -> Link:
    """A link of a row whose columns from `start` on are from_id, to_id, type and on to created_at, version."""
    from_id, to_id, type_, weight, directed, metadata, created_at, version = record[start : start + 8]
    return Link(
        from_id=from_id,
        to_id=to_id,
        type=type_,
        weight=weight,
        directed=directed,
        metadata=metadata,
        created_at=created_at,
        version=version,
    )


def link_values(link: Link) -> tuple[Any, ...]:
    """The values of a row but for the scope's id, in the order of `put_link`."""
    key = (link.from_id, link.to_id, link.type)
    return (*key, link.weight, link.directed, link.metadata, link.created_at, link.version)
