"""API keys in PostgreSQL: `ports.KeyStore`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from memfast.credentials import KeyRecord, NewKey
from memfast.store.pool import Pool
from memfast.store.queries import ADMIN

__all__ = ["PostgresKeys"]


class PostgresKeys:
    """Keys by digest. Every change raises `keys_generation`, which workers watch."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, digest: bytes) -> KeyRecord | None:
        """See `ports.KeyStore.find`."""
        async with self._pool.connection() as connection:
            row = await connection.fetchrow(ADMIN.find_key, digest)
        return None if row is None else _record(row)

    async def create(self, key: NewKey, *, now: datetime) -> KeyRecord:
        """See `ports.KeyStore.create`."""
        async with self._pool.connection() as connection:
            await connection.execute(ADMIN.create_key, key.id, key.digest, key.namespace, key.user_id, key.role, now)
        return KeyRecord(id=key.id, namespace=key.namespace, user_id=key.user_id, role=key.role, created_at=now)

    async def all(self) -> list[KeyRecord]:
        """See `ports.KeyStore.all`."""
        async with self._pool.connection() as connection:
            rows = await connection.fetch(ADMIN.all_keys)
        return [_record(row) for row in rows]

    async def revoke(self, key_id: str, *, now: datetime) -> bool:
        """See `ports.KeyStore.revoke`."""
        async with self._pool.connection() as connection:
            return await connection.fetchval(ADMIN.revoke_key, key_id, now) is not None


def _record(row: Any) -> KeyRecord:
    return KeyRecord(
        id=row["id"],
        namespace=row["namespace"],
        user_id=row["user_id"],
        role=row["role"],
        created_at=row["created_at"],
        revoked_at=row["revoked_at"],
    )
