"""Links between memories as data, how they are told from one another, and the entities that memories share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Raw, Struct

__all__ = [
    "AUTOMATIC",
    "DEFAULT_TYPE",
    "FANOUT_LINKS",
    "LEVEL_MEMORIES",
    "EntityCount",
    "EntityPage",
    "Holder",
    "Link",
    "LinkKey",
    "LinkPage",
    "LinkQuery",
    "Reached",
    "Spread",
    "Walk",
]

DEFAULT_TYPE = "relates_to"

AUTOMATIC = Raw(b'{"by":"memfast"}')
"""The metadata of a link that nobody asked for."""

DEPTH_MAX = 4
"""Links between a memory and the farthest that are said to be related to it."""

FANOUT_LINKS = 256
"""Links of a memory that a walk follows in each direction: the strongest, of equal ones those to the lowest ids."""

LEVEL_MEMORIES = 500
"""Memories of one distance that a walk keeps, and goes on from: the nearest by weight, of equal ones the newest. A
spread takes those with the highest scores, of equal ones the lowest ids."""


class LinkKey(Struct, frozen=True, array_like=True, order=True):
    """What a link is told from others by: two memories and a type; an undirected one has the lower id first."""

    from_id: UUID
    to_id: UUID
    type: str

    @property
    def reverse(self) -> LinkKey:
        """The key of a link the other way."""
        return LinkKey(self.to_id, self.from_id, self.type)


class Link(Struct, frozen=True, kw_only=True):
    """Something that two memories of one user have to do with each other, as it stands in answers.

    `weight` is from 0 to 1. An undirected link is followed both ways. `metadata` is a JSON object; `version` is the
    scope's at the link's last change, filled in by the store.
    """

    from_id: UUID
    to_id: UUID
    type: str
    weight: float
    directed: bool
    metadata: Raw
    created_at: datetime
    version: int

    @property
    def key(self) -> LinkKey:
        """What it is told from others by, as it is."""
        return LinkKey(self.from_id, self.to_id, self.type)

    @property
    def automatic(self) -> bool:
        """Whether nobody asked for it."""
        return bytes(self.metadata) == bytes(AUTOMATIC)

    def says_as(self, other: Link) -> bool:
        """Whether the other one says the same, whenever it was made."""
        one, two = (
            msgspec.structs.replace(each.normalised(), created_at=self.created_at, version=0) for each in (self, other)
        )
        return one == two

    def normalised(self) -> Link:
        """The link with the lower id first, if it is undirected."""
        if self.directed or self.from_id < self.to_id:
            return self
        return msgspec.structs.replace(self, from_id=self.to_id, to_id=self.from_id)


class LinkQuery(Struct, frozen=True, kw_only=True):
    """A listing of one scope's links, of one memory or of all. `limit` ≥ 1; `after` is where a page ended."""

    limit: int
    memory_id: UUID | None = None
    type: str | None = None
    after: LinkKey | None = None


class LinkPage(Struct, frozen=True):
    """A page of links in the order of their keys, whether more follow, and the scope's version of the snapshot.

    `found` is False where the memory asked for is not there.
    """

    links: list[Link]
    has_more: bool
    version: int
    found: bool = True


class Walk(Struct, frozen=True, kw_only=True):
    """A breadth-first walk from a memory over links of at least `min_weight`, of one type or of any.

    `depth` is the number of links to the farthest memory, 1 to 4; `limit` ≥ 1 bounds what is found.
    """

    start: UUID
    depth: int
    limit: int
    type: str | None = None
    min_weight: float = 0.0


class Spread(Struct, frozen=True, kw_only=True):
    """Scores of some memories that are handed on over links, at most `depth` (1 to 4) of them.

    What arrives is the score times the weights of the links. Of one memory's arrivals the highest counts; of equal
    ones that over fewer links, then that from the lowest id.
    """

    starts: Sequence[tuple[UUID, float]]
    depth: int


class Reached(Struct, frozen=True, array_like=True):
    """The highest score that arrived at a memory, from which start, and over how many links."""

    id: UUID
    score: float
    start: UUID
    depth: int


class Holder(Struct, frozen=True, array_like=True):
    """A memory that has an entity, with all that it has."""

    id: UUID
    entities: list[str]
    created_at: datetime


class EntityCount(Struct, frozen=True, kw_only=True):
    """An entity and how many live memories of a scope have it."""

    entity: str
    memories: int


class EntityPage(Struct, frozen=True):
    """A page of entities, whether more follow, and the scope's version of the snapshot."""

    entities: list[EntityCount]
    has_more: bool
    version: int
