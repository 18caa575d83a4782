"""What a set of changes does to the rows of one scope: decided here without a database, carried out by `postgres`.

The scope's row is locked while this runs, so the rows as they were read are the rows as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from memfast.errors import Conflict, NotFound, PreconditionFailed
from memfast.model import Change, Create, Delete, Memory, Outcome, Patch

__all__ = ["Flush", "Row", "plan"]


class Row(Struct, frozen=True, kw_only=True):
    """A row of `memories`: `memory` is None for a tombstone. `stored` is False for one that this flush makes.

    `vector` is the vector to write, None where the stored one stays.
    """

    memory: Memory | None
    version: int
    stored: bool
    vector: NDArray[np.float32] | None = None

    def live(self, now: datetime) -> bool:
        """Whether readers see it: neither deleted nor expired."""
        return self.memory is not None and (self.memory.expires_at is None or self.memory.expires_at > now)


class Flush(Struct, frozen=True, kw_only=True):
    """Rows to write, by id, one outcome per change, and how many more memories the scope counts."""

    rows: dict[UUID, Row]
    outcomes: list[Outcome]
    count_delta: int


def plan(changes: Sequence[Change], existing: Mapping[UUID, Row], *, first_version: int, now: datetime) -> Flush:
    """Apply changes of one scope in order, each seeing those before it.

    Args:
        changes: changes of one scope; the i-th takes version `first_version + i`.
        existing: the stored row of every id that has one and that a change speaks of.
        first_version: the version of the first change.
        now: wall time of the flush.
    """
    rows: dict[UUID, Row] = {}
    outcomes: list[Outcome] = []
    for version, change in enumerate(changes, first_version):
        target = change.memory.id if isinstance(change, Create) else change.id
        row = rows.get(target, existing.get(target))
        outcome, after = _apply(change, row, version=version, now=now)
        outcomes.append(msgspec.structs.replace(outcome, scope_version=first_version + len(changes) - 1))
        if after is not None:
            rows[target] = after
    delta = sum(
        (row.memory is not None) - (key in existing and existing[key].memory is not None) for key, row in rows.items()
    )
    return Flush(rows=rows, outcomes=outcomes, count_delta=delta)


def _apply(change: Change, row: Row | None, *, version: int, now: datetime) -> tuple[Outcome, Row | None]:
    if isinstance(change, Create):
        return _create(change, row, version=version, now=now)
    if isinstance(change, Patch):
        return _patch(change, row, version=version, now=now)
    return _delete(change, row, version=version, now=now)


def _create(change: Create, row: Row | None, *, version: int, now: datetime) -> tuple[Outcome, Row | None]:
    target = change.memory.id
    if row is None or not row.live(now):
        memory = msgspec.structs.replace(change.memory, version=version)
        outcome = Outcome(id=target, status="created", version=version, memory=memory)
        return outcome, _row(memory, row, change.vector)
    if change.on_conflict == "ignore":
        return Outcome(id=target, status="duplicate", version=row.version, memory=row.memory), None
    if change.on_conflict == "update" and row.memory is not None:
        memory = msgspec.structs.replace(change.memory, created_at=row.memory.created_at, version=version)
        outcome = Outcome(id=target, status="updated", version=version, memory=memory)
        return outcome, _row(memory, row, change.vector)
    detail = f"$.id: the user has a memory with the id {target}; send on_conflict: update or ignore, or another id"
    return Outcome(id=target, refused=Conflict(detail, path="$.id")), None


def _patch(change: Patch, row: Row | None, *, version: int, now: datetime) -> tuple[Outcome, Row | None]:
    if row is None or row.memory is None or not row.live(now):
        return _missing(change.id), None
    if change.expected_versions is not None and row.version not in change.expected_versions:
        return _other_version(change, row), None
    memory = change.applied_to(row.memory, now=now, version=version)
    vector = change.vector if change.vector is not None else row.vector
    return Outcome(id=change.id, status="updated", version=version, memory=memory), _row(memory, row, vector)


def _delete(change: Delete, row: Row | None, *, version: int, now: datetime) -> tuple[Outcome, Row | None]:
    if row is None or (row.memory is not None and not row.live(now)):
        return _missing(change.id), None
    if row.memory is None:  # deleted before: the same answer, nothing to do
        return Outcome(id=change.id, status="deleted", version=row.version), None
    if change.expected_versions is not None and row.version not in change.expected_versions:
        return _other_version(change, row), None
    after = Row(memory=None, version=version, stored=row.stored)
    return Outcome(id=change.id, status="deleted", version=version), after


def _row(memory: Memory, before: Row | None, vector: NDArray[np.float32] | None) -> Row:
    stored = before is not None and before.stored
    return Row(memory=memory, version=memory.version, stored=stored, vector=vector)


def _missing(target: UUID) -> Outcome:
    return Outcome(id=target, refused=NotFound(f"the user has no memory with the id {target}"))


def _other_version(change: Patch | Delete, row: Row) -> Outcome:
    asked = " or ".join(str(version) for version in sorted(change.expected_versions or ())) or "nothing that can match"
    detail = (
        f"If-Match asks for version {asked}, the memory {change.id} has version {row.version}; "
        "get it again and repeat the change"
    )
    return Outcome(id=change.id, refused=PreconditionFailed(detail))
