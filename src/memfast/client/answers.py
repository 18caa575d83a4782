"""What the service answers, as the client gives it.

Structs of the client's own, beside those of `http.wire`: a user reads `metadata` as a dictionary and not as bytes,
fields that this version does not know are passed over, and importing them loads neither the service nor NumPy. A test
holds them to the service's.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from msgspec import Struct

from memfast.errors import Problem

__all__ = [
    "EntityCount",
    "Erased",
    "Event",
    "Explanation",
    "Found",
    "GraphScore",
    "Health",
    "Hit",
    "Hits",
    "ImportReport",
    "LegScore",
    "LineProblem",
    "Link",
    "LinkOutcome",
    "Memory",
    "Neighbor",
    "Outcome",
    "Page",
    "Receipt",
    "Related",
    "Remainder",
    "Removal",
    "SearchExplanation",
    "Stored",
    "User",
]

_T = TypeVar("_T")


class Memory(Struct, frozen=True, kw_only=True, gc=False):
    """A memory. Times are in UTC; `version` rises with every write of its user."""

    id: UUID
    user_id: str
    text: str
    kind: str
    tags: list[str]
    entities: list[str]
    importance: float
    metadata: dict[str, Any]
    agent_id: str | None
    run_id: str | None
    source: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    version: int


class Stored(Memory, frozen=True, kw_only=True, gc=False):
    """A memory after `add`. `status` is `created`, `updated` or, where `dedupe` or `ignore` met it, `duplicate`."""

    status: str = "created"


class LegScore(Struct, frozen=True, kw_only=True):
    """What a leg of a search says of a hit: as it measures, from 0 to 1, and its share of the sum."""

    raw: float
    scaled: float
    weight: float


class GraphScore(Struct, frozen=True, kw_only=True):
    """What came over links: the hit's score times their weights, and what counts of it."""

    raw: float
    weight: float
    score: float
    from_id: UUID
    depth: int


class Explanation(Struct, frozen=True, kw_only=True):
    """Where a score comes from. `added` is what neighbours and boosts made of it, `graph` what links lend."""

    convergence: float
    added: float
    lexical: LegScore | None = None
    vector: LegScore | None = None
    context: LegScore | None = None
    graph: GraphScore | None = None


class Neighbor(Memory, frozen=True, kw_only=True, gc=False):
    """A memory beside a hit in its run: so many places after it, or before it when negative."""

    distance: int


class Hit(Memory, frozen=True, kw_only=True, gc=False):
    """A memory and its score from 0 to 1; `scores` with `explain`, `neighbors` with `include_neighbors`."""

    score: float
    scores: Explanation | None = None
    neighbors: tuple[Neighbor, ...] = ()


class SearchExplanation(Struct, frozen=True, kw_only=True):
    """What was looked for: index terms and what each counts."""

    mode: str
    terms: dict[str, float]


class Hits(list[Hit]):
    """Hits by falling score.

    Attributes:
        version: the version of the user's memories that they were found in.
        degraded: what the search went on without, e.g. `vector`; empty when it is complete.
        explain: what was looked for, where that was asked.
    """

    def __init__(
        self,
        hits: Iterable[Hit] = (),
        *,
        version: int = 0,
        degraded: tuple[str, ...] = (),
        explain: SearchExplanation | None = None,
    ) -> None:
        super().__init__(hits)
        self.version = version
        self.degraded = degraded
        self.explain = explain


class Related(Memory, frozen=True, kw_only=True, gc=False):
    """A memory that links lead to: so many links away, with the product of their weights."""

    depth: int
    weight: float


class Found(Struct, frozen=True, kw_only=True):
    """Memories in the order asked for, and the ids that are not there."""

    memories: list[Memory]
    missing: list[UUID]


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of one memory of a batch: `created`, `updated`, `duplicate`, `deleted`, or `error` with a problem."""

    id: UUID | None
    status: str
    version: int | None = None
    problem: Problem | None = None


class Removal(Struct, frozen=True, kw_only=True):
    """What a delete by filter did, or with `dry_run` would do. See docs/filters.md."""

    matched: int
    deleted: int
    changed: int
    has_more: bool
    dry_run: bool
    version: int
    ids: list[UUID]


class LinkOutcome(Struct, frozen=True, kw_only=True):
    """What became of one link: `created`, `updated`, or `error` with a problem."""

    from_id: UUID | None
    to_id: UUID | None
    type: str | None
    status: str
    version: int | None = None
    problem: Problem | None = None


class Link(Struct, frozen=True, kw_only=True):
    """Something that two memories have to do with each other. An undirected one is followed both ways."""

    from_id: UUID
    to_id: UUID
    type: str
    weight: float
    directed: bool
    metadata: dict[str, Any]
    created_at: datetime
    version: int


class EntityCount(Struct, frozen=True, kw_only=True):
    """Something that memories speak of, and how many do."""

    entity: str
    memories: int


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened to a memory: `text` is what it said from then on, `previous_text` until then."""

    event: str
    version: int
    at: datetime
    actor: str | None = None
    text: str | None = None
    previous_text: str | None = None


class User(Struct, frozen=True, kw_only=True):
    """A user and how many memories are stored."""

    user_id: str
    memories: int
    version: int
    created_at: datetime
    updated_at: datetime


class Erased(Struct, frozen=True, kw_only=True):
    """What a worker erased beside the database; `redis` and `graph` are None without one, or where it was away."""

    answers: int
    memories: int
    questions: int
    snapshots: int
    redis: int | None
    graph: int | None = None


class Remainder(Struct, frozen=True):
    """Where something may still lie, and until when."""

    where: str
    until: str


class Receipt(Struct, frozen=True, kw_only=True):
    """What forgetting a user did, and what it did not. See docs/forgetting.md."""

    user_id: str
    memories: int
    version: int
    forgotten_at: datetime
    rows: dict[str, int]
    copies: Erased
    keys: int
    remains: list[Remainder]


class LineProblem(Struct, frozen=True):
    """Why a line, counted from 1, was not taken in."""

    line: int
    problem: Problem


class ImportReport(Struct, frozen=True, kw_only=True):
    """What became of the lines of an import. See docs/import-export.md."""

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
    problems: list[LineProblem]


class Health(Struct, frozen=True, kw_only=True):
    """The service as the worker that answers sees it; `detail` says why it is not `ready`."""

    status: str
    version: str
    pid: int
    native: str
    mode: str
    mode_reason: str
    degraded: list[str]
    lineage: UUID
    embedder: dict[str, Any]
    store: dict[str, Any] | None
    pool: dict[str, Any]
    breakers: list[dict[str, Any]]
    graph: dict[str, Any] | None = None
    detail: str | None


class Page(Struct, Generic[_T], frozen=True):
    """A page of a listing, and where the next one begins."""

    items: list[_T]
    next_cursor: str | None
