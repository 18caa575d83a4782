"""What stands in tools' arguments and answers. The descriptions are for the language model that chooses among them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from memfast.links import DEFAULT_TYPE, DEPTH_MAX
from memfast.mcp.budget import Preview

__all__ = [
    "MAX_TOKENS",
    "ForgetArguments",
    "Forgotten",
    "FoundMemories",
    "FoundMemory",
    "FullMemory",
    "GetArguments",
    "ListArguments",
    "ListedMemories",
    "RecallArguments",
    "RelateArguments",
    "Related",
    "RelatedArguments",
    "RelatedMemories",
    "RelatedMemory",
    "RememberArguments",
    "Remembered",
    "StatusAnswer",
    "StatusArguments",
    "UpdateArguments",
    "Updated",
]

MAX_TOKENS = 2000
"""What an answer takes where its caller names no bound."""

Id = Annotated[UUID, Meta(description="id of the memory, as another answer gave it")]
Limit = Annotated[int, Meta(ge=1, le=100, description="memories at most; fewer where max_tokens has no room")]
MaxTokens = Annotated[
    int, Meta(ge=400, le=100_000, description="the answer takes no more tokens than this; long texts are cut")
]
Filter = Annotated[
    dict[str, Any],
    Meta(
        description='only memories that meet this, e.g. {"kind": "fact", "tags": "health"} or '
        '{"created_at": {"gte": "2026-01-01T00:00:00Z"}}'
    ),
]
Share = Annotated[float, Meta(ge=0, le=1)]


class _Arguments(Struct, kw_only=True, forbid_unknown_fields=True):
    user_id: (
        Annotated[
            str, Meta(min_length=1, description="whose memories; leave it out where this connection is for one user")
        ]
        | None
    ) = None


class RememberArguments(_Arguments, kw_only=True):
    """A memory."""

    text: Annotated[
        str,
        Meta(
            min_length=1,
            description="what to remember, one statement that can be understood by itself: names instead of pronouns, "
            "dates instead of 'yesterday'",
        ),
    ]
    kind: Annotated[str, Meta(description="e.g. fact, preference, event, instruction")] = "fact"
    tags: Annotated[list[str], Meta(description="topics to find it by")] = []
    entities: Annotated[list[str], Meta(description="people, places and things that it is about")] = []
    importance: Annotated[Share, Meta(description="1 = must never be missed")] = 0.5
    metadata: Annotated[dict[str, Any], Meta(description="anything else, to filter by")] | None = None
    source: Annotated[str, Meta(description="where it is from")] | None = None
    agent_id: Annotated[str, Meta(description="who remembers")] | None = None
    run_id: Annotated[str, Meta(description="the conversation or session")] | None = None
    expires_at: Annotated[datetime, Meta(tz=True, description="from when on it is not true any more")] | None = None


class Remembered(Struct, kw_only=True):
    """The memory's id; `duplicate` = the same text was there already, and nothing was stored."""

    id: UUID
    status: Literal["created", "duplicate"]
    version: int


class RecallArguments(_Arguments, kw_only=True):
    """A question."""

    query: Annotated[str, Meta(min_length=1, description="what you want to know, in words; a question will do")]
    limit: Limit = 10
    max_tokens: MaxTokens = MAX_TOKENS
    filter: Filter | None = None


class FoundMemory(Preview, kw_only=True, omit_defaults=True):
    """A memory and how well it matches, from 0 to 1."""

    score: float


class FoundMemories(Struct, kw_only=True):
    """Memories, the best match first. `degraded` names ways of searching that could not be used now."""

    memories: list[FoundMemory]
    degraded: list[str]


class GetArguments(_Arguments, kw_only=True):
    """One memory."""

    id: Id
    offset: Annotated[int, Meta(ge=0, description="next_offset of the answer before, for the rest of a long text")] = 0
    max_tokens: MaxTokens = MAX_TOKENS


class FullMemory(Struct, kw_only=True, omit_defaults=True):
    """A memory. `left_out` names fields that have no room in max_tokens, `next_offset` where its text goes on."""

    id: UUID
    text: str
    created_at: datetime
    updated_at: datetime
    version: int
    importance: float
    kind: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    agent_id: str | UnsetType = UNSET
    run_id: str | UnsetType = UNSET
    expires_at: datetime | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    entities: list[str] | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    next_offset: int | UnsetType = UNSET
    left_out: list[str] | UnsetType = UNSET


class UpdateArguments(_Arguments, kw_only=True):
    """What changes; fields that are left out stay as they are, null empties one."""

    id: Id
    expected_version: (
        Annotated[int, Meta(ge=1, description="refuse if the memory has another version, so that no change is lost")]
        | None
    ) = None
    text: Annotated[str, Meta(min_length=1, description="the new text, all of it")] | UnsetType = UNSET
    kind: str | UnsetType | None = UNSET
    tags: Annotated[list[str], Meta(description="all tags, not only new ones")] | UnsetType | None = UNSET
    entities: list[str] | UnsetType | None = UNSET
    importance: Share | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET
    source: str | UnsetType | None = UNSET
    expires_at: Annotated[datetime, Meta(tz=True)] | UnsetType | None = UNSET


class Updated(Struct, kw_only=True):
    """The memory's new version."""

    id: UUID
    version: int


class ForgetArguments(_Arguments, kw_only=True):
    """What to forget: exactly one of id, filter and everything."""

    id: Id | None = None
    expected_version: (
        Annotated[int, Meta(ge=1, description="with id: refuse if the memory has another version")] | None
    ) = None
    filter: Filter | None = None
    dry_run: Annotated[bool, Meta(description="with filter: say what would be forgotten, and forget nothing")] = False
    everything: Annotated[bool, Meta(description="erase the user and all memories, for good; needs confirm")] = False
    confirm: Annotated[str, Meta(description="with everything: the user_id, once more")] | None = None


class Forgotten(Struct, kw_only=True):
    """How many memories were forgotten, or with dry_run would be, and the first of their ids."""

    forgotten: int
    has_more: Annotated[bool, Meta(description="others match too: call again")]
    dry_run: bool
    ids: list[UUID]


class ListArguments(_Arguments, kw_only=True):
    """A page of memories."""

    limit: Limit = 20
    cursor: Annotated[str, Meta(description="next_cursor of the page before")] | None = None
    order: Literal["newest", "oldest"] = "newest"
    filter: Filter | None = None
    max_tokens: MaxTokens = MAX_TOKENS


class ListedMemories(Struct, kw_only=True):
    """Memories by the time they were created; next_cursor is null on the last page."""

    memories: list[Preview]
    next_cursor: str | None


class RelateArguments(_Arguments, kw_only=True):
    """A link."""

    from_id: Id
    to_id: Id
    type: Annotated[str, Meta(min_length=1, description="what the link says, e.g. causes, contradicts, part_of")] = (
        DEFAULT_TYPE
    )
    weight: Annotated[Share, Meta(description="how strong it is")] = 1.0
    directed: Annotated[bool, Meta(description="it leads from from_id to to_id only")] = False


class Related(Struct, kw_only=True):
    """Whether the link is new or was changed."""

    status: Literal["created", "updated"]
    version: int


class RelatedArguments(_Arguments, kw_only=True):
    """Where to begin, and how far to go."""

    id: Id
    depth: Annotated[int, Meta(ge=1, le=DEPTH_MAX, description="links to the farthest memory")] = 2
    type: Annotated[str, Meta(min_length=1, description="only links of this type are followed")] | None = None
    limit: Limit = 10
    max_tokens: MaxTokens = MAX_TOKENS


class RelatedMemory(Preview, kw_only=True, omit_defaults=True):
    """A memory, how many links away it is, and how strong they are."""

    depth: int
    weight: float


class RelatedMemories(Struct, kw_only=True):
    """Memories that links lead to, the nearest first."""

    memories: list[RelatedMemory]


class StatusArguments(_Arguments, kw_only=True):
    """The user whose memories are counted."""


class StatusAnswer(Struct, kw_only=True):
    """How the service is. `memories` is null where no user is named, or they cannot be counted now."""

    ready: Annotated[bool, Meta(description="a memory could be stored now")]
    mode: Annotated[str, Meta(description="full, or what is left of the service")]
    reason: Annotated[str, Meta(description="why it is not full")]
    user_id: str | None
    memories: int | None
