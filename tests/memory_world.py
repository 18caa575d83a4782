"""Memories of which a test says only what matters."""

from datetime import datetime
from uuid import UUID

from msgspec.structs import replace

from memfast.model import EMPTY_OBJECT, Memory


def memory_of(at: datetime, **fields) -> Memory:
    """A memory made at a moment; what the fields do not name is as a client leaves it."""
    blank = Memory(
        id=UUID(int=1),
        user_id="u",
        text="",
        kind="fact",
        tags=[],
        entities=[],
        importance=0.5,
        metadata=EMPTY_OBJECT,
        agent_id=None,
        run_id=None,
        source=None,
        created_at=at,
        updated_at=at,
        expires_at=None,
        version=0,
    )
    return replace(blank, **fields)
