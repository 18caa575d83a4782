"""What stands on the wire of links; see `http.wire`."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Raw, Struct

from memfast.http.wire import Incoming, Limit, Problem, ReadParameters, UserId, UserParameters
from memfast.links import DEFAULT_TYPE, DEPTH_MAX, Link
from memfast.model import Memory

__all__ = [
    "DropLinkParameters",
    "LinkBatchRequest",
    "LinkFields",
    "LinkRequest",
    "LinkResult",
    "LinkResults",
    "LinksAnswer",
    "LinksParameters",
    "RelatedAnswer",
    "RelatedMemory",
    "RelatedParameters",
]

LinkType = Annotated[str, Meta(min_length=1, description="what the link says; compared exactly")]
Weight = Annotated[float, Meta(ge=0, le=1)]


class LinkFields(Incoming, kw_only=True):
    """A link as it is sent; `weight` is kept to six decimal places."""

    from_id: UUID
    to_id: UUID
    type: LinkType = DEFAULT_TYPE
    weight: Weight = 1.0
    directed: Annotated[bool, Meta(description="followed from from_id to to_id only")] = False
    metadata: dict[str, Any] | None = None


class LinkRequest(LinkFields, kw_only=True):
    """Link two memories."""

    user_id: UserId


class LinkBatchRequest(Incoming, kw_only=True):
    """Link many memories of a user in one transaction; an item is a link without its user."""

    user_id: UserId
    links: Annotated[list[Raw], Meta(min_length=1)]


class LinksParameters(UserParameters, kw_only=True):
    """Parameters of a listing of links."""

    memory_id: Annotated[UUID, Meta(description="only links that start or end there")] | None = None
    type: LinkType | None = None
    limit: Limit = 20
    cursor: str | None = None


class DropLinkParameters(UserParameters, kw_only=True):
    """The link to remove; an undirected one is named either way round."""

    from_id: UUID
    to_id: UUID
    type: LinkType = DEFAULT_TYPE


class RelatedParameters(ReadParameters, kw_only=True):
    """Parameters of a walk over links."""

    depth: Annotated[int, Meta(ge=1, le=DEPTH_MAX, description="links to the farthest memory")] = 2
    limit: Limit = 10
    type: Annotated[LinkType, Meta(description="only links of this type are followed")] | None = None
    min_weight: Annotated[Weight, Meta(description="weaker links are not followed")] = 0.0


class LinkResult(Struct, kw_only=True, omit_defaults=True):
    """What became of one link. The ends of an undirected one stand in the order of their ids."""

    from_id: UUID | None
    to_id: UUID | None
    type: str | None
    status: Literal["created", "updated", "error"]
    version: int | None = None
    problem: Problem | None = None


class LinkResults(Struct):
    """One result per link, in their order."""

    results: list[LinkResult]


class LinksAnswer(Struct):
    """A page of links, in the order of from_id, to_id and type."""

    links: list[Link]
    next_cursor: str | None
    has_more: bool


class RelatedMemory(Memory, frozen=True, kw_only=True):
    """A memory, how many links away it is, and the product of their weights on the best of the shortest paths."""

    depth: int
    weight: float


class RelatedAnswer(Struct):
    """Memories by rising depth, then falling weight, and the version of the user's memories and links.

    `engine` walked: postgresql or neo4j. `degraded` names the one that should have, and could not be asked.
    """

    results: list[RelatedMemory]
    version: int
    engine: str
    degraded: list[str]
