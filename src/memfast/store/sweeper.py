"""What is due in all scopes, and the end of old history: `ports.Sweeper`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from memfast.model import Scope
from memfast.store.pool import Pool
from memfast.store.queries import ADMIN, WRITE

__all__ = ["PostgresSweeper"]

_WALK_SCOPES = 1000
"""Scopes that one statement looks at."""

_FIRST = UUID(int=0)


class PostgresSweeper:
    """Walks the indexes of what passes, from scope to scope."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def claim(self, name: str, *, now: datetime, unless_within: timedelta) -> bool:
        """See `ports.Sweeper.claim`."""
        async with self._pool.connection("bulk") as connection:
            return await connection.fetchval(ADMIN.claim_sweep, name, now, now - unless_within) is not None

    async def expiring(self, after: UUID | None, *, now: datetime) -> tuple[list[Scope], UUID | None]:
        """See `ports.Sweeper.expiring`."""
        return _due(await self._walk(ADMIN.walk_expiring, after, now), limit=_WALK_SCOPES)

    async def outdated(self, after: UUID | None, *, before: datetime) -> tuple[list[Scope], UUID | None]:
        """See `ports.Sweeper.outdated`."""
        return _due(await self._walk(ADMIN.walk_outdated, after, before), limit=_WALK_SCOPES)

    async def lapsed(self, after: UUID | None, *, now: datetime) -> tuple[list[Scope], UUID | None]:
        """See `ports.Sweeper.lapsed`."""
        return _due(await self._walk(ADMIN.walk_lapsed, after, now), limit=_WALK_SCOPES)

    async def erase_keys(self, scope_id: UUID, *, now: datetime, limit: int) -> int:
        """See `ports.Sweeper.erase_keys`."""
        async with self._pool.connection("bulk") as connection, connection.transaction():
            await connection.execute(WRITE.lock_scope, scope_id)
            return int(await connection.fetchval(WRITE.erase_lapsed_keys, scope_id, now, limit))

    async def expired(self, scope_id: UUID, *, now: datetime, limit: int) -> list[UUID]:
        """See `ports.Sweeper.expired`."""
        async with self._pool.connection("bulk") as connection:
            return [row[0] for row in await connection.fetch(WRITE.expired_memories, scope_id, now, limit)]

    async def erase(self, scope_id: UUID, *, before: datetime, limit: int) -> int:
        """See `ports.Sweeper.erase`."""
        async with self._pool.connection("bulk") as connection, connection.transaction():
            await connection.execute(WRITE.lock_scope, scope_id)
            events = await connection.fetchval(WRITE.erase_old_history, scope_id, before, limit)
            tombstones = await connection.fetchval(WRITE.erase_old_tombstones, scope_id, before, limit)
        return int(max(events, tombstones or 0))

    async def _walk(self, statement: str, after: UUID | None, moment: datetime) -> list[Any]:
        async with self._pool.connection("bulk") as connection:
            rows: list[Any] = await connection.fetch(statement, after or _FIRST, moment, _WALK_SCOPES)
        return rows


def _due(rows: Sequence[Any], *, limit: int) -> tuple[list[Scope], UUID | None]:
    due = [Scope(row["scope_id"], row["namespace"], row["user_id"]) for row in rows if row["due"]]
    return due, rows[-1]["scope_id"] if len(rows) >= limit else None
