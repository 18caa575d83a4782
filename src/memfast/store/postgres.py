"""The store of record over asyncpg: `ports.MemoryStore`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, overload
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from memfast.claims import AnsweredBeforeError, Claim
from memfast.errors import DeadlineExceeded, EmbedderChanged
from memfast.filters import Filter, reads_json
from memfast.links import EntityCount, EntityPage, Link
from memfast.model import (
    AnyChange,
    Delta,
    ForgetReceipt,
    HistoryEvent,
    HistoryPage,
    Import,
    Listing,
    Memory,
    MemoryPage,
    NearestRows,
    Outcome,
    Owner,
    Past,
    Scope,
    Snapshot,
    StoredMemory,
    User,
    UserPage,
)
from memfast.readings import StoreHealth
from memfast.store.claims import find_answer, keep_answer
from memfast.store.codecs import decode_vectors
from memfast.store.commit import Commit
from memfast.store.conditions import narrowed
from memfast.store.exports import read_scope
from memfast.store.forget import erase_scope
from memfast.store.imports import write_imports
from memfast.store.pool import CHANGED, Pool, Purpose
from memfast.store.queries import ADMIN, FORGET, READ, WRITE
from memfast.store.records import read_memory
from memfast.store.server import ServerFacts
from memfast.store.writes import write_changes

__all__ = ["PostgresStore"]

_LOAD_ROWS = 1000
"""Rows of a load that are decoded at once: the event loop runs between."""

_FIRST = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))
_ANY_VERSION = 2**63 - 1
_LAST = (datetime.max.replace(tzinfo=UTC), UUID(int=2**128 - 1))


class PostgresStore:
    """Memories in PostgreSQL with pgvector.

    `generation` names the embedder whose vectors are read and written. The statements of `apply` together may take
    `flush_timeout_s`; its COMMIT has the time of one statement besides.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        generation: int,
        dimensions: int,
        schema: int,
        facts: ServerFacts,
        flush_timeout_s: float = 20.0,
    ) -> None:
        self._pool = pool
        self._generation = generation
        self._dimensions = dimensions
        self._schema = schema
        self._facts = facts
        self._flush_timeout_s = flush_timeout_s

    async def apply(self, changes: Sequence[AnyChange], *, now: datetime) -> list[Outcome]:
        """See `ports.MemoryStore.apply`."""
        commit = Commit(self._pool)
        async with self._pool.connection("write") as connection, commit.transaction(connection):
            try:
                async with asyncio.timeout(self._flush_timeout_s):
                    return await self._write(connection, changes, commit, now)
            except TimeoutError as error:
                raise DeadlineExceeded("the transaction took longer than it may; nothing was written") from error

    async def _write(
        self, connection: Any, changes: Sequence[AnyChange], commit: Commit, now: datetime
    ) -> list[Outcome]:
        imports = [change for change in changes if isinstance(change, Import)]
        if imports:
            assert len(imports) == len(changes), "imports come without other changes"
            return await write_imports(connection, imports, commit.began, generation=self._generation, now=now)
        own = [change for change in changes if not isinstance(change, Import)]
        return await write_changes(connection, own, commit.began, generation=self._generation, now=now)

    async def export(
        self, scope: Scope, *, now: datetime, since: datetime
    ) -> AsyncGenerator[Sequence[StoredMemory | Past | Link], None]:
        """See `ports.MemoryStore.export`."""
        async with (
            self._pool.connection("bulk") as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            _require_current(await connection.fetchrow(READ.scope_state, scope.id, self._generation))
            pages = read_scope(
                connection, scope, generation=self._generation, dimensions=self._dimensions, now=now, since=since
            )
            async with aclosing(pages):
                async for page in pages:
                    yield page

    async def get(self, scope: Scope, ids: Sequence[UUID], *, now: datetime) -> tuple[dict[UUID, Memory], int]:
        """See `ports.MemoryStore.get`."""
        records = await self._pool.fetch(READ.get_memories, scope.id, ids, now)
        memories = (read_memory(scope.user_id, record, 1) for record in records if record[1] is not None)
        return {memory.id: memory for memory in memories}, records[0][0] or 0

    async def list(self, scope: Scope, listing: Listing, *, now: datetime) -> MemoryPage:
        """See `ports.MemoryStore.list`."""
        edge = _FIRST if listing.ascending else _LAST
        created_at, after = (listing.after.created_at, listing.after.id) if listing.after else edge
        statement = READ.list_ascending if listing.ascending else READ.list_descending
        own = (scope.id, now, created_at, after, listing.limit + 1, listing.skip)
        records = await self._pool.fetch(*narrowed(statement, listing.where, *own), purpose=_purpose(listing.where))
        memories = [read_memory(scope.user_id, record, 1) for record in records if record[1] is not None]
        expires_at = min((each.expires_at for each in memories if each.expires_at is not None), default=None)
        return MemoryPage(memories[: listing.limit], len(memories) > listing.limit, records[0][0] or 0, expires_at)

    async def count(self, scope: Scope, where: Filter | None, *, now: datetime) -> tuple[int, datetime | None]:
        """See `ports.MemoryStore.count`."""
        statement = narrowed(READ.count_memories, where, scope.id, now)
        record = (await self._pool.fetch(*statement, purpose=_purpose(where)))[0]
        return record[0], record[1]

    async def owners(self, namespace: str, ids: Sequence[UUID], within: UUID | None = None) -> Sequence[Owner]:
        """See `ports.MemoryStore.owners`."""
        if within is None:
            records = await self._pool.fetch(ADMIN.find_owners, namespace, ids)
        else:
            records = await self._pool.fetch(ADMIN.find_owner_within, namespace, ids, within)
        return [Owner(id=row[0], user_id=row[1], lives=row[2]) for row in records]

    async def matching(
        self, scope: Scope, where: Filter, *, first: UUID, upto: int | None, limit: int, now: datetime
    ) -> tuple[Sequence[tuple[UUID, int]], int]:
        """See `ports.MemoryStore.matching`."""
        own = (scope.id, now, first, limit, _ANY_VERSION if upto is None else upto)
        records = await self._pool.fetch(*narrowed(READ.matching, where, *own), purpose=_purpose(where))
        return [(row[1], row[2]) for row in records if row[1] is not None], records[0][0] or 0

    async def nearest(
        self,
        scope: Scope,
        vector: NDArray[np.float32],
        limit: int,
        *,
        now: datetime,
        where: Filter | None = None,
    ) -> NearestRows:
        """See `ports.MemoryStore.nearest`."""
        statement = READ.nearest if where is None else READ.nearest_where
        own = (scope.id, self._generation, vector, limit, now)
        records = await self._pool.fetch(*narrowed(statement, where, *own), purpose=_purpose(where))
        _require_current(records[0])
        found = [record for record in records if record[2] is not None]
        vectors = decode_vectors([record[1] for record in found], self._dimensions)
        return NearestRows(_Rows(scope.user_id, found), vectors, records[0][0] or 0)

    async def load(self, scope: Scope) -> Snapshot:
        """See `ports.MemoryStore.load`."""
        memories: list[Memory] = []
        parts: list[NDArray[np.float32]] = []
        async with (
            self._pool.connection("bulk") as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            state = await connection.fetchrow(READ.scope_state, scope.id, self._generation)
            _require_current(state)
            cursor = await connection.cursor(READ.load_scope, scope.id, self._generation)
            while records := await cursor.fetch(_LOAD_ROWS):
                memories.extend(read_memory(scope.user_id, record, 1) for record in records)
                parts.append(decode_vectors([record[0] for record in records], self._dimensions))
        vectors = np.concatenate(parts) if parts else np.empty((0, self._dimensions), dtype=np.float32)
        version, purged_to = state["version"] or 0, state["purged_to"] or 0
        return Snapshot(memories=memories, vectors=vectors, version=version, purged_to=purged_to)

    async def changes_since(self, scope: Scope, version: int) -> Delta | None:
        """See `ports.MemoryStore.changes_since`."""
        records = await self._pool.fetch(READ.changes_since, scope.id, version, self._generation)
        if not records:
            return None
        _require_current(records[0])
        live = [record for record in records if record[2] is not None]
        deleted = [(record[3], record[16]) for record in records if record[3] is not None and record[2] is None]
        return Delta(
            since=version,
            version=records[0][0],
            purged_to=records[0][1],
            memories=[read_memory(scope.user_id, record, 3) for record in live],
            vectors=decode_vectors([record[2] for record in live], self._dimensions),
            deleted=deleted,
        )

    async def history(self, scope: Scope, target: UUID, *, after: int, limit: int, since: datetime) -> HistoryPage:
        """See `ports.MemoryStore.history`."""
        records = await self._pool.fetch(READ.memory_history, scope.id, target, after, since, limit + 2)
        events: list[HistoryEvent] = []
        said: str | None = None
        for _, version, event, at, actor, text in records:
            if version is not None and version > after:
                previous = said if event in {"updated", "deleted"} else None
                events.append(
                    HistoryEvent(event=event, version=version, at=at, actor=actor, text=text, previous_text=previous)
                )
            said = text
        return HistoryPage(events[:limit], len(events) > limit, records[0][0] or 0)

    async def users(self, namespace: str, after: str | None, limit: int) -> UserPage:
        """See `ports.MemoryStore.users`."""
        records = await self._pool.fetch(READ.users, namespace, after or "", limit + 1)
        return UserPage([_user(record) for record in records[:limit]], len(records) > limit)

    async def entities(self, scope: Scope, after: str | None, limit: int, *, now: datetime) -> EntityPage:
        """See `ports.MemoryStore.entities`."""
        records = await self._pool.fetch(READ.entities, scope.id, now, after or "", limit + 1)
        found = [EntityCount(entity=record[1], memories=record[2]) for record in records if record[1] is not None]
        return EntityPage(found[:limit], len(found) > limit, records[0][0] or 0)

    async def user(self, scope: Scope) -> User | None:
        """See `ports.MemoryStore.user`."""
        async with self._pool.connection() as connection:
            record = await connection.fetchrow(READ.user, scope.id)
        return None if record is None else _user(record)

    async def forget(
        self,
        scope: Scope,
        *,
        now: datetime,
        claim: Claim | None = None,
        copies: Mapping[str, int | None] = MappingProxyType({}),
    ) -> ForgetReceipt | None:
        """See `ports.MemoryStore.forget`."""
        commit = Commit(self._pool)
        async with self._pool.connection("write") as connection, commit.transaction(connection):
            if claim is not None:
                await connection.execute(WRITE.lock_scope, scope.id)
                kept = await find_answer(connection, scope, claim, now=now)
                if kept is not None:
                    raise AnsweredBeforeError(kept)
            receipt = await erase_scope(connection, scope, commit.began, copies, now=now)
            if receipt is not None and claim is not None:
                await keep_answer(connection, scope, claim, receipt)
        return receipt

    async def forgotten(self, scope_ids: Sequence[UUID]) -> Sequence[UUID]:
        """See `ports.MemoryStore.forgotten`."""
        return [row[0] for row in await self._pool.fetch(FORGET.forgotten, scope_ids)]

    async def check(self) -> StoreHealth:
        """See `ports.MemoryStore.check`."""
        started = time.perf_counter()
        async with self._pool.connection("write") as connection:
            await connection.execute(WRITE.touch_database)
        return StoreHealth(
            server_version=self._facts.server_version,
            pgvector_version=self._facts.pgvector_version,
            schema=self._schema,
            commit_ms=round((time.perf_counter() - started) * 1000, 3),
        )


def _require_current(record: Any) -> None:
    if not record["current"]:
        raise EmbedderChanged(CHANGED)


def _purpose(where: Filter | None) -> Purpose:
    """A filter on metadata takes as long as its author makes it: that says nothing about the server."""
    return "bulk" if reads_json(where) else "read"


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
        return read_memory(self._user_id, self._records[row], 2)


def _user(record: Any) -> User:
    return User(
        user_id=record["user_id"],
        memories=record["memories"],
        version=record["version"],
        created_at=record["created_at"],
        updated_at=record["updated_at"],
    )
