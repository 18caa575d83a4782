"""Access statistics in PostgreSQL: `ports.AccessLog`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from memfast.model import AskedQuery, HotScope, Scope, ScopeReads
from memfast.store.pool import Pool
from memfast.store.queries import ACCESS

__all__ = ["PostgresAccessLog"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[AskedQuery]).decode

QUERIES_MAX = 50
"""Questions that are kept of a scope."""


class PostgresAccessLog:
    """Reads and questions by scope, a row each."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def record(self, reads: Sequence[ScopeReads], *, now: datetime) -> None:
        """See `ports.AccessLog.record`."""
        async with self._pool.connection("write") as connection:
            rows = await connection.fetch(ACCESS.known_access, [item.scope_id for item in reads])
            known = {row["scope_id"]: _decode(row["queries"]) for row in rows}
            values = [
                (item.scope_id, item.reads, now, _encode(_merged(known.get(item.scope_id, []), item.queries)))
                for item in reads
            ]
            await connection.executemany(ACCESS.record_access, values)

    async def hottest(self, limit: int, *, unread: bool = False) -> list[HotScope]:
        """See `ports.AccessLog.hottest`."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(ACCESS.every_scope if unread else ACCESS.hottest, limit)
        return [_hot(row) for row in rows]

    async def named(self, namespace: str, user_ids: Sequence[str]) -> list[HotScope]:
        """See `ports.AccessLog.named`."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(ACCESS.named_scopes, namespace, user_ids)
        return [_hot(row) for row in rows]


def _merged(known: list[AskedQuery], new: Sequence[AskedQuery]) -> list[AskedQuery]:
    """Both, the most frequent first; what was asked before counts half: questions go out of fashion."""
    counts: dict[bytes, int] = {query.request: query.count // 2 for query in known}
    for query in new:
        counts[query.request] = counts.get(query.request, 0) + query.count
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:QUERIES_MAX]
    return [AskedQuery(request, count) for request, count in ranked if count > 0]


def _hot(row: Any) -> HotScope:
    scope_id: UUID = row["scope_id"]
    return HotScope(
        scope=Scope(scope_id, row["namespace"], row["user_id"]),
        memories=row["memories"],
        version=row["version"],
        reads=row["reads"],
        queries=[] if row["queries"] is None else _decode(row["queries"]),
    )
