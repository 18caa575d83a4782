"""Links that memories get by themselves: to what is like them, and to what speaks of the same.

They are made after the acknowledgement, in the background, and are ordinary links: written by the writer, listed,
followed, dropped with their memories. Nothing promises them: what more than `queue_items` memories would wait for is
dropped and counted, and so is what waits when the service stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

import msgspec
import numpy as np
from msgspec import UNSET, Struct
from numpy.typing import NDArray

from memfast.links import AUTOMATIC, Link, LinkKey
from memfast.model import Create, DropLink, Memory, Outcome, Patch, PutLink, Scope
from memfast.ports import Clock, LinkStore, MemoryStore, Shard
from memfast.search.rank import SLACK, rank
from memfast.service.background import Background
from memfast.service.coherence import Coherence
from memfast.service.warm import Warm
from memfast.service.writer import Writer

__all__ = ["SHARES_ENTITY", "SIMILAR", "AssociationSettings", "AssociationSnapshot", "Associations"]

SIMILAR = "similar_to"
"""Type of a link between memories whose vectors are near; its weight is their cosine."""

SHARES_ENTITY = "shares_entity"
"""Type of a link between memories of the same entities; its weight is the share of all their entities."""

BATCH = 50
"""Memories of one user that are linked at a time."""

ENTITIES_MAX = 256
"""Different entities that are looked for at a time; memories beyond that get no links by their entities."""

COLD_MAX = 8
"""So many memories of a user who is not in memory are compared by a query each; for more the user is read once."""

DROPPED_AT_ONCE = 500
"""Old links that one transaction drops."""

_PLACES = 6

Vector = NDArray[np.float32]


class AssociationSettings(Struct, frozen=True, kw_only=True):
    """Which links are made; 0 of a kind makes none."""

    similar: int
    similar_min: float
    entities: int
    entity_memories: int
    pause_s: float
    batch_items: int
    queue_items: int


class AssociationSnapshot(Struct, frozen=True, kw_only=True):
    """Memories that wait for links now; counts of memories done and dropped, and of links made, since the start."""

    waiting: int
    queue_limit: int
    done: int
    dropped: int
    links: int


class _Wanted(Struct):
    """A memory that waits: its vector and the digest of its text, where it is to be compared."""

    fresh: bool
    vector: Vector | None
    text: int
    entities: bool


class _Batch(Struct):
    """The memories of one scope that wait, and from when on they are linked."""

    scope: Scope
    due_s: float
    wanted: dict[UUID, _Wanted]


class Associations:
    """Links new and changed memories, one user at a time, with a rest as long as the work after each.

    Args:
        store: memories, and their neighbours where the user is not in memory.
        links: who shares an entity, and which links are old.
        writer: the way of every change.
        warm: users in memory.
        coherence: the epochs.
        background: does the work.
        clock: both clocks.
        settings: which links are made, when, and how many memories may wait.
    """

    def __init__(
        self,
        store: MemoryStore,
        links: LinkStore,
        writer: Writer,
        warm: Warm,
        coherence: Coherence,
        background: Background,
        clock: Clock,
        settings: AssociationSettings,
    ) -> None:
        self._store = store
        self._links = links
        self._writer = writer
        self._warm = warm
        self._coherence = coherence
        self._background = background
        self._clock = clock
        self._settings = settings
        self._batches: dict[UUID, _Batch] = {}
        self._awake = asyncio.Event()
        self._waiting = self._done = self._dropped = self._made = 0

    def noticed(self, changes: Sequence[Create | Patch], outcomes: Sequence[Outcome]) -> None:
        """Have the memories linked that these changes of one request made, or said something new of."""
        if len(changes) > self._settings.batch_items:
            return
        for change, outcome in zip(changes, outcomes, strict=True):
            wanted = self._wanted(change, outcome)
            if wanted is not None:
                self._add(change.scope, outcome.id, wanted)

    def forget(self, scope_id: UUID) -> int:
        """Memories of the scope wait no longer; returns how many did."""
        batch = self._batches.pop(scope_id, None)
        gone = 0 if batch is None else len(batch.wanted)
        self._waiting -= gone
        return gone

    def snapshot(self) -> AssociationSnapshot:
        """The queue now, and counters."""
        return AssociationSnapshot(
            waiting=self._waiting,
            queue_limit=self._settings.queue_items,
            done=self._done,
            dropped=self._dropped,
            links=self._made,
        )

    async def watch(self) -> None:
        """Link for ever."""
        while True:
            await self._awake.wait()
            self._awake.clear()
            while self._batches:
                first = next(iter(self._batches.values()))
                await asyncio.sleep(max(0.0, first.due_s - self._clock.monotonic()))
                await self._turn()

    async def _turn(self) -> None:
        """Link the memories of the user who has waited longest."""
        if not self._batches:  # forgotten meanwhile
            return
        scope, wanted = self._taken()
        over = asyncio.Event()

        async def work() -> None:
            try:
                await self._link(scope, wanted)
            finally:
                over.set()

        started_s = self._clock.monotonic()
        if await self._background.put("link memories", work):
            await over.wait()
        await asyncio.sleep(self._clock.monotonic() - started_s)

    def _wanted(self, change: Create | Patch, outcome: Outcome) -> _Wanted | None:
        memory = outcome.memory
        if memory is None or outcome.status not in {"created", "updated"}:
            return None
        fresh = outcome.status == "created"
        spoken = bool(memory.entities) if fresh else isinstance(change, Create) or change.entities is not UNSET
        vector = change.vector if self._settings.similar else None
        entities = bool(self._settings.entities) and spoken
        if vector is None and not entities:
            return None
        return _Wanted(fresh, vector, hash(memory.text), entities)

    def _add(self, scope: Scope, target: UUID, wanted: _Wanted) -> None:
        batch = self._batches.get(scope.id)
        before = None if batch is None else batch.wanted.get(target)
        if before is not None:
            before.text, before.entities = wanted.text, before.entities or wanted.entities
            before.vector = before.vector if wanted.vector is None else wanted.vector
            return
        if self._waiting >= self._settings.queue_items:
            self._dropped += 1
            return
        if batch is None:
            due_s = self._clock.monotonic() + self._settings.pause_s
            batch = self._batches[scope.id] = _Batch(scope, due_s, {})
        batch.wanted[target] = wanted
        self._waiting += 1
        self._awake.set()

    def _taken(self) -> tuple[Scope, dict[UUID, _Wanted]]:
        scope_id, batch = next(iter(self._batches.items()))
        taken = dict(list(batch.wanted.items())[:BATCH])
        for target in taken:
            del batch.wanted[target]
        if not batch.wanted:
            del self._batches[scope_id]
        self._waiting -= len(taken)
        return batch.scope, taken

    async def _link(self, scope: Scope, wanted: dict[UUID, _Wanted]) -> None:
        """Drop the old links of these memories and make new ones. Done twice, it makes them once."""
        now = self._clock.now()
        memories, _ = await self._store.get(scope, list(wanted), now=now)
        same = {
            target: each
            for target, each in wanted.items()
            if each.vector is not None and target in memories and hash(memories[target].text) == each.text
        }
        sharing = [memories[target] for target, each in wanted.items() if each.entities and target in memories]
        await self._drop(scope, SIMILAR, [target for target, each in same.items() if not each.fresh])
        await self._drop(scope, SHARES_ENTITY, [each.id for each in sharing if not wanted[each.id].fresh])
        found = await self._similar(scope, same, now) | await self._sharing(scope, sharing, now)
        puts = [
            PutLink(scope=scope, link=_link(key, weight, now), on_conflict="ignore") for key, weight in found.items()
        ]
        outcomes = await self._writer.commit(puts, background=True) if puts else []
        self._made += sum(outcome.status == "created" for outcome in outcomes)
        self._done += len(wanted)

    async def _drop(self, scope: Scope, type_: str, ids: Sequence[UUID]) -> None:
        """Drop the links of this type that memfast made of memories whose text or entities are others now."""
        while ids:
            old = await self._links.automatic(scope, type_, ids, limit=DROPPED_AT_ONCE)
            drops = [DropLink(scope=scope, key=key, automatic=True) for key in old]
            if drops:
                await self._writer.commit(drops, background=True)
            if len(old) < DROPPED_AT_ONCE:
                return

    async def _similar(self, scope: Scope, same: dict[UUID, _Wanted], now: datetime) -> dict[LinkKey, float]:
        """The nearest memories of each, by cosine."""
        if not same:
            return {}
        vectors = {target: each.vector for target, each in same.items() if each.vector is not None}
        epochs = self._coherence.epochs(scope.id)
        shard = await self._warm.shard(scope, epochs)
        if shard is None and len(vectors) > COLD_MAX:
            shard = await self._warm.transient(scope)
        if shard is None:
            near = {target: await self._nearest(scope, vector, now) for target, vector in vectors.items()}
        else:
            near = await self._warm.run(partial(self._beside, shard, vectors, now))
        return {
            _key(target, other, SIMILAR): cosine
            for target, others in near.items()
            for other, cosine in [each for each in others if each[0] != target][: self._settings.similar]
        }

    def _beside(self, shard: Shard, vectors: dict[UUID, Vector], now: datetime) -> dict[UUID, list[tuple[UUID, float]]]:
        now_us, most, least = int(now.timestamp() * 1e6), self._settings.similar + 1, self._settings.similar_min
        found = {
            target: shard.search(vector, most, now_us=now_us, min_score=least) for target, vector in vectors.items()
        }
        return {
            target: [(shard.id_of(row), score) for row, score in zip(hits.rows, hits.scores, strict=True)]
            for target, hits in found.items()
        }

    async def _nearest(self, scope: Scope, vector: Vector, now: datetime) -> list[tuple[UUID, float]]:
        most = self._settings.similar + 1
        candidates = await self._store.nearest(scope, vector, most + SLACK, now=now)
        return [(hit.memory.id, hit.score) for hit in rank(candidates, vector, most, self._settings.similar_min)]

    async def _sharing(self, scope: Scope, memories: Sequence[Memory], now: datetime) -> dict[LinkKey, float]:
        """The memories that have most entities in common with each, those that many memories have not counted."""
        asked: dict[str, None] = {}
        for memory in memories:
            if len(asked.keys() | set(memory.entities)) <= ENTITIES_MAX:
                asked |= dict.fromkeys(memory.entities)
        if not asked:
            return {}
        common = self._settings.entity_memories
        holders = await self._links.holders(scope, list(asked), limit=common + 1, now=now)
        telling = {entity: found for entity, found in holders.items() if len(found) <= common}
        links: dict[LinkKey, float] = {}
        for memory in memories:
            own = set(memory.entities)
            others = {each.id: each for entity in own for each in telling.get(entity, ()) if each.id != memory.id}
            shares = {each.id: _share(own, set(each.entities)) for each in others.values()}
            order = sorted(others, key=lambda each: (-shares[each], -others[each].created_at.timestamp(), each))
            links |= {_key(memory.id, each, SHARES_ENTITY): shares[each] for each in order[: self._settings.entities]}
        return links


def _share(one: set[str], other: set[str]) -> float:
    """Entities of both among those of either (Jaccard's index)."""
    return round(len(one & other) / len(one | other), _PLACES)


def _key(one: UUID, other: UUID, type_: str) -> LinkKey:
    return LinkKey(min(one, other), max(one, other), type_)


def _link(key: LinkKey, weight: float, now: datetime) -> Link:
    fields = msgspec.structs.asdict(key)
    return Link(**fields, weight=min(weight, 1.0), directed=False, metadata=AUTOMATIC, created_at=now, version=0)
