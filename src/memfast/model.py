"""The words of memfast as data: scopes, memories, changes to them and what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Literal
from uuid import UUID

import msgspec
import numpy as np
from msgspec import UNSET, Raw, Struct, UnsetType
from numpy.typing import NDArray

from memfast.claims import Claim, Kept
from memfast.errors import MemfastError
from memfast.filters import Filter
from memfast.links import Link, LinkKey

__all__ = [
    "EMPTY_OBJECT",
    "AnyChange",
    "AskedQuery",
    "Change",
    "Create",
    "DatabaseFacts",
    "Delete",
    "Delta",
    "DropLink",
    "ForgetReceipt",
    "HistoryEvent",
    "HistoryPage",
    "Hit",
    "HotScope",
    "Import",
    "Listing",
    "Memory",
    "MemoryPage",
    "NearestRows",
    "Neighbourhood",
    "OnConflict",
    "Outcome",
    "Owner",
    "Past",
    "Patch",
    "Position",
    "PutLink",
    "Related",
    "Scope",
    "ScopeReads",
    "Snapshot",
    "Status",
    "StoredMemory",
    "Trail",
    "Undelete",
    "User",
    "UserPage",
    "derive_scope_id",
    "target_of",
]

EMPTY_OBJECT = Raw(b"{}")
"""The metadata of a memory that has none."""

OnConflict = Literal["error", "update", "ignore"]
Status = Literal["created", "updated", "duplicate", "deleted"]


def derive_scope_id(secret: bytes, namespace: str, user_id: str) -> UUID:
    """The 128-bit name of a scope: BLAKE2b keyed with the database's secret over the length-prefixed names.

    The length prefix keeps ("a", "bc") and ("ab", "c") apart; the key keeps a tenant from choosing its scope's id.
    """
    digest = blake2b(key=secret, digest_size=16)
    for name in (namespace, user_id):
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return UUID(bytes=digest.digest())


class Scope(Struct, frozen=True, gc=False):
    """One user of one namespace: the unit of isolation, consistency and forgetting."""

    id: UUID
    namespace: str
    user_id: str


class Memory(Struct, frozen=True):
    """What an agent stored, in the order in which it stands in answers. Times are UTC; `metadata` is a JSON object."""

    id: UUID
    user_id: str
    text: str
    kind: str
    tags: list[str]
    entities: list[str]
    importance: float
    metadata: Raw
    agent_id: str | None
    run_id: str | None
    source: str | None
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    version: int


class _Change(Struct, frozen=True, kw_only=True):
    """What every change has: `actor` is the id of the API key, `claim` that of a request with an idempotency key."""

    scope: Scope
    actor: str | None = None
    claim: Claim | None = None


class Create(_Change, frozen=True, kw_only=True):
    """Store a memory. `vector` is float32 (dimensions,), norm 1; `memory.version` is filled in by the store.

    `fresh_id` says that this process has just drawn the id, so that no row can have it. With `dedupe` nothing is stored
    when a live memory of the scope says the same (`store.texts`), whatever its id.
    """

    memory: Memory
    vector: NDArray[np.float32]
    on_conflict: OnConflict = "error"
    fresh_id: bool = False
    dedupe: bool = False


class Patch(_Change, frozen=True, kw_only=True):
    """Change fields of a memory; UNSET leaves a field alone. `vector` comes with a new text or by itself.

    `expected_versions` are those of which the memory must have one; None = any.
    """

    id: UUID
    expected_versions: frozenset[int] | None = None
    vector: NDArray[np.float32] | None = None
    text: str | UnsetType = UNSET
    kind: str | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    entities: list[str] | UnsetType = UNSET
    importance: float | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET
    agent_id: str | UnsetType | None = UNSET
    run_id: str | UnsetType | None = UNSET
    source: str | UnsetType | None = UNSET
    expires_at: datetime | UnsetType | None = UNSET

    def applied_to(self, memory: Memory, *, now: datetime, version: int) -> Memory:
        """The memory as it is after this patch."""
        fields = {name: value for name in _PATCHED_FIELDS if (value := getattr(self, name)) is not UNSET}
        return msgspec.structs.replace(memory, **fields, updated_at=now, version=version)


_PATCHED_FIELDS = (
    *("text", "kind", "tags", "entities", "importance", "metadata"),
    *("agent_id", "run_id", "source", "expires_at"),
)


class Delete(_Change, frozen=True, kw_only=True):
    """Remove a memory, leaving a tombstone without content. What it said goes to history, with `purge` nowhere.

    With `expired` only a memory that has expired is removed.
    """

    id: UUID
    expected_versions: frozenset[int] | None = None
    purge: bool = False
    expired: bool = False


class Undelete(_Change, frozen=True, kw_only=True):
    """Bring back a memory that was deleted after `since`: the text, the fields, the times and the vector it had.

    Where its vector was made by another model, `vector` is that of `text` by the present one.
    """

    id: UUID
    since: datetime
    expected_versions: frozenset[int] | None = None
    vector: NDArray[np.float32] | None = None
    text: str | None = None


class StoredMemory(Struct, frozen=True, kw_only=True, gc=False):
    """A memory as it lies in the store, deleted ones included, for export and import.

    `memory` is None where it was deleted, at `updated_at`. `event` is what made it so, unless that was a create or
    a delete, at `event_at`, or `updated_at` where that is None. `vector` is float32 (dimensions,), norm 1.
    """

    id: UUID
    version: int
    memory: Memory | None
    created_at: datetime
    updated_at: datetime
    event: Literal["updated", "undeleted"] | None = None
    event_at: datetime | None = None
    actor: str | None = None
    vector: NDArray[np.float32] | None = None


class Past(Struct, frozen=True, kw_only=True, gc=False):
    """What `event` made of a memory from `at` until `superseded_at`: None from a delete on, which keeps `vector`."""

    id: UUID
    version: int
    event: Literal["created", "updated", "deleted", "undeleted"]
    at: datetime
    superseded_at: datetime
    memory: Memory | None
    created_at: datetime
    updated_at: datetime
    actor: str | None = None
    vector: NDArray[np.float32] | None = None


class Import(Struct, frozen=True, kw_only=True, gc=False):
    """Take in a memory as it lay in another store, with its times, its history, and its version where that is free.

    What the scope has, equal but for the version, is a duplicate whatever `on_conflict` says; so is a deleted memory
    that it knows. `past` goes with a memory that the scope did not know, and is added to that of an equal one.
    """

    scope: Scope
    row: StoredMemory
    past: list[Past]
    on_conflict: OnConflict = "error"

    @property
    def id(self) -> UUID:
        """The memory's."""
        return self.row.id


class PutLink(_Change, frozen=True, kw_only=True):
    """Link two live memories of a scope, or change the link that they have. The store fills in `link.version`.

    `on_conflict` other than `update` is for imports: what is there with the same content is a duplicate then, and so is
    everything that is there with `ignore`.
    """

    link: Link
    on_conflict: OnConflict = "update"


class DropLink(_Change, frozen=True, kw_only=True):
    """Remove a link; with `automatic` only one that nobody asked for."""

    key: LinkKey
    automatic: bool = False


Change = Create | Patch | Delete | Undelete | PutLink | DropLink
AnyChange = Change | Import


def target_of(change: AnyChange) -> UUID:
    """The id of the memory that a change is about; of a link it is the first one."""
    if isinstance(change, Create):
        return change.memory.id
    if isinstance(change, PutLink):
        return change.link.from_id
    return change.key.from_id if isinstance(change, DropLink) else change.id


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of one change: `refused` says why it was not made, else `status` and `version` tell.

    `version` is the memory's or the link's, `scope_version` the one that this change has taken of the scope, also where
    it changed nothing. `link` is what was put or dropped. An undelete that needs a vector is refused with
    `EmbeddingRequired` and the `memory` whose text is to be embedded. `past_taken` says that the history which an
    import brought is the memory's now. `before` is what the change's claim was answered before: it was not made again.
    """

    id: UUID
    status: Status | None = None
    version: int = 0
    scope_version: int = 0
    memory: Memory | None = None
    link: Link | None = None
    refused: MemfastError | None = None
    past_taken: bool = False
    before: Kept | None = None


class Position(Struct, frozen=True, array_like=True):
    """Where a page ended: the keyset of a listing."""

    created_at: datetime
    id: UUID


class Owner(Struct, frozen=True, kw_only=True):
    """A user that has a memory of an id, or where it does not live any more had one."""

    id: UUID
    user_id: str
    lives: bool


class Listing(Struct, frozen=True, kw_only=True):
    """A listing of one scope's memories, or of those that pass `where`. `limit` ≥ 1; `ascending` is oldest first.

    The first `skip` of them, of those behind `after` where there is one, are left out.
    """

    limit: int
    skip: int = 0
    after: Position | None = None
    where: Filter | None = None
    ascending: bool = False


class MemoryPage(Struct, frozen=True):
    """A page of memories and whether more follow, with the version of the snapshot.

    `expires_at` is when that stops being true by itself: the first memory behind the page counts too.
    """

    memories: list[Memory]
    has_more: bool
    version: int
    expires_at: datetime | None = None


class NearestRows(Struct, frozen=True):
    """Candidates of a vector search: `vectors` is float32 (len(memories), dimensions), rows beside the memories."""

    memories: Sequence[Memory]
    vectors: NDArray[np.float32]
    version: int


class Snapshot(Struct, frozen=True, kw_only=True):
    """All live memories of a scope at a version, in order of id; `vectors` is float32 (len(memories), dimensions)."""

    memories: list[Memory]
    vectors: NDArray[np.float32]
    version: int
    purged_to: int


class Delta(Struct, frozen=True, kw_only=True):
    """All that happened in a scope from `since`, excluded, to `version`, included, read in one snapshot.

    Attributes:
        since: the version that the delta continues.
        version: the scope's version in the snapshot.
        purged_to: the scope's tombstones up to this version are gone.
        memories: those that were stored or changed and live, each once.
        vectors: float32 (len(memories), dimensions), norm 1.
        deleted: ids of tombstones with the versions of the deletes.
    """

    since: int
    version: int
    purged_to: int
    memories: Sequence[Memory]
    vectors: NDArray[np.float32]
    deleted: Sequence[tuple[UUID, int]] = ()


class HistoryEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to a memory: `text` is what it said from then on, `previous_text` until then.

    `actor` is the id of the API key that asked for it.
    """

    event: Literal["created", "updated", "deleted", "undeleted"]
    version: int
    at: datetime
    actor: str | None = None
    text: str | None = None
    previous_text: str | None = None


class HistoryPage(Struct, frozen=True):
    """A page of a memory's events, oldest first, whether more follow, and the scope's version of the snapshot."""

    events: list[HistoryEvent]
    has_more: bool
    version: int


class Related(Memory, frozen=True, kw_only=True):
    """A memory that a walk over links found: so many links away, with the product of their weights."""

    depth: int
    weight: float


class Neighbourhood(Struct, frozen=True):
    """What a walk found, nearest first, and the scope's version of the snapshot.

    `expires_at` is when that stops being true by itself: whoever was walked through counts too. `engine` walked;
    `degraded` are those that should have.
    """

    results: list[Related]
    version: int
    expires_at: datetime | None
    engine: str = "postgresql"
    degraded: Sequence[str] = ()


class Trail(Struct, frozen=True):
    """The same without the memories: (id, depth, weight) of each."""

    found: Sequence[tuple[UUID, int, float]]
    version: int
    expires_at: datetime | None
    engine: str = "postgresql"
    degraded: Sequence[str] = ()


class Hit(Struct, frozen=True):
    """A memory that a search found, with its score 0..1."""

    memory: Memory
    score: float


class User(Struct, frozen=True, kw_only=True):
    """A scope as its owner sees it. `memories` counts what is stored and not deleted."""

    user_id: str
    memories: int
    version: int
    created_at: datetime
    updated_at: datetime


class UserPage(Struct, frozen=True):
    """A page of users and whether more follow."""

    users: list[User]
    has_more: bool


class ForgetReceipt(Struct, frozen=True, kw_only=True):
    """What forgetting a user erased: `rows` by table, `copies` by kind; `keys` of the API still name the user."""

    memories: int
    version: int
    at: datetime
    rows: dict[str, int]
    copies: dict[str, int | None]
    keys: int


class DatabaseFacts(Struct, frozen=True, kw_only=True):
    """What the database says of itself.

    `keys_generation` is 0 until the first key and rises with each change. `wal` is the position in the server's log, in
    bytes: it only grows while the database lives one life. `era` rises whenever somebody has every copy dropped.
    `generation` is that of the vectors that searches compare.
    """

    lineage: UUID
    schema: int
    keys_generation: int
    wal: int
    generation: int
    era: int = 0


class AskedQuery(Struct, frozen=True, array_like=True):
    """A question and how often it was asked. `request` can be asked again: see `service.recall.Query`."""

    request: bytes
    count: int


class ScopeReads(Struct, frozen=True, kw_only=True):
    """Reads of a scope since they were written last."""

    scope_id: UUID
    reads: int
    queries: list[AskedQuery]


class HotScope(Struct, frozen=True, kw_only=True):
    """A scope with its access statistics, the most frequent questions first."""

    scope: Scope
    memories: int
    version: int
    reads: int
    queries: list[AskedQuery]
