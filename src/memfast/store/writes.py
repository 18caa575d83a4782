"""What a transaction of changes sends: a statement a row, in one round trip a kind of statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from memfast.errors import NotFound
from memfast.model import Change, Create, Delete, Outcome, Scope
from memfast.store.flush import Flush, Row, plan
from memfast.store.queries import WRITE
from memfast.store.records import MEMORY_COLUMNS, memory_values, read_memory

__all__ = ["write_changes"]

_COPY_FROM_ROWS = 16
"""From this many new rows on, COPY is faster than one INSERT a row."""

_VECTOR_COLUMNS = ("scope_id", "generation", "id", "expires_at", "embedding")


async def write_changes(
    connection: Any, changes: Sequence[Change], began: Callable[[Any], None], *, generation: int, now: datetime
) -> list[Outcome]:
    """Write changes in the open transaction of a connection; see `ports.MemoryStore.apply`.

    Args:
        connection: a connection in a transaction.
        changes: in order of arrival.
        began: is given the first row that tells the transaction's number.
        generation: of the vectors.
        now: wall time of the transaction.
    """
    parts = _parts(changes)
    versions = await _raise_versions(connection, parts, began, generation, now)
    existing = await _existing(connection, [part for part in parts if part.scope.id in versions])
    outcomes: list[Outcome | None] = [None] * len(changes)
    statements = _Statements(generation, now)
    for part in parts:
        version = versions.get(part.scope.id)
        if version is None:
            results = [_no_scope(change) for change in part.changes]
        else:
            before = existing.get(part.scope.id, {})
            flush = plan(part.changes, before, first_version=version - len(part.changes) + 1, now=now)
            statements.add(part, flush, before)
            results = flush.outcomes
        for position, outcome in zip(part.positions, results, strict=True):
            outcomes[position] = outcome
    await statements.send(connection)
    return [outcome for outcome in outcomes if outcome is not None]


class _Part(Struct, frozen=True):
    """The changes of one scope, where they stand among all, and how many more memories they ask for."""

    scope: Scope
    positions: list[int]
    changes: list[Change]

    @property
    def expected(self) -> int:
        return sum(isinstance(c, Create) for c in self.changes) - sum(isinstance(c, Delete) for c in self.changes)


def _parts(changes: Sequence[Change]) -> list[_Part]:
    """Changes by scope, in the order of the scopes' keys: whoever locks in one order meets no deadlock."""
    parts: dict[UUID, _Part] = {}
    for position, change in enumerate(changes):
        part = parts.get(change.scope.id)
        if part is None:
            part = parts[change.scope.id] = _Part(change.scope, [], [])
        part.positions.append(position)
        part.changes.append(change)
    return [parts[scope_id] for scope_id in sorted(parts)]


async def _raise_versions(
    connection: Any, parts: list[_Part], began: Callable[[Any], None], generation: int, now: datetime
) -> dict[UUID, int]:
    """The versions that the scopes have now, locked; those that have no row and get none are left out."""
    arguments = [
        (
            part.scope.id,
            part.scope.namespace,
            part.scope.user_id,
            generation,
            len(part.changes),
            part.expected,
            now,
            any(isinstance(change, Create) for change in part.changes),
        )
        for part in parts
    ]
    rows = await connection.fetchmany(WRITE.raise_version, arguments)
    if rows:
        began(rows[0])
    return {row[0]: row[1] for row in rows}


async def _existing(connection: Any, parts: list[_Part]) -> dict[UUID, dict[UUID, Row]]:
    """The stored rows that changes speak of, by scope and id."""
    names: dict[UUID, str] = {}
    arguments = []
    for part in parts:
        ids = [_target(change) for change in part.changes if not (isinstance(change, Create) and change.fresh_id)]
        if ids:
            names[part.scope.id] = part.scope.user_id
            arguments.append((part.scope.id, ids))
    existing: dict[UUID, dict[UUID, Row]] = {}
    for record in await connection.fetchmany(WRITE.existing_memories, arguments) if arguments else ():
        scope_id = record[15]
        memory = None if record[14] is not None else read_memory(names[scope_id], record)
        existing.setdefault(scope_id, {})[record[0]] = Row(memory=memory, version=record[13], stored=True)
    return existing


class _Statements:
    """What is to be sent: arguments by statement, and new rows."""

    def __init__(self, generation: int, now: datetime) -> None:
        self._generation = generation
        self._now = now
        self._arguments: dict[str, list[tuple[Any, ...]]] = {}
        self._memories: list[tuple[Any, ...]] = []
        self._vectors: list[tuple[Any, ...]] = []

    def add(self, part: _Part, flush: Flush, existing: dict[UUID, Row]) -> None:
        """Add what a flush does to one scope."""
        scope = part.scope
        for target, row in flush.rows.items():
            if row.memory is None:
                if row.stored:
                    self._later(WRITE.bury_memory, scope.id, target, row.version, self._now)
                continue
            values = memory_values(scope, row.memory)
            vector_key = (scope.id, self._generation, target, row.memory.expires_at)
            if not row.stored:
                self._memories.append(values)
                self._vectors.append((*vector_key, row.vector))
                continue
            self._later(WRITE.replace_memory, *values)
            before = existing[target].memory
            if row.vector is not None:
                self._later(WRITE.put_vector, *vector_key, row.vector)
            elif before is not None and before.expires_at != row.memory.expires_at:
                self._later(WRITE.set_vector_expiry, *vector_key)
        if flush.count_delta != part.expected:
            self._later(WRITE.correct_count, scope.id, flush.count_delta - part.expected)

    def _later(self, statement: str, *arguments: Any) -> None:
        self._arguments.setdefault(statement, []).append(arguments)

    async def send(self, connection: Any) -> None:
        """Send everything: no row is touched twice, so the order does not matter."""
        if len(self._memories) >= _COPY_FROM_ROWS:
            await connection.copy_records_to_table("memories", records=self._memories, columns=MEMORY_COLUMNS)
            await connection.copy_records_to_table("memory_vectors", records=self._vectors, columns=_VECTOR_COLUMNS)
        elif self._memories:
            rows = [
                (*memory, self._generation, vector[-1])
                for memory, vector in zip(self._memories, self._vectors, strict=True)
            ]
            await connection.executemany(WRITE.insert_memory, rows)
        for statement, arguments in self._arguments.items():
            await connection.executemany(statement, arguments)


def _target(change: Change) -> UUID:
    return change.memory.id if isinstance(change, Create) else change.id


def _no_scope(change: Change) -> Outcome:
    target = _target(change)
    return Outcome(id=target, refused=NotFound(f"the user has no memory with the id {target}"))
