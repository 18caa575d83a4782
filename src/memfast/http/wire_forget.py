"""What stands on the wire of deleting and forgetting; see `http.wire`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import Meta, Struct

from memfast.http.wire import Incoming, UserId, UserParameters
from memfast.service.forget import REMOVED_MAX

__all__ = [
    "CopiesAnswer",
    "DeleteBatchRequest",
    "DeleteMatchingRequest",
    "DeleteParameters",
    "ErasedCopies",
    "ForgetParameters",
    "Receipt",
    "Remainder",
    "RemovalAnswer",
]


class DeleteBatchRequest(Incoming, kw_only=True):
    """Delete many memories of a user in one transaction; `purge` erases them from history too."""

    user_id: UserId
    ids: Annotated[list[UUID], Meta(min_length=1)]
    purge: bool = False


class DeleteMatchingRequest(Incoming, kw_only=True):
    """Delete the memories of a user that pass a filter."""

    user_id: UserId
    filter: dict[str, Any]
    limit: Annotated[int, Meta(ge=1, le=REMOVED_MAX, description="memories at most; has_more tells of others")] = (
        REMOVED_MAX
    )
    dry_run: Annotated[bool, Meta(description="say what would be deleted, and delete nothing")] = False
    purge: Annotated[bool, Meta(description="erase what they said at once, in history too")] = False


class DeleteParameters(UserParameters, kw_only=True):
    """Parameters of a delete."""

    purge: Annotated[bool, Meta(description="erase what it said at once, in history too")] = False


class ForgetParameters(Struct, kw_only=True, forbid_unknown_fields=True):
    """Parameters of forgetting a user."""

    namespace: Annotated[str, Meta(description="refused where the key belongs to another one")] | None = None


class RemovalAnswer(Struct, kw_only=True):
    """What a delete by filter did, or with `dry_run` would do.

    `matched` counts what was looked at, `changed` what was left alone because it was changed meanwhile. `ids` names the
    first thousand that were deleted (or would be), `has_more` says that others match beyond `limit`. `version` is the
    user's.
    """

    matched: int
    deleted: int
    changed: int
    has_more: bool
    dry_run: bool
    version: int
    ids: list[UUID]


class ErasedCopies(Struct, kw_only=True):
    """What the answering worker erased beside the database.

    `answers` counts finished answers, `memories` those held in memory, `questions` frequent ones whose wording was
    remembered, `snapshots` the user's files, `redis` answers there: null without Redis, or where it was away. `graph`
    counts memories and links there, which it erases as soon as it is told: null without a graph, or where it was away.
    """

    answers: int
    memories: int
    questions: int
    snapshots: int
    redis: int | None
    graph: int | None = None


class Remainder(Struct):
    """Where something may still lie, and until when."""

    where: str
    until: str


class Receipt(Struct, kw_only=True):
    """What forgetting a user did, and what it did not.

    `memories` were live; `rows` counts what was erased from each table, tombstones and revoked keys included. `keys`
    counts API keys that still name the user.
    """

    user_id: str
    memories: int
    version: int
    forgotten_at: datetime
    rows: dict[str, int]
    copies: ErasedCopies
    keys: int
    remains: list[Remainder]


class CopiesAnswer(Struct, kw_only=True):
    """What the answering worker keeps of a user; all 0 where it was forgotten. See `ErasedCopies`."""

    pid: int
    namespace: str
    answers: int
    memories: int
    questions: int
    snapshots: int
