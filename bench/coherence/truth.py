"""The database beside the service: what it holds, and changes that the service is not told of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg

from memfast.model import derive_scope_id

__all__ = ["Database", "open_database"]

_SETTLE_S = 60.0
_POLL_S = 0.02


class Database:
    """`driver.Truth` over connections of its own."""

    def __init__(self, pool: Any, secret: bytes) -> None:
        self._pool = pool
        self._secret = secret
        self._before: set[int] = set()
        self._left = 0

    async def sessions(self) -> set[int]:
        """The server processes that serve workers now."""
        rows = await self._pool.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = 'memfast'")
        return {row["pid"] for row in rows}

    async def remember(self, sessions: int) -> None:
        """Before a worker is killed: when `sessions` of those that are there now have ended, it has no more."""
        self._before = await self.sessions()
        self._left = max(0, len(self._before) - sessions)

    async def settle(self, user_id: str) -> int:
        """See `driver.Truth.settle`."""
        async with asyncio.timeout(_SETTLE_S):
            while len(self._before & await self.sessions()) > self._left:
                await asyncio.sleep(_POLL_S)
        return await self._pool.fetchval("SELECT version FROM scopes WHERE scope_id = $1", self._scope_id(user_id)) or 0

    async def touch(self, user_id: str, target: str, text: str) -> None:
        """See `driver.Truth.touch`."""
        async with self._pool.acquire() as connection, connection.transaction():
            row = await connection.fetchrow(
                "UPDATE scopes SET version = version + 1 WHERE scope_id = $1 RETURNING scope_id, version",
                self._scope_id(user_id),
            )
            done = await connection.execute(
                "UPDATE memories SET text = $3, version = $4 WHERE scope_id = $1 AND id = $2",
                row["scope_id"],
                UUID(target),
                text,
                row["version"],
            )
            assert done == "UPDATE 1"

    def _scope_id(self, user_id: str) -> UUID:
        return derive_scope_id(self._secret, "default", user_id)


@asynccontextmanager
async def open_database(arguments: dict[str, Any]) -> AsyncIterator[Database]:
    """Connect to the service's PostgreSQL."""
    settings = {"application_name": "coherence"}
    async with asyncpg.create_pool(**arguments, min_size=1, max_size=4, server_settings=settings) as pool:
        yield Database(pool, await pool.fetchval("SELECT secret FROM database"))
