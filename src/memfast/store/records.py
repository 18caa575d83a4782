"""Memories as rows of the driver, in and out."""

from __future__ import annotations

from typing import Any

from memfast.model import Memory, Scope

__all__ = ["MEMORY_COLUMNS", "memory_values", "read_memory"]

MEMORY_COLUMNS = (
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
"""The columns of `memories` that a live row fills."""


def read_memory(user_id: str, record: Any, start: int = 0) -> Memory:
    """A memory of a row whose columns from `start` on are id, text and on to expires_at, version."""
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


def memory_values(scope: Scope, memory: Memory) -> tuple[Any, ...]:
    """The values of `MEMORY_COLUMNS`."""
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
