"""What the database says of itself: `ports.Ledger`."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from memfast.model import DatabaseFacts
from memfast.store.outbox import NO_CHANGES
from memfast.store.pool import Pool
from memfast.store.queries import ADMIN

__all__ = ["PostgresLedger"]


class PostgresLedger:
    """Facts and versions, read in one statement, which is the sign of life that closes an open breaker."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def versions(self, scope_ids: Sequence[UUID]) -> tuple[DatabaseFacts, list[tuple[UUID, int]]]:
        """See `ports.Ledger.versions`."""
        async with self._pool.ping() as connection:
            row = await connection.fetchrow(ADMIN.database_facts, scope_ids)
        facts = DatabaseFacts(
            lineage=row["lineage"],
            schema=row["schema"],
            keys_generation=row["keys_generation"],
            wal=row["wal"],
            era=row["copies_era"],
            generation=row["generation"],
        )
        return facts, list(zip(row["scope_ids"] or (), row["versions"] or (), strict=True))

    async def begin_life(self, old: UUID) -> None:
        """See `ports.Ledger.begin_life`."""
        async with self._pool.connection() as connection:
            await connection.execute(ADMIN.begin_life, old)

    async def begin_era(self) -> int:
        """See `ports.Ledger.begin_era`."""
        async with self._pool.connection() as connection:
            era: int = await connection.fetchval(ADMIN.begin_era)
        return era

    async def raise_version(self, scope_id: UUID) -> int:
        """See `ports.Ledger.raise_version`."""
        async with self._pool.connection() as connection:
            version: int | None = await connection.fetchval(ADMIN.raise_version, scope_id, NO_CHANGES)
        return version or 0
