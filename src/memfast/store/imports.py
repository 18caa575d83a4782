"""Taking memories in from elsewhere: what becomes of each is decided without a database, then sent.

As with changes (`store.writes`) the scopes are locked first, so the rows as they were read are the rows as they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from memfast.errors import Conflict
from memfast.model import Import, Outcome, Past, Scope, StoredMemory
from memfast.resilience.turns import Turns
from memfast.store.flush import Row
from memfast.store.outbox import encode_changes, intake_changes
from memfast.store.queries import LINKS, OUTBOX, TRANSFER, WRITE
from memfast.store.records import (
    MEMORY_COLUMNS,
    NOTHING_SAID,
    SAID,
    VECTOR_COLUMNS,
    memory_values,
    read_memory,
    said_by,
)

__all__ = ["Intake", "plan_intake", "write_imports"]

_COPY_FROM_ROWS = 16
"""From this many new rows on, COPY is faster than one INSERT a row."""

_SLICE_ROWS = 250
"""Rows that are made and encoded at a stretch: about a millisecond."""

_HISTORY_COLUMNS = (
    *("scope_id", "id", "version", "event", "at", "superseded_at", "actor", *SAID),
    *("created_at", "updated_at", "expires_at", "generation", "embedding"),
)


class Intake(Struct, frozen=True, kw_only=True):
    """What a set of imports does to one scope.

    Attributes:
        outcomes: one per import.
        new: rows under ids that had none, as they are to be stored.
        replaced: rows that take the place of one.
        past: history of memories that the scope had no row of.
        merged: history that the scope may have already.
        version: the scope's from now on.
        count_delta: how many more memories live.
        severed: memories that had expired, and with them their links.
    """

    outcomes: list[Outcome]
    new: list[StoredMemory]
    replaced: list[StoredMemory]
    past: list[Past]
    merged: list[Past]
    version: int
    count_delta: int
    severed: list[UUID]


def plan_intake(imports: Sequence[Import], existing: Mapping[UUID, Row], *, version: int, now: datetime) -> Intake:
    """Decide what becomes of imports into one scope, each with an id of its own.

    A row keeps its version where the scope has not come so far, else it takes the next.

    Args:
        imports: at most one for an id.
        existing: the stored row of every id that has one.
        version: the scope's.
        now: wall time.
    """
    outcomes: list[Outcome] = []
    new: list[StoredMemory] = []
    replaced: list[StoredMemory] = []
    past: list[Past] = []
    merged: list[Past] = []
    severed: list[UUID] = []
    delta = 0
    for each in imports:
        before = existing.get(each.id)
        outcome = None if before is None else _known(each, before, now)
        if outcome is not None:
            outcomes.append(outcome)
            if outcome.past_taken:
                merged += each.past
            continue
        version = max(version + 1, each.row.version)
        row = _at(each.row, version)
        if before is None:
            new.append(row)
            past += each.past
        else:
            replaced.append(row)
            if before.memory is not None and not before.live(now):
                severed.append(each.id)
        delta += (row.memory is not None) - (before is not None and before.memory is not None)
        updated = before is not None and before.live(now)
        outcomes.append(
            Outcome(
                id=each.id,
                status="updated" if updated else "created",
                version=version,
                scope_version=version,
                memory=row.memory,
                past_taken=before is None,
            )
        )
    return Intake(
        outcomes=outcomes,
        new=new,
        replaced=replaced,
        past=past,
        merged=merged,
        version=version,
        count_delta=delta,
        severed=severed,
    )


def _known(each: Import, before: Row, now: datetime) -> Outcome | None:
    """What is said of a memory whose id the scope knows; None where it is to be written."""
    memory = each.row.memory
    if memory is None:
        same = before.memory is None and before.deleted_at == each.row.updated_at
        return Outcome(id=each.id, status="duplicate", version=before.version, past_taken=same)
    if before.memory is not None and not before.live(now):
        return None
    if before.memory == msgspec.structs.replace(memory, version=before.version):
        return Outcome(id=each.id, status="duplicate", version=before.version, past_taken=True)
    if each.on_conflict == "update":
        return None
    if each.on_conflict == "ignore":
        return Outcome(id=each.id, status="duplicate", version=before.version)
    what = (
        "had a memory with the id {}, which was deleted"
        if before.memory is None
        else "has another memory with the id {}"
    )
    detail = f"$.id: the user {what.format(each.id)}; import with on_conflict update or ignore"
    return Outcome(id=each.id, refused=Conflict(detail, path="$.id"))


def _at(row: StoredMemory, version: int) -> StoredMemory:
    if row.version == version:
        return row
    memory = None if row.memory is None else msgspec.structs.replace(row.memory, version=version)
    return msgspec.structs.replace(row, version=version, memory=memory)


async def write_imports(
    connection: Any, imports: Sequence[Import], began: Callable[[Any], None], *, generation: int, now: datetime
) -> list[Outcome]:
    """Write imports in the open transaction of a connection; arguments as of `store.writes.write_changes`."""
    parts: dict[UUID, list[int]] = {}
    for position, each in enumerate(imports):
        parts.setdefault(each.scope.id, []).append(position)
    scopes = [imports[parts[scope_id][0]].scope for scope_id in sorted(parts)]
    arguments = [(scope.id, scope.namespace, scope.user_id, generation, now) for scope in scopes]
    locked = await connection.fetchmany(TRANSFER.lock_scope, arguments)
    began(locked[0])
    versions, noted = {row[0]: row[1] for row in locked}, {row[0] for row in locked if row["noted"]}
    existing = await _existing(connection, [scope for scope in scopes if versions[scope.id]], imports, parts)
    outcomes: list[Outcome | None] = [None] * len(imports)
    rows = _Rows(generation, now)
    for scope in scopes:
        own = [imports[position] for position in parts[scope.id]]
        intake = plan_intake(own, existing.get(scope.id, {}), version=versions[scope.id], now=now)
        rows.add(scope, intake, versions[scope.id], noted=scope.id in noted)
        for position, outcome in zip(parts[scope.id], intake.outcomes, strict=True):
            outcomes[position] = outcome
    await rows.send(connection)
    return [outcome for outcome in outcomes if outcome is not None]


async def _existing(
    connection: Any, scopes: Sequence[Scope], imports: Sequence[Import], parts: Mapping[UUID, Collection[int]]
) -> dict[UUID, dict[UUID, Row]]:
    """The stored rows that imports speak of, by scope and id; a scope at version 0 never had any."""
    names = {scope.id: scope.user_id for scope in scopes}
    arguments = [(scope.id, [imports[position].id for position in parts[scope.id]]) for scope in scopes]
    existing: dict[UUID, dict[UUID, Row]] = {}
    for record in await connection.fetchmany(WRITE.existing_memories, arguments) if arguments else ():
        deleted_at, scope_id = record[14], record[15]
        memory = None if deleted_at is not None else read_memory(names[scope_id], record)
        row = Row(memory=memory, version=record[13], stored=True, deleted_at=deleted_at)
        existing.setdefault(scope_id, {})[record[0]] = row
    return existing


class _Rows:
    """What is to be sent: rows for COPY, and arguments by statement."""

    def __init__(self, generation: int, now: datetime) -> None:
        self._generation = generation
        self._now = now
        self._memories: list[tuple[Scope, StoredMemory]] = []
        self._history: list[tuple[Scope, Past]] = []
        self._arguments: dict[str, list[tuple[Any, ...]]] = {}

    def add(self, scope: Scope, intake: Intake, base: int, *, noted: bool) -> None:
        """Add what is done to one scope that had version `base`, and what a copy of the links is told of it."""
        for row in intake.new:
            if row.memory is None:
                self._later(
                    TRANSFER.add_tombstone, scope.id, row.id, row.version, row.created_at, row.updated_at, row.actor
                )
            else:
                self._memories.append((scope, row))
        for row in intake.replaced:
            self._later(WRITE.replace_memory, *_values(scope, row), True, self._now)
            self._later(WRITE.put_vector, *self._vector(scope, row))
        if intake.severed:
            self._later(LINKS.sever_links, scope.id, intake.severed)
        self._history += [(scope, past) for past in intake.past]
        for past in intake.merged:
            self._later(TRANSFER.add_history, *self._past(scope, past))
        if intake.version != base:
            self._later(TRANSFER.advance_scope, scope.id, intake.version, intake.count_delta, self._now)
            if noted:
                changes = encode_changes(intake_changes(intake.severed, [*intake.new, *intake.replaced]))
                self._later(OUTBOX.put_step, scope.id, intake.version, base, changes, False)

    async def send(self, connection: Any) -> None:
        """Send everything; no row is touched twice."""
        if len(self._memories) >= _COPY_FROM_ROWS:
            memories = (_values(scope, row) for scope, row in self._memories)
            await connection.copy_records_to_table("memories", records=_sliced(memories), columns=MEMORY_COLUMNS)
            vectors = (self._vector(scope, row) for scope, row in self._memories)
            await connection.copy_records_to_table("memory_vectors", records=_sliced(vectors), columns=VECTOR_COLUMNS)
        elif self._memories:
            rows = [(*_values(scope, row), self._generation, row.vector) for scope, row in self._memories]
            await connection.executemany(WRITE.insert_memory, rows)
        history = (self._past(scope, past) for scope, past in self._history)
        if len(self._history) >= _COPY_FROM_ROWS and not await self._remembered(connection):
            await connection.copy_records_to_table("history", records=_sliced(history), columns=_HISTORY_COLUMNS)
        elif self._history:
            await connection.executemany(TRANSFER.add_history, history)
        for statement, arguments in self._arguments.items():
            await connection.executemany(statement, arguments)

    async def _remembered(self, connection: Any) -> bool:
        """Whether history speaks of an id that has no row: its rows would make a COPY fail."""
        ids: dict[UUID, set[UUID]] = {}
        for scope, past in self._history:
            ids.setdefault(scope.id, set()).add(past.id)
        arguments = [(scope_id, list(own)) for scope_id, own in ids.items()]
        return bool(await connection.fetchmany(TRANSFER.remembered, arguments))

    def _later(self, statement: str, *arguments: Any) -> None:
        self._arguments.setdefault(statement, []).append(arguments)

    def _vector(self, scope: Scope, row: StoredMemory) -> tuple[Any, ...]:
        assert row.memory is not None
        return (scope.id, self._generation, row.id, row.memory.expires_at, row.vector)

    def _past(self, scope: Scope, past: Past) -> tuple[Any, ...]:
        """The values of `_HISTORY_COLUMNS`."""
        memory, generation = past.memory, None if past.vector is None else self._generation
        key = (scope.id, past.id, past.version, past.event, past.at, past.superseded_at, past.actor)
        if memory is None:
            return (*key, *NOTHING_SAID, past.created_at, past.updated_at, None, None, None)
        made = (past.created_at, past.updated_at, memory.expires_at)
        return (*key, *said_by(memory), *made, generation, past.vector)


async def _sliced(rows: Iterable[tuple[Any, ...]]) -> AsyncIterator[tuple[Any, ...]]:
    """The rows, with pauses for others: COPY by itself encodes all of them at a stretch."""
    turns = Turns()
    for number, row in enumerate(rows, 1):
        yield row
        if number % _SLICE_ROWS == 0:
            await turns.give()


def _values(scope: Scope, row: StoredMemory) -> tuple[Any, ...]:
    assert row.memory is not None
    told = Row(
        memory=row.memory, version=row.version, stored=False, event=row.event, event_at=row.event_at, actor=row.actor
    )
    return memory_values(scope, row.memory, told)
