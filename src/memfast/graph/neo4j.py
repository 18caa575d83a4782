"""The copy of the links in Neo4j (`ports.Projection`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from msgspec import Struct
from neo4j import AsyncTransaction

from memfast.errors import GraphUnavailable
from memfast.graph.driver import Connections
from memfast.graph.fold import Fold, Row, microseconds, moment
from memfast.graph.queries import COPY, SCHEMA, walk_statement
from memfast.links import FANOUT_LINKS, LEVEL_MEMORIES, Walk
from memfast.projection import Change, Mark, OtherMarkError, Step, Walked

__all__ = ["Neo4jProjection"]

_log = logging.getLogger("memfast.graph")

PING_INTERVAL_S = 1.0
"""Time between pings, in seconds. They find out that Neo4j is away before requests do, and that it is back."""

PREPARE_PINGS = 30
"""Pings between two looks whether the server still has the plans; it drops them where somebody changes indexes."""

DEPTHS = (2, 1, 3, 4)
"""Of walks, in the order in which they are planned: first the one that is asked for where nobody says which."""

ERASED_ROWS = 5000
"""Nodes or links that are erased in one transaction."""

WRITTEN_ROWS = 1000
"""Rows of one statement that writes."""

TOMBSTONE_VERSIONS = 1000
"""Versions of a scope for which tombstones are kept: as far back steps may come again."""


_NOWHERE = UUID(int=0)
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class _Standing(Struct, frozen=True):
    """A scope: its version, 0 where it does not show; how often it was emptied; whether it has yet to be loaded."""

    version: int = 0
    loads: int = 0
    loading: int | None = None


class Neo4jProjection:
    """See `ports.Projection`, `copy.cypher` and `walk.cypher`.

    Args:
        connections: to the server.
        apoc: whether APOC follows the links; None = where the server has it.
    """

    engine = "neo4j"

    def __init__(self, connections: Connections, *, apoc: bool | None = None) -> None:
        self._connections = connections
        self._apoc = apoc
        self._walks: dict[int, str] = {}
        self._pings = 0

    async def mark(self) -> Mark | None:
        """See `ports.Projection.mark`."""
        rows = await self._connections.look(COPY.mark)
        return Mark(UUID(rows[0][0]), rows[0][1]) if rows else None

    async def begin(self, mark: Mark) -> None:
        """See `ports.Projection.begin`."""
        self._walks = {}  # indexes make plans void
        for statement in (*SCHEMA, COPY.await_indexes):
            await self._connections.write(statement)
        building = f"{mark.lineage}:{mark.epoch}"
        await self._connections.write(COPY.unmark, mark=building)
        for statement in (COPY.erase_links, COPY.erase_nodes):
            erased = ERASED_ROWS
            while erased == ERASED_ROWS:
                rows = await self._connections.write(statement, mark=building, limit=ERASED_ROWS)
                erased = _required(rows)[0]
        _required(
            await self._connections.write(COPY.take_mark, mark=building, lineage=str(mark.lineage), epoch=mark.epoch)
        )
        await self.prepare()

    async def apply(self, mark: Mark, steps: Sequence[Step]) -> set[UUID]:
        """See `ports.Projection.apply`. The versions follow in a second transaction; see `reach` in `copy.cypher`."""
        steps = _lasting(steps)
        scope_ids = sorted({step.scope_id for step in steps})
        emptied = await self._empty(mark, steps, await self._standings(scope_ids))
        fold, reached, gaps = Fold(), dict[UUID, int](), set[UUID]()
        async with self._locked(mark) as transaction:
            await _write(transaction, COPY.put_scopes, [{"scope_id": str(scope_id)} for scope_id in scope_ids])
            standings = _standings(await _rows(transaction, COPY.standings, scope_ids=_texts(scope_ids)))
            for step in steps:
                standing = standings[step.scope_id]
                version = reached.get(step.scope_id, standing.version)
                if step.version <= version or step.scope_id in gaps:
                    continue
                foreign = step.forgotten or standing.loading is not None  # unless it was emptied for this
                if (foreign and emptied.get(step.scope_id) != standing.loads) or step.misses(version):
                    gaps.add(step.scope_id)
                    continue
                fold.take(step.scope_id, step.version, step.changes)
                reached[step.scope_id] = step.version
            await _put(transaction, fold)
            await _prune(transaction, reached)
        await self._reach(mark, {each: (version, standings[each].loads) for each, version in reached.items()})
        return gaps

    async def load(self, mark: Mark, scope_id: UUID, version: int, pages: AsyncIterator[Sequence[Change]]) -> None:
        """See `ports.Projection.load`. Where somebody else begins to load the scope, this ends."""
        loads = await self._begin_load(mark, scope_id, version)
        if loads is None or not await self._erase_scope(mark, scope_id, loads):
            return
        async for page in pages:
            fold = Fold()
            fold.take(scope_id, version, page)
            async with self._locked(mark) as transaction:
                if not await _rows(transaction, COPY.loading, scope_id=str(scope_id), loads=loads):
                    return
                await _put(transaction, fold)
        async with self._locked(mark) as transaction:
            await _rows(transaction, COPY.end_load, scope_id=str(scope_id), loads=loads, version=version)

    async def versions(self, scope_ids: Sequence[UUID]) -> dict[UUID, int]:
        """See `ports.Projection.versions`."""
        rows = await self._connections.look(COPY.versions, scope_ids=_texts(scope_ids))
        return {UUID(scope_id): version for scope_id, version in rows}

    async def counts(self, scope_id: UUID) -> tuple[int, int]:
        """See `ports.Projection.counts`."""
        ((nodes, links),) = await self._connections.look(COPY.counts, scope_id=str(scope_id))
        return nodes, links

    async def related(self, scope_id: UUID, walk: Walk, *, now: datetime) -> Walked | None:
        """See `ports.Projection.related`. Also None where the scope was changed while it was walked over."""
        statement = self._walks.get(walk.depth)
        if statement is None:
            raise GraphUnavailable("Neo4j has not planned such walks yet", begun=False)
        rows = await self._connections.read(statement, **_walk_values(scope_id, walk, now))
        if not rows:
            return None
        ((version, lineage, epoch, start, expires_at, levels),) = rows
        found = [(UUID(id_), depth, weight) for depth, level in enumerate(levels, 1) for id_, weight in level]
        return Walked(Mark(UUID(lineage), epoch), version, start, found[: walk.limit], moment(expires_at))

    async def prepare(self) -> None:
        """See whether APOC is there, and let the server plan every walk, which takes longer than a walk may.

        Each is made from the moment of its plan on, the usual depth first.

        Raises:
            GraphUnavailable: it did not answer.
        """
        apoc = self._apoc
        if apoc is None:
            apoc = bool((await self._connections.look(COPY.procedures))[0][0])
        for depth in DEPTHS:
            statement, nothing = walk_statement(depth, apoc=apoc), Walk(start=_NOWHERE, depth=depth, limit=1)
            await self._connections.plan(statement, **_walk_values(_NOWHERE, nothing, _NEVER))
            self._walks[depth] = statement

    async def watch(self) -> None:
        """Ping for ever, and prepare whatever server answers after a silence."""
        while True:
            try:
                await self._connections.ping()
                if len(self._walks) < len(DEPTHS) or self._pings % PREPARE_PINGS == 0:
                    await self.prepare()
                self._pings += 1
            except GraphUnavailable as error:
                _log.debug("Neo4j is not ready for walks: %s", error)
                self._walks, self._pings = {}, 0
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("the watch over Neo4j failed")
            await asyncio.sleep(PING_INTERVAL_S)

    async def close(self) -> None:
        """See `ports.Projection.close`."""
        await self._connections.close()

    async def _standings(self, scope_ids: Sequence[UUID]) -> dict[UUID, _Standing]:
        found = await self._connections.look(COPY.standings, scope_ids=_texts(scope_ids))
        return dict.fromkeys(scope_ids, _Standing()) | _standings(found)

    async def _empty(self, mark: Mark, steps: Sequence[Step], standings: Mapping[UUID, _Standing]) -> dict[UUID, int]:
        """Empty scopes that steps forget, or that nobody has loaded to the end; returns how often each was then."""
        emptied: dict[UUID, int] = {}
        for step in steps:
            standing = standings[step.scope_id]
            wanted = step.forgotten or (standing.loading is not None and not step.base)
            if not wanted or step.version <= standing.version or step.scope_id in emptied:
                continue
            loads = await self._begin_load(mark, step.scope_id, step.version)
            if loads is not None and await self._erase_scope(mark, step.scope_id, loads):
                emptied[step.scope_id] = loads
        return emptied

    async def _begin_load(self, mark: Mark, scope_id: UUID, version: int) -> int | None:
        async with self._locked(mark) as transaction:
            rows = await _rows(transaction, COPY.begin_load, scope_id=str(scope_id), version=version)
        return rows[0][0] if rows else None

    async def _erase_scope(self, mark: Mark, scope_id: UUID, loads: int) -> bool:
        """Erase what a scope has, in several transactions; False where somebody else loads it meanwhile."""
        for statement in (COPY.erase_links_of_scope, COPY.erase_nodes_of_scope):
            erased = ERASED_ROWS
            while erased == ERASED_ROWS:
                async with self._locked(mark) as transaction:
                    if not await _rows(transaction, COPY.loading, scope_id=str(scope_id), loads=loads):
                        return False
                    erased = (await _rows(transaction, statement, scope_id=str(scope_id), limit=ERASED_ROWS))[0][0]
        return True

    async def _reach(self, mark: Mark, reached: Mapping[UUID, tuple[int, int]]) -> None:
        rows = [
            {"scope_id": str(scope_id), "version": version, "loads": loads}
            for scope_id, (version, loads) in reached.items()
        ]
        if rows:
            async with self._locked(mark) as transaction:
                await _write(transaction, COPY.reach, rows)

    @asynccontextmanager
    async def _locked(self, mark: Mark) -> AsyncIterator[AsyncTransaction]:
        """A transaction beside which nobody changes anything, if the copy bears the mark."""
        async with self._connections.transaction() as transaction:
            if not await _rows(transaction, COPY.lock, lineage=str(mark.lineage), epoch=mark.epoch):
                raise OtherMarkError
            yield transaction


async def _rows(transaction: AsyncTransaction, statement: str, **values: Any) -> list[list[Any]]:
    result = await transaction.run(statement, values)
    return [record.values() async for record in result]


async def _write(transaction: AsyncTransaction, statement: str, rows: Sequence[Row]) -> None:
    for start in range(0, len(rows), WRITTEN_ROWS):
        await (await transaction.run(statement, rows=rows[start : start + WRITTEN_ROWS])).consume()


async def _put(transaction: AsyncTransaction, fold: Fold) -> None:
    await _write(transaction, COPY.sever, fold.severed())
    await _write(transaction, COPY.put_nodes, fold.nodes())
    await _write(transaction, COPY.put_links, fold.links())


async def _prune(transaction: AsyncTransaction, reached: Mapping[UUID, int]) -> None:
    rows = [
        {"scope_id": str(scope_id), "version": version - TOMBSTONE_VERSIONS}
        for scope_id, version in reached.items()
        if version > TOMBSTONE_VERSIONS
    ]
    await _write(transaction, COPY.prune_nodes, rows)
    await _write(transaction, COPY.prune_links, rows)


def _lasting(steps: Sequence[Step]) -> list[Step]:
    """Without those after which the same scope was forgotten."""
    forgotten = {step.scope_id: step.version for step in steps if step.forgotten}
    return [step for step in steps if step.version >= forgotten.get(step.scope_id, 0)]


def _standings(rows: Sequence[Sequence[Any]]) -> dict[UUID, _Standing]:
    return {UUID(scope_id): _Standing(*standing) for scope_id, *standing in rows}


def _required(rows: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """The one row that there is unless somebody else has begun to build the copy."""
    if not rows:
        raise OtherMarkError
    return rows[0]


def _texts(ids: Sequence[UUID]) -> list[str]:
    return [str(each) for each in ids]


def _walk_values(scope_id: UUID, walk: Walk, now: datetime) -> dict[str, Any]:
    return {
        "scope_id": str(scope_id),
        "start": str(walk.start),
        "now": microseconds(now),
        "limit": walk.limit,
        "only": {"type": walk.type},
        "min_weight": walk.min_weight,
        "fanout": FANOUT_LINKS,
        "level": LEVEL_MEMORIES,
    }
