"""Transactions whose COMMIT is never left in doubt while its fate can be learned."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import asyncpg

from memfast.errors import OutcomeUnknown, StoreUnavailable, Unavailable
from memfast.store.pool import Pool
from memfast.store.queries import WRITE

__all__ = ["Commit"]

_STATUS_POLL_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 2.0, 3.0)
"""Waits between questions for a transaction's fate after a broken COMMIT, in seconds."""

_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a COMMIT fails with, whoever says so: the network, the server, or the driver. A timeout is an OSError."""


class Commit:
    """A transaction whose COMMIT is never left in doubt while its fate can be learned."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transaction_id: str | None = None
        self._server_life: datetime | None = None

    def transaction(self, connection: Any) -> _Context:
        """BEGIN on entry; COMMIT or ROLLBACK on exit."""
        return _Context(self, connection)

    def began(self, row: Any) -> None:
        """Its first write told its number."""
        self._transaction_id, self._server_life = row["transaction_id"], row["server_life"]

    @property
    def wrote(self) -> bool:
        """Whether there is anything to be in doubt about."""
        return self._transaction_id is not None

    async def resolve(self, cause: BaseException) -> None:
        """Return when the transaction is known to be committed.

        Raises:
            StoreUnavailable: it was rolled back: nothing was written.
            OutcomeUnknown: the server did not tell in time, or crashed.
        """
        for wait_s in _STATUS_POLL_S:
            status, same_life = await self._status()
            if status == "committed" and same_life:
                return
            if status == "committed":
                break
            if status == "aborted":
                raise StoreUnavailable("the connection broke and the write was rolled back; repeat it") from cause
            await asyncio.sleep(wait_s)
        raise OutcomeUnknown(
            "the connection broke at COMMIT and the database cannot say whether the write happened; "
            "read it back before repeating it"
        ) from cause

    async def _status(self) -> tuple[str | None, bool]:
        try:
            async with self._pool.ping() as connection:
                row = await connection.fetchrow(WRITE.transaction_status, self._transaction_id, self._server_life)
        except asyncpg.InvalidParameterValueError:  # a number not given out yet: a crash took the transaction with it
            return "aborted", False
        except (Unavailable, asyncpg.PostgresError):  # whatever keeps the server from telling says nothing of the write
            return None, False
        return row["status"], row["same_life"]


class _Context:
    """BEGIN on entry; COMMIT or ROLLBACK on exit; a connection lost at COMMIT is resolved."""

    def __init__(self, commit: Commit, connection: Any) -> None:
        self._commit = commit
        self._transaction = connection.transaction()

    async def __aenter__(self) -> None:
        await self._transaction.start()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            await self._roll_back()
            return
        try:
            await self._transaction.commit()
        except _BROKEN as broken:
            if not self._commit.wrote or _rolled_back(broken):
                raise
            await self._commit.resolve(broken)

    async def _roll_back(self) -> None:
        try:
            await self._transaction.rollback()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return  # the connection is gone and the transaction with it; the first error is the one to tell


def _rolled_back(error: BaseException) -> bool:
    """Whether the server itself said so: an ERROR, while FATAL and PANIC end a session whose COMMIT may stand."""
    return isinstance(error, asyncpg.PostgresError) and getattr(error, "severity_en", None) == "ERROR"
