"""The outbox in PostgreSQL, for whoever relays it: `service.relay.Outbox`."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import UUID

from memfast.links import LinkKey
from memfast.projection import Change, LinkPut, NodePut, Step
from memfast.readings import Backlog
from memfast.service.relay import Content, Due, Loading, Standing, State, Taken
from memfast.store.outbox import decode_changes
from memfast.store.pool import Pool
from memfast.store.queries import OUTBOX

__all__ = ["PostgresOutbox"]

TURN_SCOPES = 64
"""Scopes of one turn."""

SCOPE_STEPS = 50
"""Steps of one scope in a turn."""

TURN_STEPS = 200
"""Steps of a turn: with their changes they are in memory at once."""

PAGE_ROWS = 1000
"""Memories or links of a page of a load."""

SWITCH_S = 3.0
"""How long writers may be stopped when a copy begins, in seconds."""

_LOAD_SCOPES = 16
_FIRST = UUID(int=0)


class PostgresOutbox:
    """Over a pool of its own: a connection is held while the copy is written to."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def standing(self) -> Standing:
        """See `Outbox.standing`."""
        async with self._pool.connection("bulk") as connection:
            row = await connection.fetchrow(OUTBOX.state)
        return Standing(lineage=row["lineage"], epoch=row["epoch"], state=row["state"], building=row["building"])

    async def backlog(self, limit: int) -> Backlog:
        """See `Outbox.backlog`."""
        async with self._pool.connection("bulk") as connection:
            row = await connection.fetchrow(OUTBOX.backlog, limit)
        return Backlog(
            epoch=row["epoch"],
            state=row["state"],
            building=row["building"],
            pending=row["pending"],
            loads=row["loads"],
            oldest_s=max(0.0, row["oldest_s"] or 0.0),
        )

    async def switch_on(self) -> int:
        """See `Outbox.switch_on`.

        Raises:
            DeadlineExceeded: writers did not stop in time.
        """
        async with self._pool.connection("bulk") as connection, connection.transaction():
            await connection.execute(OUTBOX.bound, f"{int(SWITCH_S * 1000)}ms")
            await connection.execute(OUTBOX.stop_writers)
            return int(await connection.fetchval(OUTBOX.switch_on))

    async def switch_off(self, state: State) -> None:
        """See `Outbox.switch_off`."""
        async with self._pool.connection("bulk") as connection:
            await connection.execute(OUTBOX.switch_off, state)

    async def empty(self, limit: int) -> int:
        """See `Outbox.empty`."""
        async with self._pool.connection("bulk") as connection:
            return int(await connection.fetchval(OUTBOX.empty, limit))

    @asynccontextmanager
    async def beginning(self) -> AsyncIterator[bool]:
        """See `Outbox.beginning`."""
        async with self._pool.connection("bulk") as connection, connection.transaction():
            yield bool(await connection.fetchval(OUTBOX.claim_building))

    @asynccontextmanager
    async def taken(self, after: UUID) -> AsyncIterator[Taken]:
        """See `Outbox.taken`."""
        async with self._pool.connection("bulk") as connection, connection.transaction():
            rows = await connection.fetch(OUTBOX.take_steps, after, SCOPE_STEPS, TURN_SCOPES, TURN_STEPS)
            taken = _taken(rows)
            yield taken
            if taken.applied:
                keys = [step.scope_id for step in taken.applied], [step.version for step in taken.applied]
                await connection.execute(OUTBOX.delete_steps, *keys)
            if taken.gaps:
                await connection.execute(OUTBOX.ask_for_load, list(taken.gaps))

    @asynccontextmanager
    async def load(self, after: UUID) -> AsyncIterator[Loading | None]:
        """See `Outbox.load`."""
        async with self._pool.connection("bulk") as connection, connection.transaction():
            scope_id = await connection.fetchval(OUTBOX.take_load, after, _LOAD_SCOPES)
            loading = None if scope_id is None else Loading(scope_id)
            yield loading
            if loading is not None:
                await connection.execute(OUTBOX.delete_loaded, loading.scope_id, loading.version)

    @asynccontextmanager
    async def content(self, scope_id: UUID) -> AsyncIterator[Content | None]:
        """See `Outbox.content`."""
        async with (
            self._pool.connection("bulk") as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            version = await connection.fetchval(OUTBOX.scope_version, scope_id)
            async with aclosing(_pages(connection, scope_id)) as pages:
                yield None if version is None else Content(version, pages)

    async def ask_for_next_loads(self, epoch: int, limit: int) -> bool:
        """See `Outbox.ask_for_next_loads`."""
        async with self._pool.connection("bulk") as connection:
            return bool(await connection.fetchval(OUTBOX.ask_for_next_loads, epoch, limit))

    async def scopes(self) -> tuple[int, int]:
        """See `Outbox.scopes`."""
        async with self._pool.connection("bulk") as connection:
            total, to_come = await connection.fetchrow(OUTBOX.scopes)
        return total, to_come


def _taken(rows: Sequence[Any]) -> Taken:
    steps = Counter(row["scope_id"] for row in rows)
    rest = len(steps) >= TURN_SCOPES or len(rows) >= TURN_STEPS
    return Taken(
        due=[_due(row) for row in rows if row["version"] is not None],
        after=rows[-1]["scope_id"] if rest else _FIRST,
        more=rest or max(steps.values(), default=0) >= SCOPE_STEPS,
        applied=[],
        gaps=set(),
    )


def _due(row: Any) -> Due:
    step = Step(row["scope_id"], row["version"], decode_changes(row["changes"]), row["forgotten"], row["base"])
    return Due(step, max(0.0, row["age_s"]))


async def _pages(connection: Any, scope_id: UUID) -> AsyncGenerator[Sequence[Change], None]:
    """Everything of a scope: nodes, then links."""
    last = _FIRST
    while nodes := await connection.fetch(OUTBOX.nodes, scope_id, last, PAGE_ROWS):
        last = nodes[-1]["id"]
        yield [NodePut(*row) for row in nodes]
    key = LinkKey(_FIRST, _FIRST, "")
    while links := await connection.fetch(OUTBOX.links, scope_id, key.from_id, key.to_id, key.type, PAGE_ROWS):
        key = LinkKey(*links[-1][:3])
        yield [LinkPut(*row) for row in links]
