"""What a copy of the links elsewhere is told: which memories and links there are, version by version."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from msgspec import Struct

from memfast.links import LinkKey

__all__ = ["Change", "LinkGone", "LinkPut", "Mark", "NodeGone", "NodePut", "OtherMarkError", "Step", "Walked"]


class NodePut(Struct, frozen=True, array_like=True, tag_field="what", tag="n"):
    """A memory is there, or its times have changed."""

    id: UUID
    created_at: datetime
    expires_at: datetime | None


class NodeGone(Struct, frozen=True, array_like=True, tag_field="what", tag="-n"):
    """A memory is no more, and none of its links."""

    id: UUID


class LinkPut(Struct, frozen=True, array_like=True, tag_field="what", tag="l"):
    """A link is there, or has changed; an undirected one has the lower id first."""

    from_id: UUID
    to_id: UUID
    type: str
    weight: float
    directed: bool
    created_at: datetime


class LinkGone(Struct, frozen=True, array_like=True, tag_field="what", tag="-l"):
    """A link is no more."""

    key: LinkKey


Change = NodePut | NodeGone | LinkPut | LinkGone


class Mark(Struct, frozen=True):
    """Which database a copy is of, and which building of the copy it is; a copy with another mark is built anew."""

    lineage: UUID
    epoch: int


class OtherMarkError(Exception):
    """The copy does not bear the mark that its writer relies on: it is of something else now, or not made yet."""


class Step(Struct, frozen=True):
    """What one transaction did to one scope, in order: the scope had version `base` before, and has `version` then.

    `base` is 0 where the scope was new, and the copy has nothing of it then. `forgotten` says that everything of the
    scope is erased before `changes`; such a step does not rely on its base.
    """

    scope_id: UUID
    version: int
    changes: list[Change]
    forgotten: bool = False
    base: int = 0

    def misses(self, version: int) -> bool:
        """Whether a scope of this version has not reached what the step relies on."""
        return self.base > version and not self.forgotten


class Walked(Struct, frozen=True):
    """What a walk over a copy found, by depth, falling weight, the newest, the id: (id, depth, weight).

    `version` is the scope's in the copy, and `mark` the copy's own: nothing that was found is older than them.
    `start` says whether the first memory is there. `expires_at` is when the earliest of those that were walked through
    expires.
    """

    mark: Mark
    version: int
    start: bool
    found: list[tuple[UUID, int, float]]
    expires_at: datetime | None
