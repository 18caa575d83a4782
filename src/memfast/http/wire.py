"""What stands on the wire: requests, parameters and answers. Their schemas are the OpenAPI document's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from memfast.errors import Problem
from memfast.model import HistoryEvent, Memory, OnConflict, User
from memfast.readings import PoolSnapshot, RelayStats, SharedCacheStats, StoreHealth
from memfast.resilience.breaker import BreakerSnapshot
from memfast.service.associations import AssociationSnapshot
from memfast.service.background import BackgroundSnapshot
from memfast.service.tokens import TEXT_PATTERN

__all__ = [
    "BackgroundAnswer",
    "BatchItem",
    "BatchRequest",
    "BatchResult",
    "BatchResults",
    "CacheAnswer",
    "CacheLayer",
    "Cleared",
    "CreateRequest",
    "ExportParameters",
    "GetManyRequest",
    "HealthAnswer",
    "HistoryAnswer",
    "HistoryParameters",
    "ImportAnswer",
    "ImportParameters",
    "ImportProblem",
    "InvalidateRequest",
    "ListParameters",
    "Live",
    "MemoriesFound",
    "MemoriesPage",
    "PatchBatchRequest",
    "PatchItem",
    "PatchRequest",
    "PressureCounters",
    "Problem",
    "ReadParameters",
    "Ready",
    "UserParameters",
    "UsersAnswer",
    "UsersParameters",
    "WarmAnswer",
    "WarmLayer",
    "WarmProgress",
    "WarmRequest",
]

UserId = Annotated[str, Meta(min_length=1, description="whose memories; compared exactly")]
Text = Annotated[str, Meta(min_length=1, description="what is to be remembered")]
Importance = Annotated[float, Meta(ge=0, le=1)]
Embedding = Annotated[
    bytes | list[float],
    Meta(description="a list of numbers, or little-endian float32 as base64 or msgpack bin"),
]
Time = Annotated[datetime, Meta(tz=True)]
MinVersion = Annotated[
    str,
    Meta(pattern=TEXT_PATTERN, description="a write's Memfast-Token: the answer is not older; the header, if absent"),
]
Consistency = Annotated[Literal["strong"], Meta(description="strong = the newest state, whoever wrote it")]
Vector = Embedding
Limit = Annotated[int, Meta(ge=1)]
PathId = UUID


class Incoming(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request body: unknown fields are refused."""


class MemoryFields(Incoming, kw_only=True):
    """A memory as it is sent."""

    text: Text
    id: UUID | None = None
    kind: str = "fact"
    tags: list[str] = []
    entities: list[str] = []
    importance: Importance = 0.5
    metadata: dict[str, Any] | None = None
    agent_id: str | None = None
    run_id: str | None = None
    source: str | None = None
    created_at: Time | None = None
    expires_at: Time | None = None
    embedding: Embedding | None = None
    on_conflict: OnConflict = "error"
    dedupe: Annotated[
        bool,
        Meta(
            description="store nothing where a memory of the user says the same: equal once both ends are stripped of "
            "white space and both texts are in Unicode's form NFC"
        ),
    ] = False


class CreateRequest(MemoryFields, kw_only=True):
    """Store one memory."""

    user_id: UserId


class BatchItem(MemoryFields, kw_only=True):
    """One memory of a batch; its `user_id` wins over the batch's."""

    user_id: UserId | None = None


class BatchRequest(Incoming, kw_only=True):
    """Store many memories in one transaction."""

    memories: Annotated[list[Raw], Meta(min_length=1)]
    user_id: UserId | None = None


class GetManyRequest(Incoming, kw_only=True):
    """Memories by id."""

    user_id: UserId
    ids: Annotated[list[UUID], Meta(min_length=1)]
    min_version: MinVersion | None = None
    consistency: Consistency | None = None


class PatchRequest(Incoming, kw_only=True):
    """Fields to change; null clears one."""

    text: Text | UnsetType = UNSET
    kind: str | UnsetType | None = UNSET
    tags: list[str] | UnsetType | None = UNSET
    entities: list[str] | UnsetType | None = UNSET
    importance: Importance | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET
    agent_id: str | UnsetType | None = UNSET
    run_id: str | UnsetType | None = UNSET
    source: str | UnsetType | None = UNSET
    expires_at: Time | UnsetType | None = UNSET
    embedding: Embedding | UnsetType = UNSET


class PatchItem(PatchRequest, kw_only=True):
    """Changes to one memory of a batch; its `user_id` wins over the batch's, `version` is the one it must have."""

    id: UUID
    user_id: UserId | None = None
    version: Annotated[int, Meta(ge=1)] | None = None


class PatchBatchRequest(Incoming, kw_only=True):
    """Change many memories in one transaction."""

    memories: Annotated[list[Raw], Meta(min_length=1)]
    user_id: UserId | None = None


class UserParameters(Struct, kw_only=True, forbid_unknown_fields=True):
    """Parameters of a route about one memory."""

    user_id: UserId


class HistoryParameters(UserParameters, kw_only=True):
    """Parameters of a memory's history."""

    limit: Limit = 20
    cursor: str | None = None


class ReadParameters(UserParameters, kw_only=True):
    """Parameters of a route that reads one memory."""

    min_version: MinVersion | None = None
    consistency: Consistency | None = None


class ListParameters(ReadParameters, kw_only=True):
    """Parameters of a listing."""

    limit: Limit = 20
    cursor: str | None = None
    kind: str | None = None
    tag: str | None = None
    entity: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    filter: Annotated[str, Meta(description="a filter as JSON text")] | None = None
    order: Literal["created_desc", "created_asc"] = "created_desc"


class UsersParameters(Struct, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the list of users."""

    limit: Limit = 20
    cursor: str | None = None


class ExportParameters(Struct, kw_only=True, forbid_unknown_fields=True):
    """Parameters of an export; without a user it has the whole namespace."""

    user_id: UserId | None = None


class ImportParameters(Struct, kw_only=True, forbid_unknown_fields=True):
    """Parameters of an import."""

    on_error: Annotated[
        Literal["continue", "stop"],
        Meta(description="go on after a line that cannot be taken in, or leave out the rest"),
    ] = "continue"
    on_conflict: Annotated[
        OnConflict, Meta(description="what happens to a memory whose id the user has, with other content")
    ] = "error"
    form: Annotated[
        Literal["auto", "memfast", "mem0"], Meta(description="whose lines they are; auto = as the first one looks")
    ] = "auto"
    user_id: Annotated[str, Meta(min_length=1, description="whose lines those are that name no user")] | None = None
    part: Annotated[bool, Meta(description="these are some lines of a file, so that no trailer is missed")] = False


class NoParameters(Struct, forbid_unknown_fields=True):
    """A route without parameters."""


class BatchResult(Struct, kw_only=True, omit_defaults=True):
    """What became of one item."""

    id: UUID | None
    status: Literal["created", "updated", "duplicate", "deleted", "error"]
    version: int | None = None
    problem: Problem | None = None


class BatchResults(Struct):
    """One result per item, in their order."""

    results: list[BatchResult]


class ImportProblem(Struct):
    """Why a line, counted from 1, was not taken in."""

    line: int
    problem: Problem


class ImportAnswer(Struct, kw_only=True):
    """What became of the lines of an import.

    `created`, `updated` and `duplicate` count memories, deleted ones included; `links` those that are there now;
    `skipped` what had already expired, history of memories that were not new, and what was left out after `stopped_at`.
    `complete` is null where no trailer was to be expected; `problems` names the first hundred errors.
    """

    lines: int
    created: int
    updated: int
    duplicate: int
    history: int
    links: int
    skipped: int
    errors: int
    embedded: int
    complete: bool | None
    stopped_at: int | None
    problems: list[ImportProblem]


class MemoriesFound(Struct):
    """Memories in the order asked for, and the ids that are not there."""

    memories: list[Memory]
    missing: list[UUID]


class MemoriesPage(Struct):
    """A page of memories."""

    memories: list[Memory]
    next_cursor: str | None
    has_more: bool


class HistoryAnswer(Struct):
    """A page of what happened to a memory, oldest first."""

    events: list[HistoryEvent]
    next_cursor: str | None
    has_more: bool


class UsersAnswer(Struct):
    """A page of users."""

    users: list[User]
    next_cursor: str | None
    has_more: bool


class Live(Struct):
    """The process answers."""

    status: Literal["live"]


class WarmProgress(Struct, kw_only=True):
    """Users that a starting worker has loaded, of those that it wants to."""

    users: int
    users_total: int
    done: bool


class Ready(Struct):
    """Whether a write could be committed now, and how far the worker's warm-up is."""

    status: Literal["ready", "not-ready"]
    detail: str | None
    warming: WarmProgress


class EmbedderHealth(Struct):
    """The embedder in use."""

    model: str
    dimensions: int


class HealthAnswer(Struct, kw_only=True):
    """Every dependency, as the worker that answers sees it. `native` says which kernels run: c or py.

    `degraded` names the dependencies that are not asked now, or only to see whether they work again. `graph` says what
    the copy of the links has still to be told, null without one.
    """

    status: Literal["ready", "not-ready"]
    version: str
    pid: int
    native: str
    mode: Literal["full", "reduced", "cache_only", "essential"]
    mode_reason: str
    degraded: list[str]
    lineage: UUID
    store: StoreHealth | None
    pool: PoolSnapshot
    breakers: list[BreakerSnapshot]
    embedder: EmbedderHealth
    graph: RelayStats | None
    detail: str | None


class InvalidateRequest(Incoming, kw_only=True):
    """What to drop: a memory (its user's answers with it), a user, or with neither the namespace."""

    user_id: UserId | None = None
    memory_id: UUID | None = None


class Cleared(Struct):
    """What was dropped."""

    cleared: Literal["everything", "namespace", "user", "memory"]


class CacheLayer(Struct, kw_only=True):
    """Counters since the worker started, what is held now, and how old that is, in seconds."""

    entries: int
    bytes: int
    mean_age_s: float
    oldest_age_s: float
    hits: int
    misses: int
    hit_rate: float
    evictions: int
    expirations: int
    invalidations: int


class WarmLayer(Struct, kw_only=True):
    """Users that are held in memory, and for how long."""

    users: int
    memories: int
    bytes: int
    mean_age_s: float
    oldest_age_s: float
    evictions: int


class PressureCounters(Struct, kw_only=True):
    """How often memory ran short."""

    clean_ups: int
    emergencies: int
    resident_bytes: int


class CacheAnswer(Struct, kw_only=True):
    """The layers of the worker that answers: search, list, get, requests and embeddings, and the warm users.

    `shared` is Redis, as this worker uses it; null without one.
    """

    pid: int
    layers: dict[str, CacheLayer]
    warm: WarmLayer
    shared: SharedCacheStats | None
    pressure: PressureCounters


class BackgroundAnswer(Struct, kw_only=True):
    """Work that no request waits for, of the worker that answers; `tasks` are all of its event loop, requests too.

    `links` are those that memories get by themselves.
    """

    pid: int
    tasks: int
    background: BackgroundSnapshot
    links: AssociationSnapshot


class WarmRequest(Incoming, kw_only=True):
    """Users of the key's namespace, or without them the most read of all; `queries` of each are asked again."""

    users: Annotated[list[UserId], Meta(min_length=1, max_length=1000)] | None = None
    limit: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    queries: Annotated[int, Meta(ge=0, le=50)] = 20


class WarmAnswer(Struct, kw_only=True):
    """What was warmed in the worker that answers; not complete where its memory is full."""

    pid: int
    users: int
    memories: int
    complete: bool
