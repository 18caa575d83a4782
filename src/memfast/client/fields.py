"""What calls take beside their first arguments, as types that a checker knows by name.

What is left out is as the service is set; the service checks what is given, and names what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict
from uuid import UUID

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[Any] | Sequence[float] | bytes
    """An array of numbers of any kind, a sequence of floats, or little-endian float32."""

__all__ = [
    "AddOptions",
    "CallOptions",
    "ChangeOptions",
    "Id",
    "LinkOptions",
    "ListOptions",
    "MemoryChange",
    "NewLink",
    "NewMemory",
    "ReadOptions",
    "RelatedOptions",
    "SearchItem",
    "SearchOptions",
    "WriteOptions",
]

Id = UUID | str
"""A memory's id."""

OnConflict = Literal["error", "update", "ignore"]


class CallOptions(TypedDict, total=False):
    """`timeout_s`: seconds for the call, all tries together; the service is told of it."""

    timeout_s: float


class ReadOptions(CallOptions, total=False):
    """How new an answer must be; by itself a read is never older than the client's own writes.

    `min_version` is the token of somebody else's write (`Client.token`), `consistency` the newest state whoever wrote.
    """

    min_version: str
    consistency: Literal["strong"]


class WriteOptions(CallOptions, total=False):
    """`idempotency_key`: under which the write happens once; by itself each call has one of its own."""

    idempotency_key: str


class _Fields(TypedDict, total=False):
    """Fields of a new memory beside its text."""

    id: Id
    kind: str
    tags: Sequence[str]
    entities: Sequence[str]
    importance: float
    metadata: Mapping[str, Any] | None
    agent_id: str | None
    run_id: str | None
    source: str | None
    created_at: datetime | None
    expires_at: datetime | None
    embedding: Vector | None
    on_conflict: OnConflict
    dedupe: bool


class AddOptions(_Fields, WriteOptions, total=False):
    """Fields and options of `add`."""


class NewMemory(_Fields, total=False):
    """A memory of `add_many`."""

    text: Required[str]


class _Changes(TypedDict, total=False):
    """Fields to change; None clears one."""

    text: str
    kind: str | None
    tags: Sequence[str] | None
    entities: Sequence[str] | None
    importance: float | None
    metadata: Mapping[str, Any] | None
    agent_id: str | None
    run_id: str | None
    source: str | None
    expires_at: datetime | None
    embedding: Vector


class ChangeOptions(_Changes, WriteOptions, total=False):
    """Changes and options of `update`."""


class MemoryChange(_Changes, total=False):
    """A change of `update_many`; `version` is the one that the memory must have."""

    id: Required[Id]
    version: int


class ListOptions(ReadOptions, total=False):
    """Which memories are listed, and in which order. `filter`: see docs/filters.md."""

    kind: str
    tag: str
    entity: str
    agent_id: str
    run_id: str
    filter: Mapping[str, Any]
    order: Literal["created_desc", "created_asc"]


class _Search(TypedDict, total=False):
    """Options of a search: see docs/search.md."""

    embedding: Vector | None
    limit: int
    mode: Literal["vector", "lexical", "hybrid"]
    min_score: float
    filter: Mapping[str, Any]
    tags: Sequence[str]
    tags_mode: Literal["any", "all", "any_strict", "all_strict"]
    fusion: Literal["convex", "rrf"]
    weights: Mapping[str, float]
    convergence: float
    neighbors: bool
    include_neighbors: int
    fold_duplicates: bool
    boosts: Mapping[str, float]
    expansion: Mapping[str, float]
    expand: Mapping[str, float]
    explain: bool


class SearchOptions(_Search, ReadOptions, total=False):
    """Options of `search`."""


class SearchItem(_Search, total=False):
    """A search of `search_many`."""

    query: str


class _Link(TypedDict, total=False):
    """What a link says."""

    type: str
    weight: float
    directed: bool
    metadata: Mapping[str, Any] | None


class LinkOptions(_Link, WriteOptions, total=False):
    """What a link says, and options of `link`."""


class NewLink(_Link, total=False):
    """A link of `link_many`."""

    from_id: Required[Id]
    to_id: Required[Id]


class RelatedOptions(ReadOptions, total=False):
    """How far links are followed: see docs/links.md."""

    depth: int
    limit: int
    type: str
    min_weight: float
