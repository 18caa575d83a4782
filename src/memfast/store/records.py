"""Memories as rows of the driver, in and out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any
from uuid import UUID

from memfast.model import Memory, Related, Scope
from memfast.store.flush import Row
from memfast.store.texts import hash_text

__all__ = [
    "MEMORY_COLUMNS",
    "NOTHING_SAID",
    "SAID",
    "VECTOR_COLUMNS",
    "memory_values",
    "passed_values",
    "read_memory",
    "read_related",
    "said_by",
]

SAID = ("text", "kind", "tags", "entities", "importance", "metadata", "agent_id", "run_id", "source")
"""The columns of what a memory says, in `memories` as in `history`."""
NOTHING_SAID = (None,) * len(SAID)
said_by: Callable[[Memory], tuple[Any, ...]] = attrgetter(*SAID)

MEMORY_COLUMNS = (
    "scope_id",
    "id",
    "version",
    *SAID,
    "created_at",
    "updated_at",
    "expires_at",
    "text_hash",
    "actor",
    "event",
    "event_at",
)
"""The columns of `memories` that a new row fills."""

VECTOR_COLUMNS = ("scope_id", "generation", "id", "expires_at", "embedding")


def read_memory(user_id: str, record: Any, start: int = 0) -> Memory:
    """A memory of a row whose columns from `start` on are id, text and on to expires_at, version."""
    return Memory(record[start], user_id, *record[start + 1 : start + 14])


def read_related(user_id: str, record: Any, start: int, depth: int, weight: float) -> Related:
    """The same with what a walk says of it."""
    return Related(record[start], user_id, *record[start + 1 : start + 14], depth=depth, weight=weight)


def memory_values(scope: Scope, memory: Memory, row: Row) -> tuple[Any, ...]:
    """The values of `MEMORY_COLUMNS`; `memory` is the row's."""
    return (
        scope.id,
        memory.id,
        memory.version,
        *said_by(memory),
        memory.created_at,
        memory.updated_at,
        memory.expires_at,
        hash_text(memory.text),
        row.actor,
        row.event,
        row.event_at,
    )


def passed_values(scope: Scope, target: UUID, row: Row, now: datetime) -> tuple[Any, ...]:
    """The columns of `history` but the vector's, of a row that came and went in one transaction at `now`."""
    memory = row.memory
    key = (scope.id, target, row.version)
    if memory is None:
        return (*key, "deleted", now, now, row.actor, *NOTHING_SAID, now, now, None)
    return (
        *key,
        row.event or "created",
        row.event_at or memory.updated_at,
        now,
        row.actor,
        *said_by(memory),
        memory.created_at,
        memory.updated_at,
        memory.expires_at,
    )
