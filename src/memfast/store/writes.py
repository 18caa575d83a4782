"""What a transaction of changes sends: a statement a row, in one round trip a kind of statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from memfast.errors import NotFound
from memfast.links import Link, LinkKey
from memfast.model import Change, Create, Delete, DropLink, Memory, Outcome, PutLink, Scope, Undelete, target_of
from memfast.store.claims import find_answers, keep_answers
from memfast.store.codecs import decode_vector
from memfast.store.flush import Content, Flush, Row, plan
from memfast.store.linking import Linking
from memfast.store.links import link_values, read_link
from memfast.store.outbox import encode_changes, flush_changes
from memfast.store.queries import LINKS, OUTBOX, WRITE
from memfast.store.records import MEMORY_COLUMNS, VECTOR_COLUMNS, memory_values, passed_values, read_memory
from memfast.store.texts import hash_text

__all__ = ["write_changes"]

_COPY_FROM_ROWS = 16
"""From this many new rows on, COPY is faster than one INSERT a row."""

_ORDER = (
    WRITE.erase_history,
    WRITE.set_text_hashes,
    WRITE.record_passed,
    WRITE.bury_memories,
    WRITE.insert_tombstone,
    WRITE.replace_memory,
    WRITE.put_vector,
    WRITE.set_vector_expiry,
    WRITE.correct_count,
    LINKS.sever_links,
    LINKS.drop_link,
    LINKS.put_link,
    OUTBOX.put_step,
)
"""History is erased before it is written, a vector copied to it before it is deleted; links go before others come."""


async def write_changes(
    connection: Any, changes: Sequence[Change], began: Callable[[Any], None], *, generation: int, now: datetime
) -> list[Outcome]:
    """Write changes in the open transaction of a connection; see `ports.MemoryStore.apply`.

    Answers are kept before memories are purged, so that none outlives what it shows.

    Args:
        connection: a connection in a transaction.
        changes: in order of arrival.
        began: is given the first row that tells the transaction's number.
        generation: of the vectors.
        now: wall time of the transaction.
    """
    parts = _parts(changes)
    versions, noted = await _raise_versions(connection, parts, began, generation, now)
    answered = await find_answers(connection, changes, now=now)
    known = [part for part in parts if part.scope.id in versions]
    stored = await _existing(connection, known)
    await _add_hidden(connection, known, stored, generation)
    await _add_same_texts(connection, known, stored)
    await _add_links(connection, known, stored)
    outcomes: list[Outcome | None] = [None] * len(changes)
    statements = _Statements(generation, now)
    for part in parts:
        version = versions.get(part.scope.id)
        if version is None:
            results = [_no_scope(change) for change in part.changes]
        else:
            before, first = stored[part.scope.id], version - len(part.changes) + 1
            done = {row: answered[place] for row, place in enumerate(part.positions) if place in answered}
            flush = plan(
                part.changes,
                before.rows,
                before.hidden,
                first_version=first,
                now=now,
                before=done,
                links=before.links,
            )
            statements.add(part, flush, before)
            if part.scope.id in noted:
                statements.note(part, version, flush, before)
            results = flush.outcomes
        for position, outcome in zip(part.positions, results, strict=True):
            outcomes[position] = outcome
    told = [outcome for outcome in outcomes if outcome is not None]
    await keep_answers(connection, changes, told)
    await statements.send(connection)
    return told


class _Part(Struct, frozen=True):
    """The changes of one scope, where they stand among all, and how many more memories they ask for."""

    scope: Scope
    positions: list[int]
    changes: list[Change]

    @property
    def first(self) -> Create | None:
        """The create that makes the scope where there is none: they are of the same moment."""
        return next((change for change in self.changes if isinstance(change, Create)), None)

    @property
    def expected(self) -> int:
        made = sum(isinstance(change, Create | Undelete) for change in self.changes)
        return made - sum(isinstance(change, Delete) for change in self.changes)

    @property
    def ids(self) -> list[UUID]:
        """The ids under which there may be a row."""
        ids = [
            target_of(change)
            for change in self.changes
            if not (isinstance(change, DropLink) or (isinstance(change, Create) and change.fresh_id))
        ]
        return ids + [change.link.to_id for change in self.changes if isinstance(change, PutLink)]

    @property
    def links(self) -> set[LinkKey]:
        """The keys of the links that changes speak of, either way round."""
        keys = [change.link.key for change in self.changes if isinstance(change, PutLink)]
        keys += [change.key for change in self.changes if isinstance(change, DropLink)]
        return {*keys, *(key.reverse for key in keys)}


class _Stored(Struct, frozen=True):
    """Rows of one scope by id, what tombstones hide, memories whose text has no hash yet, and links by key."""

    rows: dict[UUID, Row]
    hidden: dict[UUID, Content]
    unhashed: list[Memory]
    links: dict[LinkKey, Link]


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
) -> tuple[dict[UUID, int], set[UUID]]:
    """The versions that the scopes have now, locked; those that have no row and get none are left out.

    And the scopes of which a copy of the links is to be told.
    """
    arguments = [
        (
            part.scope.id,
            part.scope.namespace,
            part.scope.user_id,
            generation,
            len(part.changes),
            part.expected,
            now if part.first is None else part.first.memory.updated_at,
            now,
            part.first is not None,
        )
        for part in parts
    ]
    rows = await connection.fetchmany(WRITE.raise_version, arguments)
    if rows:
        began(rows[0])
    return {row[0]: row[1] for row in rows}, {row[0] for row in rows if row["noted"]}


async def _existing(connection: Any, parts: list[_Part]) -> dict[UUID, _Stored]:
    """What is stored of what changes speak of, by scope."""
    stored = {part.scope.id: _Stored({}, {}, [], {}) for part in parts}
    names = {part.scope.id: part.scope.user_id for part in parts}
    arguments = [(part.scope.id, part.ids) for part in parts if part.ids]
    for record in await connection.fetchmany(WRITE.existing_memories, arguments) if arguments else ():
        scope_id, deleted_at = record[15], record[14]
        memory = None if deleted_at is not None else read_memory(names[scope_id], record)
        row = Row(memory=memory, version=record[13], stored=True, deleted_at=deleted_at)
        stored[scope_id].rows[record[0]] = row
    return stored


async def _add_hidden(connection: Any, parts: list[_Part], stored: dict[UUID, _Stored], generation: int) -> None:
    """Read what is to be undeleted."""
    names: dict[UUID, str] = {}
    arguments = []
    for part in parts:
        ids = [change.id for change in part.changes if isinstance(change, Undelete)]
        if ids:
            names[part.scope.id] = part.scope.user_id
            arguments.append((part.scope.id, ids, generation))
    for record in await connection.fetchmany(WRITE.hidden_memories, arguments) if arguments else ():
        scope_id, raw = record[14], record[15]
        vector = None if raw is None else decode_vector(raw)
        stored[scope_id].hidden[record[0]] = Content(read_memory(names[scope_id], record), vector)


async def _add_same_texts(connection: Any, parts: list[_Part], stored: dict[UUID, _Stored]) -> None:
    """Read the memories that may say what is not to be said twice."""
    names: dict[UUID, str] = {}
    arguments = []
    for part in parts:
        creates = [change for change in part.changes if isinstance(change, Create) and change.dedupe]
        if creates:
            names[part.scope.id] = part.scope.user_id
            arguments.append((part.scope.id, list({hash_text(create.memory.text) for create in creates})))
    for record in await connection.fetchmany(WRITE.same_texts, arguments) if arguments else ():
        scope_id = record[15]
        memory = read_memory(names[scope_id], record)
        stored[scope_id].rows[memory.id] = Row(memory=memory, version=memory.version, stored=True)
        if record[16] is None:
            stored[scope_id].unhashed.append(memory)


async def _add_links(connection: Any, parts: list[_Part], stored: dict[UUID, _Stored]) -> None:
    """Read the links that changes speak of."""
    arguments = [
        (
            part.scope.id,
            [key.from_id for key in keys],
            [key.to_id for key in keys],
            [key.type for key in keys],
        )
        for part in parts
        if (keys := list(part.links))
    ]
    for record in await connection.fetchmany(LINKS.existing_links, arguments) if arguments else ():
        link = read_link(record)
        stored[record[8]].links[link.key] = link


class _Statements:
    """What is to be sent: arguments by statement, and new rows."""

    def __init__(self, generation: int, now: datetime) -> None:
        self._generation = generation
        self._now = now
        self._arguments: dict[str, list[tuple[Any, ...]]] = {}
        self._memories: list[tuple[Any, ...]] = []
        self._vectors: list[tuple[Any, ...]] = []

    def add(self, part: _Part, flush: Flush, stored: _Stored) -> None:
        """Add what a flush does to one scope."""
        scope = part.scope
        buried: list[tuple[UUID, Row]] = []
        for target, row in flush.rows.items():
            if row.memory is not None:
                self._add_live(scope, target, row, row.memory, stored.rows.get(target), target not in flush.purged)
            elif row.stored:
                buried.append((target, row))
            else:
                self._later(WRITE.insert_tombstone, scope.id, target, row.version, self._now, row.actor)
        for keep in (True, False):
            self._bury(scope, [each for each in buried if (each[0] not in flush.purged) is keep], keep=keep)
        for target, passed in flush.passed.items():
            self._add_passed(scope, target, passed, gone=flush.rows[target].memory is None)
        if flush.erased:
            self._later(WRITE.erase_history, scope.id, list(flush.erased))
        self._add_links(scope, flush.links, stored.links)
        if stored.unhashed:
            hashes = [hash_text(memory.text) for memory in stored.unhashed]
            self._later(WRITE.set_text_hashes, scope.id, [memory.id for memory in stored.unhashed], hashes)
        if flush.count_delta != part.expected:
            self._later(WRITE.correct_count, scope.id, flush.count_delta - part.expected)

    def note(self, part: _Part, version: int, flush: Flush, stored: _Stored) -> None:
        """Add what a copy of the links is to be told of it, also where that is only the version."""
        changes = encode_changes(flush_changes(flush, stored.rows, stored.links))
        self._later(OUTBOX.put_step, part.scope.id, version, version - len(part.changes), changes, False)

    def _add_links(self, scope: Scope, links: Linking, stored: dict[LinkKey, Link]) -> None:
        if links.severed:
            self._later(LINKS.sever_links, scope.id, list(links.severed))
        for key, link in links.rows.items():
            if link is not None:
                self._later(LINKS.put_link, scope.id, *link_values(link))
            elif key in stored:
                self._later(LINKS.drop_link, scope.id, key.from_id, key.to_id, key.type)

    def _add_live(
        self, scope: Scope, target: UUID, row: Row, memory: Memory, before: Row | None, recorded: bool
    ) -> None:
        values = memory_values(scope, memory, row)
        vector_key = (scope.id, self._generation, target, memory.expires_at)
        if not row.stored or before is None:
            self._memories.append(values)
            self._vectors.append((*vector_key, row.vector))
            return
        self._later(WRITE.replace_memory, *values, recorded, self._now)
        if row.vector is not None:
            self._later(WRITE.put_vector, *vector_key, row.vector)
        elif before.memory is not None and before.memory.expires_at != memory.expires_at:
            self._later(WRITE.set_vector_expiry, *vector_key)

    def _add_passed(self, scope: Scope, target: UUID, passed: list[Row], *, gone: bool) -> None:
        """Add rows that only history knows; of the last one before a tombstone the vector is kept."""
        hidden = next((row for row in reversed(passed) if row.memory is not None), None) if gone else None
        for row in passed:
            values = passed_values(scope, target, row, self._now)
            self._later(WRITE.record_passed, *values, self._generation, row is hidden, row.vector)

    def _bury(self, scope: Scope, rows: list[tuple[UUID, Row]], *, keep: bool) -> None:
        if rows:
            ids, versions = [target for target, _ in rows], [row.version for _, row in rows]
            actors = [row.actor for _, row in rows]
            self._later(WRITE.bury_memories, scope.id, ids, versions, actors, self._now, self._generation, keep)

    def _later(self, statement: str, *arguments: Any) -> None:
        self._arguments.setdefault(statement, []).append(arguments)

    async def send(self, connection: Any) -> None:
        """Send everything, in an order in which each finds what it reads."""
        if len(self._memories) >= _COPY_FROM_ROWS:
            await connection.copy_records_to_table("memories", records=self._memories, columns=MEMORY_COLUMNS)
            await connection.copy_records_to_table("memory_vectors", records=self._vectors, columns=VECTOR_COLUMNS)
        elif self._memories:
            rows = [
                (*memory, self._generation, vector[-1])
                for memory, vector in zip(self._memories, self._vectors, strict=True)
            ]
            await connection.executemany(WRITE.insert_memory, rows)
        for statement in _ORDER:
            if statement in self._arguments:
                await connection.executemany(statement, self._arguments[statement])


def _no_scope(change: Change) -> Outcome:
    target = target_of(change)
    if isinstance(change, PutLink):
        refused = NotFound(f"$.from_id: the user has no memory with the id {target}", path="$.from_id")
        return Outcome(id=target, refused=refused)
    return Outcome(id=target, refused=NotFound(f"the user has no memory with the id {target}"))
