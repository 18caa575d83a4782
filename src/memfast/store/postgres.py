"""The store of record over asyncpg: `ports.MemoryStore`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, overload
from uuid import UUID

import asyncpg
import numpy as np
from numpy.typing import NDArray

from memfast.errors import NotFound, OutcomeUnknown, StoreUnavailable, Unavailable
from memfast.model import (
    Change,
    Create,
    Delete,
    Delta,
    ForgetReceipt,
    Listing,
    Memory,
    MemoryPage,
    NearestRows,
    Outcome,
    Scope,
    Snapshot,
    StoreHealth,
    User,
    UserPage,
)
from memfast.store.flush import Row, plan
from memfast.store.pool import Pool, ServerFacts, decode_vectors
from memfast.store.queries import READ, WRITE

__all__ = ["PostgresStore"]

_COPY_FROM_ROWS = 8
"""From this many new rows on, COPY is faster than one INSERT a row."""

_LOAD_ROWS = 1000
"""Rows of a load that are decoded at once: the event loop runs between."""

_STATUS_POLL_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 2.0, 3.0)
"""Waits between questions for a transaction's fate after a broken COMMIT, in seconds."""

_FIRST = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))
_LAST = (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))

_MEMORY_COLUMNS = (
    "scope_id",
    "id",
    "version",
    "text",
    "kind",
    "tags",
    "entities",
    "importance",
    "metadata",
    "agent_id",
    "run_id",
    "source",
    "created_at",
    "updated_at",
    "expires_at",
)
_VECTOR_COLUMNS = ("scope_id", "generation", "id", "expires_at", "embedding")


class PostgresStore:
    """Memories in PostgreSQL with pgvector. `generation` names the embedder whose vectors are read and written."""

    def __init__(self, pool: Pool, *, generation: int, dimensions: int, schema: int, facts: ServerFacts) -> None:
        self._pool = pool
        self._generation = generation
        self._dimensions = dimensions
        self._schema = schema
        self._facts = facts

    async def apply(self, changes: Sequence[Change], *, now: datetime) -> list[Outcome]:
        """See `ports.MemoryStore.apply`."""
        by_scope: dict[UUID, list[int]] = {}
        for position, change in enumerate(changes):
            by_scope.setdefault(change.scope.id, []).append(position)
        outcomes: list[Outcome | None] = [None] * len(changes)
        commit = _Commit(self._pool)
        async with self._pool.connection() as connection, commit.transaction(connection):
            for scope_id in sorted(by_scope):
                positions = by_scope[scope_id]
                results = await self._apply_scope(
                    connection, commit, [changes[position] for position in positions], now
                )
                for position, outcome in zip(positions, results, strict=True):
                    outcomes[position] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    async def _apply_scope(
        self, connection: Any, commit: _Commit, changes: list[Change], now: datetime
    ) -> list[Outcome]:
        expected = sum(isinstance(c, Create) for c in changes) - sum(isinstance(c, Delete) for c in changes)
        version = await self._raise_version(connection, commit, changes, expected, now)
        if version is None:
            return [
                Outcome(id=_target(c), refused=NotFound(f"the user has no memory with the id {_target(c)}"))
                for c in changes
            ]
        existing = await self._existing(connection, changes)
        flush = plan(changes, existing, first_version=version - len(changes) + 1, now=now)
        scope = changes[0].scope
        await self._write_rows(connection, scope, flush.rows, existing, now)
        if flush.count_delta != expected:
            await connection.execute(WRITE.correct_count, scope.id, flush.count_delta - expected)
        return flush.outcomes

    async def _raise_version(
        self, connection: Any, commit: _Commit, changes: list[Change], expected: int, now: datetime
    ) -> int | None:
        scope = changes[0].scope
        if any(isinstance(change, Create) for change in changes):
            row = await connection.fetchrow(
                WRITE.raise_version,
                scope.id,
                scope.namespace,
                scope.user_id,
                self._generation,
                len(changes),
                expected,
                now,
            )
        else:
            row = await connection.fetchrow(WRITE.raise_existing_version, scope.id, len(changes), expected, now)
            if row is None:
                return None
        commit.began(row)
        return int(row["version"])

    async def _existing(self, connection: Any, changes: list[Change]) -> dict[UUID, Row]:
        ids = [_target(change) for change in changes if not (isinstance(change, Create) and change.fresh_id)]
        if not ids:
            return {}
        user_id = changes[0].scope.user_id
        records = await connection.fetch(WRITE.existing_memories, changes[0].scope.id, ids)
        return {
            record[0]: Row(
                memory=None if record[14] is not None else _memory(user_id, record),
                version=record[13],
                stored=True,
            )
            for record in records
        }

    async def _write_rows(
        self, connection: Any, scope: Scope, rows: dict[UUID, Row], existing: dict[UUID, Row], now: datetime
    ) -> None:
        fresh: list[Row] = []
        for target, row in rows.items():
            if row.memory is None:
                if row.stored:
                    await connection.execute(WRITE.bury_memory, scope.id, target, row.version, now)
                continue
            if not row.stored:
                fresh.append(row)
                continue
            await connection.execute(WRITE.replace_memory, *_memory_values(scope, row.memory))
            await self._write_vector(connection, scope, row.memory, row, existing[target])
        if len(fresh) >= _COPY_FROM_ROWS:
            await self._copy(connection, scope, fresh)
            return
        for row in fresh:
            if row.memory is not None:
                values = _memory_values(scope, row.memory)
                await connection.execute(WRITE.insert_memory, *values, self._generation, row.vector)

    async def _write_vector(self, connection: Any, scope: Scope, memory: Memory, row: Row, before: Row) -> None:
        key = (scope.id, self._generation, memory.id, memory.expires_at)
        if row.vector is not None:
            await connection.execute(WRITE.put_vector, *key, row.vector)
        elif before.memory is not None and before.memory.expires_at != memory.expires_at:
            await connection.execute(WRITE.set_vector_expiry, *key)

    async def _copy(self, connection: Any, scope: Scope, rows: list[Row]) -> None:
        memories = [_memory_values(scope, row.memory) for row in rows if row.memory is not None]
        vectors = [
            (scope.id, self._generation, row.memory.id, row.memory.expires_at, row.vector)
            for row in rows
            if row.memory is not None
        ]
        await connection.copy_records_to_table("memories", records=memories, columns=_MEMORY_COLUMNS)
        await connection.copy_records_to_table("memory_vectors", records=vectors, columns=_VECTOR_COLUMNS)

    async def get(self, scope: Scope, ids: Sequence[UUID], *, now: datetime) -> tuple[dict[UUID, Memory], int]:
        """See `ports.MemoryStore.get`."""
        async with self._pool.connection() as connection:
            records = await connection.fetch(READ.get_memories, scope.id, ids, now)
        memories = (_memory(scope.user_id, record, 1) for record in records if record[1] is not None)
        return {memory.id: memory for memory in memories}, records[0][0] or 0

    async def list(self, scope: Scope, listing: Listing, *, now: datetime) -> MemoryPage:
        """See `ports.MemoryStore.list`."""
        edge = _FIRST if listing.ascending else _LAST
        created_at, after = (listing.after.created_at, listing.after.id) if listing.after else edge
        statement = READ.list_ascending if listing.ascending else READ.list_descending
        async with self._pool.connection() as connection:
            records = await connection.fetch(
                statement,
                scope.id,
                now,
                created_at,
                after,
                listing.limit + 1,
                listing.kind,
                listing.tag,
                listing.agent_id,
                listing.run_id,
            )
        memories = [_memory(scope.user_id, record, 1) for record in records if record[1] is not None]
        expires_at = min((each.expires_at for each in memories if each.expires_at is not None), default=None)
        return MemoryPage(memories[: listing.limit], len(memories) > listing.limit, records[0][0] or 0, expires_at)

    async def nearest(self, scope: Scope, vector: NDArray[np.float32], limit: int, *, now: datetime) -> NearestRows:
        """See `ports.MemoryStore.nearest`."""
        async with self._pool.connection() as connection:
            records = await connection.fetch(READ.nearest, scope.id, self._generation, vector, limit, now)
        found = [record for record in records if record[2] is not None]
        vectors = decode_vectors([record[1] for record in found], self._dimensions)
        return NearestRows(_Rows(scope.user_id, found), vectors, records[0][0] or 0)

    async def load(self, scope: Scope) -> Snapshot:
        """See `ports.MemoryStore.load`."""
        memories: list[Memory] = []
        parts: list[NDArray[np.float32]] = []
        async with (
            self._pool.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            state = await connection.fetchrow(READ.scope_state, scope.id)
            cursor = await connection.cursor(READ.load_scope, scope.id, self._generation)
            while records := await cursor.fetch(_LOAD_ROWS):
                memories.extend(_memory(scope.user_id, record, 1) for record in records)
                parts.append(decode_vectors([record[0] for record in records], self._dimensions))
        vectors = np.concatenate(parts) if parts else np.empty((0, self._dimensions), dtype=np.float32)
        version, purged_to = (0, 0) if state is None else state
        return Snapshot(memories=memories, vectors=vectors, version=version, purged_to=purged_to)

    async def changes_since(self, scope: Scope, version: int) -> Delta | None:
        """See `ports.MemoryStore.changes_since`."""
        async with self._pool.connection() as connection:
            records = await connection.fetch(READ.changes_since, scope.id, version, self._generation)
        if not records:
            return None
        live = [record for record in records if record[2] is not None]
        deleted = [(record[3], record[16]) for record in records if record[3] is not None and record[2] is None]
        return Delta(
            since=version,
            version=records[0][0],
            purged_to=records[0][1],
            memories=[_memory(scope.user_id, record, 3) for record in live],
            vectors=decode_vectors([record[2] for record in live], self._dimensions),
            deleted=deleted,
        )

    async def users(self, namespace: str, after: str | None, limit: int) -> UserPage:
        """See `ports.MemoryStore.users`."""
        async with self._pool.connection() as connection:
            records = await connection.fetch(READ.users, namespace, after or "", limit + 1)
        return UserPage([_user(record) for record in records[:limit]], len(records) > limit)

    async def user(self, scope: Scope) -> User | None:
        """See `ports.MemoryStore.user`."""
        async with self._pool.connection() as connection:
            record = await connection.fetchrow(READ.user, scope.id)
        return None if record is None else _user(record)

    async def forget(self, scope: Scope, *, now: datetime) -> ForgetReceipt | None:
        """See `ports.MemoryStore.forget`."""
        commit = _Commit(self._pool)
        async with self._pool.connection() as connection, commit.transaction(connection):
            row = await connection.fetchrow(WRITE.forget_scope, scope.id, now)
            if row is None:
                return None
            commit.began(row)
            erased = await connection.fetchval(WRITE.forget_memories, scope.id)
        return ForgetReceipt(memories=erased, version=row["version"])

    async def check(self) -> StoreHealth:
        """See `ports.MemoryStore.check`."""
        started = time.perf_counter()
        async with self._pool.connection() as connection:
            await connection.execute(WRITE.touch_database)
        return StoreHealth(
            server_version=self._facts.server_version,
            pgvector_version=self._facts.pgvector_version,
            schema=self._schema,
            commit_ms=round((time.perf_counter() - started) * 1000, 3),
            pool_size=self._pool.size,
            pool_idle=self._pool.idle,
            pool_limit=self._pool.limit,
        )


_LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
)
"""What a COMMIT ends with when its answer cannot be had. A timeout is an OSError."""


class _Commit:
    """A transaction whose COMMIT is never left in doubt while its fate can be learned."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transaction_id: str | None = None
        self._server_life: datetime | None = None

    def transaction(self, connection: Any) -> _CommitContext:
        return _CommitContext(self, connection)

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
            async with self._pool.connection() as connection:
                row = await connection.fetchrow(WRITE.transaction_status, self._transaction_id, self._server_life)
        except Unavailable:
            return None, False
        except asyncpg.InvalidParameterValueError:  # a number not given out yet: a crash took the transaction with it
            return "aborted", False
        return row["status"], row["same_life"]


class _CommitContext:
    """BEGIN on entry; COMMIT or ROLLBACK on exit; a connection lost at COMMIT is resolved."""

    def __init__(self, commit: _Commit, connection: Any) -> None:
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
        except _LOST as lost:
            if not self._commit.wrote:
                raise
            await self._commit.resolve(lost)

    async def _roll_back(self) -> None:
        try:
            await self._transaction.rollback()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return  # the connection is gone and the transaction with it; the first error is the one to tell


class _Rows(Sequence[Memory]):
    """Memories made from their rows when they are asked for: of the candidates only the best are."""

    def __init__(self, user_id: str, records: list[Any]) -> None:
        self._user_id = user_id
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, row: int) -> Memory: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Memory]: ...
    def __getitem__(self, row: int | slice) -> Memory | Sequence[Memory]:
        if isinstance(row, slice):
            return _Rows(self._user_id, self._records[row])
        return _memory(self._user_id, self._records[row], 2)


def _target(change: Change) -> UUID:
    return change.memory.id if isinstance(change, Create) else change.id


def _memory(user_id: str, record: Any, start: int = 0) -> Memory:
    (
        memory_id,
        text,
        kind,
        tags,
        entities,
        importance,
        metadata,
        agent_id,
        run_id,
        source,
        created_at,
        updated_at,
        expires_at,
        version,
    ) = record[start : start + 14]
    return Memory(
        id=memory_id,
        user_id=user_id,
        text=text,
        kind=kind,
        tags=tags,
        entities=entities,
        importance=importance,
        metadata=metadata,
        agent_id=agent_id,
        run_id=run_id,
        source=source,
        created_at=created_at,
        updated_at=updated_at,
        expires_at=expires_at,
        version=version,
    )


def _memory_values(scope: Scope, memory: Memory) -> tuple[Any, ...]:
    """The values of `_MEMORY_COLUMNS`."""
    return (
        scope.id,
        memory.id,
        memory.version,
        memory.text,
        memory.kind,
        memory.tags,
        memory.entities,
        memory.importance,
        memory.metadata,
        memory.agent_id,
        memory.run_id,
        memory.source,
        memory.created_at,
        memory.updated_at,
        memory.expires_at,
    )


def _user(record: Any) -> User:
    return User(
        user_id=record["user_id"],
        memories=record["memories"],
        version=record["version"],
        created_at=record["created_at"],
        updated_at=record["updated_at"],
    )
