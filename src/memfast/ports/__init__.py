"""What the service needs of the outside, as protocols. Adapters in `store/` and `embedding/` implement them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from memfast.claims import Claim, Kept
from memfast.credentials import KeyRecord, NewKey
from memfast.filters import Filter
from memfast.links import EntityPage, Holder, Link, LinkKey, LinkPage, LinkQuery, Reached, Spread, Walk
from memfast.model import (
    AnyChange,
    DatabaseFacts,
    Delta,
    ForgetReceipt,
    HistoryPage,
    HotScope,
    Listing,
    Memory,
    MemoryPage,
    NearestRows,
    Neighbourhood,
    Outcome,
    Owner,
    Past,
    Scope,
    ScopeReads,
    Snapshot,
    StoredMemory,
    Trail,
    User,
    UserPage,
)
from memfast.ports.shards import FragmentTable, Hits, Shard, Shards
from memfast.projection import Walked
from memfast.readings import SharedCacheStats, StoreHealth

__all__ = [
    "AccessLog",
    "Clock",
    "Embedder",
    "FragmentTable",
    "Graph",
    "Hits",
    "KeyStore",
    "KeyedAnswers",
    "Ledger",
    "LinkStore",
    "MemoryStore",
    "Shard",
    "Shards",
    "SharedCache",
    "Sweeper",
]

_NOTHING: Mapping[str, int | None] = MappingProxyType({})


class Clock(Protocol):
    """Two clocks: wall time for what is stored, monotonic time for everything that waits or expires."""

    def now(self) -> datetime:
        """The wall clock, UTC, cut to microseconds (what PostgreSQL keeps)."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never jumps."""
        ...


class Embedder(Protocol):
    """Text to unit vectors. `model` is stamped into the database and never changes its meaning."""

    @property
    def model(self) -> str:
        """A stable name, e.g. `wordllama/l2_supercat_256`."""
        ...

    @property
    def dimensions(self) -> int:
        """The length of every vector."""
        ...

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts.

        Returns:
            float32 (len(texts), dimensions), C-contiguous, every row of norm 1. A text's row does not depend on
            the other texts of the call.

        Raises:
            EmbedderUnavailable: the model or its endpoint failed; nothing is cached.
            EmbeddingRequired: this embedder makes no vectors.
        """
        ...

    async def check(self) -> None:
        """Load the model or reach the endpoint.

        Raises:
            EmbedderUnavailable: with what to do about it.
        """
        ...

    async def close(self) -> None:
        """Release threads and connections. Safe to call twice."""
        ...


class MemoryStore(Protocol):
    """The store of record. Every method may raise `StoreUnavailable`, `StoreFull` or `DeadlineExceeded`."""

    async def apply(self, changes: Sequence[AnyChange], *, now: datetime) -> list[Outcome]:
        """Commit changes in one transaction and answer each by its own outcome, in order.

        Imports come without other changes, and at most one of them for a memory; they take the versions that they
        bring, where these are higher than the scope's.

        Scopes are locked in key order; each scope's version rises by the number of its changes and each change takes
        its own, in order. A change that cannot be made (unknown id, id in use, another version) is refused in its
        outcome and leaves the others alone. Returns after COMMIT.

        The answer to a change's claim is kept by the same transaction, unless none of the claim's changes was made.
        Of a claim that was answered `before` no change is made.

        Raises:
            OutcomeUnknown: the connection broke at COMMIT and the fate of the transaction could not be learned.
        """
        ...

    async def get(self, scope: Scope, ids: Sequence[UUID], *, now: datetime) -> tuple[dict[UUID, Memory], int]:
        """Live memories by id, and the scope's version, of one snapshot."""
        ...

    async def list(self, scope: Scope, listing: Listing, *, now: datetime) -> MemoryPage:
        """One page in the order of (created_at, id)."""
        ...

    async def count(self, scope: Scope, where: Filter | None, *, now: datetime) -> tuple[int, datetime | None]:
        """How many live memories pass a filter, and when the first of them expires."""
        ...

    async def owners(self, namespace: str, ids: Sequence[UUID], within: UUID | None = None) -> Sequence[Owner]:
        """The users of a namespace that have memories of these ids, or had them and still have their tombstones.

        It takes time for every user of the namespace, unless only the scope `within` is asked about.
        """
        ...

    async def matching(
        self, scope: Scope, where: Filter, *, first: UUID, upto: int | None, limit: int, now: datetime
    ) -> tuple[Sequence[tuple[UUID, int]], int]:
        """Ids and versions of at most `limit` live memories that pass, from the id `first` on; and the scope's version.

        None of them was changed after the version `upto`.
        """
        ...

    async def nearest(
        self,
        scope: Scope,
        vector: NDArray[np.float32],
        limit: int,
        *,
        now: datetime,
        where: Filter | None = None,
    ) -> NearestRows:
        """The `limit` live memories with the largest inner product, exact, in ascending order of id.

        `vector` is float32 (dimensions,), norm 1. With `where` only those that pass are compared.
        """
        ...

    async def load(self, scope: Scope) -> Snapshot:
        """Everything that lives in a scope (expired memories that were not removed yet included), of one snapshot."""
        ...

    def export(
        self, scope: Scope, *, now: datetime, since: datetime
    ) -> AsyncGenerator[Sequence[StoredMemory | Past | Link], None]:
        """All memories of one snapshot in order of version, pages of a few hundred; expired ones are left out.

        Each is followed by its history, oldest first. A memory that was deleted before `since` is left out, and so is
        history that was superseded before. Links come last, in the order of their keys.
        """
        ...

    async def changes_since(self, scope: Scope, version: int) -> Delta | None:
        """What happened in a scope after a version; None when the scope has no row."""
        ...

    async def history(self, scope: Scope, target: UUID, *, after: int, limit: int, since: datetime) -> HistoryPage:
        """Events of a memory with versions above `after`, of rows that were superseded after `since` or still stand."""
        ...

    async def users(self, namespace: str, after: str | None, limit: int) -> UserPage:
        """Users of a namespace in byte order of their ids."""
        ...

    async def entities(self, scope: Scope, after: str | None, limit: int, *, now: datetime) -> EntityPage:
        """Entities of live memories in byte order of their names."""
        ...

    async def user(self, scope: Scope) -> User | None:
        """One user's counts and times; None when the scope has never been written or was forgotten."""
        ...

    async def forget(
        self, scope: Scope, *, now: datetime, claim: Claim | None = None, copies: Mapping[str, int | None] = _NOTHING
    ) -> ForgetReceipt | None:
        """Erase everything the scope holds, its name and its kept answers included. None when there was nothing.

        `copies` stands in the receipt.

        Raises:
            AnsweredBeforeError: the claim was answered before; nothing was erased.
        """
        ...

    async def forgotten(self, scope_ids: Sequence[UUID]) -> Sequence[UUID]:
        """Those of some scopes that were forgotten and not written to since."""
        ...

    async def check(self) -> StoreHealth:
        """Whether the store can commit, measured by doing so."""
        ...


class LinkStore(Protocol):
    """The links of the store of record; they are written by `MemoryStore.apply`."""

    async def list(self, scope: Scope, query: LinkQuery, *, now: datetime) -> LinkPage:
        """One page of the links both of whose memories live, in the order of their keys."""
        ...

    async def spread(self, scope: Scope, spread: Spread, *, now: datetime) -> tuple[Sequence[Reached], int]:
        """What arrives at which live memories, in no order, and the scope's version of the snapshot.

        Directed links are followed from their start to their end only, and over memories that live. A start is among
        the results where more arrives at it than it had. `FANOUT_LINKS` and `LEVEL_MEMORIES` bound each step.
        """
        ...

    async def automatic(self, scope: Scope, type_: str, ids: Sequence[UUID], *, limit: int) -> Sequence[LinkKey]:
        """At most `limit` links of a type, from or to these memories, that nobody asked for."""
        ...

    async def holders(
        self, scope: Scope, entities: Sequence[str], *, limit: int, now: datetime
    ) -> Mapping[str, Sequence[Holder]]:
        """Of each entity that some live memory has the newest `limit` memories that have it."""
        ...

    async def walked(self, scope: Scope, walked: Walked, *, now: datetime) -> Neighbourhood | None:
        """What a walk over a copy found, read here; None where the copy is not exactly as new as the store is now.

        Equal versions of one lineage say that nothing was written since: who asks has walked before.
        """
        ...

    async def confirmed(self, scope: Scope, walked: Walked) -> Trail | None:
        """The same without reading the memories."""
        ...


class Graph(Protocol):
    """What answers questions about links. Every engine gives the same answer."""

    async def related(self, scope: Scope, walk: Walk, *, now: datetime) -> Neighbourhood | None:
        """The live memories around one, each once; None where the scope has no such memory.

        Directed links are followed from their start to their end only, and nobody is walked through who does not live.
        The order is by depth, then by falling weight, the newest, the id. The weight of a memory is the greatest
        product of weights over a shortest path to it. `FANOUT_LINKS` and `LEVEL_MEMORIES` bound the walk.
        """
        ...

    async def trail(self, scope: Scope, walk: Walk, *, now: datetime) -> Trail | None:
        """The same without reading the memories: for who has them as of that version."""
        ...


class Ledger(Protocol):
    """What the whole database says of itself."""

    async def versions(self, scope_ids: Sequence[UUID]) -> tuple[DatabaseFacts, list[tuple[UUID, int]]]:
        """The database's facts and the versions of scopes, of one snapshot; scopes without a row are left out."""
        ...

    async def begin_life(self, old: UUID) -> None:
        """Draw a new lineage unless somebody has: the database is not the one that lived under the old one."""
        ...

    async def begin_era(self) -> int:
        """Begin a new era of copies, and return its number."""
        ...

    async def raise_version(self, scope_id: UUID) -> int:
        """Raise a scope's version without a change; returns it, 0 where the scope has no row."""
        ...


class Sweeper(Protocol):
    """What time takes away."""

    async def claim(self, name: str, *, now: datetime, unless_within: timedelta) -> bool:
        """Note that a sweep begins or goes on; False when another was noted within this time."""
        ...

    async def expiring(self, after: UUID | None, *, now: datetime) -> tuple[list[Scope], UUID | None]:
        """Scopes with expired memories, among the next after one; and after which to look on (None: that was all)."""
        ...

    async def outdated(self, after: UUID | None, *, before: datetime) -> tuple[list[Scope], UUID | None]:
        """The same of scopes with history or tombstones of this moment or before."""
        ...

    async def expired(self, scope_id: UUID, *, now: datetime, limit: int) -> list[UUID]:
        """Memories of a scope that have expired and were not removed, at most `limit`, the longest expired first."""
        ...

    async def lapsed(self, after: UUID | None, *, now: datetime) -> tuple[list[Scope], UUID | None]:
        """The same of scopes with idempotency keys that are taken no longer."""
        ...

    async def erase_keys(self, scope_id: UUID, *, now: datetime, limit: int) -> int:
        """Erase idempotency keys that are taken no longer, and their answers, at most `limit`; returns how many."""
        ...

    async def erase(self, scope_id: UUID, *, before: datetime, limit: int) -> int:
        """Erase history and tombstones of this moment or before, at most `limit` of each; returns the larger number.

        Copies that had not learned of those tombstones reload: `purged_to` rises.
        """
        ...


class KeyedAnswers(Protocol):
    """What was answered to requests with an idempotency key."""

    async def find(self, scope: Scope, key: bytes, *, now: datetime) -> Kept | None:
        """What is kept under the digest of a key."""
        ...


class AccessLog(Protocol):
    """Which scopes are read, and by which questions."""

    async def record(self, reads: Sequence[ScopeReads], *, now: datetime) -> None:
        """Add counts; one row a scope."""
        ...

    async def hottest(self, limit: int, *, unread: bool = False) -> list[HotScope]:
        """The most read scopes that have memories; with `unread` those that were never read follow."""
        ...

    async def named(self, namespace: str, user_ids: Sequence[str]) -> list[HotScope]:
        """Some users' scopes, those that exist."""
        ...


class KeyStore(Protocol):
    """API keys."""

    async def find(self, digest: bytes) -> KeyRecord | None:
        """The live key with this SHA-256 digest."""
        ...

    async def create(self, key: NewKey, *, now: datetime) -> KeyRecord:
        """Store a key's digest and grants."""
        ...

    async def all(self) -> list[KeyRecord]:
        """Every key, revoked ones included, oldest first."""
        ...

    async def revoke(self, key_id: str, *, now: datetime) -> bool:
        """Revoke a key; False when there is no live key of that id."""
        ...


class SharedCache(Protocol):
    """Bytes by key that workers and hosts share, for a time. May lose, forget or forge anything; never fails."""

    @property
    def available(self) -> bool:
        """Whether asking makes sense now."""
        ...

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is there, in the order of the keys; None for what is not, or does not come in time."""
        ...

    def put(self, key: bytes, value: bytes, ttl_s: float, *, replace: bool = True) -> None:
        """Store a value for so many seconds, in the background; nothing says whether that was done.

        Without `replace` a value that is there stays.
        """
        ...

    async def erase(self, prefix: bytes) -> int | None:
        """Remove every key that begins so, and what waits to be stored under one; None where that could not be done."""
        ...

    def stats(self) -> SharedCacheStats:
        """Counters."""
        ...

    async def close(self) -> None:
        """Release tasks and connections."""
        ...
