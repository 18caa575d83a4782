"""What stands on the wire of entities; see `http.wire`."""

from __future__ import annotations

from msgspec import Struct

from memfast.http.wire import Limit, UserParameters
from memfast.links import EntityCount

__all__ = ["EntitiesAnswer", "EntitiesParameters"]


class EntitiesParameters(UserParameters, kw_only=True):
    """Parameters of a listing of entities."""

    limit: Limit = 20
    cursor: str | None = None


class EntitiesAnswer(Struct):
    """A page of entities in byte order of their names, with the number of memories that have each."""

    entities: list[EntityCount]
    next_cursor: str | None
    has_more: bool
