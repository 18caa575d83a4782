"""Small worlds for the parts of the service: a clock that is set by hand, counters in memory, a database of versions."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import numpy as np

from memfast.errors import StoreUnavailable
from memfast.index.pool import ShardPool
from memfast.kernels import ByteCache
from memfast.model import DatabaseFacts, Delta, Scope, Snapshot
from memfast.service.answers import Answers
from memfast.service.coherence import SILENT_CHECKS, Coherence
from memfast.service.heat import Heat
from memory_world import memory_of

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
LINEAGE = UUID(int=77)
DIMENSIONS = 4


def scope(number=1):
    """A user."""
    return Scope(UUID(int=number), "default", f"user {number}")


class SetClock:
    """Both clocks; they stand until they are moved."""

    def __init__(self):
        self.seconds = 100.0

    def now(self):
        return EPOCH + timedelta(seconds=self.seconds)

    def monotonic(self):
        return self.seconds


class Counters:
    """`Slots` in a list. Scopes share a slot when their ids are equal modulo the number."""

    def __init__(self, count=64):
        self.values = [0] * count

    def epoch(self, index):
        return self.values[index]

    def bump(self, index):
        self.values[index] += 1
        return self.values[index]

    def index_of(self, scope_id):
        return 1 + int.from_bytes(scope_id, "big") % (len(self.values) - 1)


class Versions:
    """`Ledger` over a dictionary."""

    def __init__(self):
        self.facts = DatabaseFacts(lineage=LINEAGE, schema=1, keys_generation=0, wal=1000, generation=1)
        self.versions_of = {}
        self.asked = []
        self.lives = 0
        self.away = False
        self.asks = True

    async def versions(self, scope_ids):
        self.asked.append(list(scope_ids))
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("away")
        return self.facts, [(each, self.versions_of[each]) for each in scope_ids if each in self.versions_of]

    async def begin_life(self, old):
        if old == self.facts.lineage:
            self.lives += 1
            self.facts = msgspec.structs.replace(self.facts, lineage=UUID(int=1000 + self.lives))

    async def begin_era(self):
        if self.away:
            raise StoreUnavailable("away", begun=False)
        self.facts = msgspec.structs.replace(self.facts, era=self.facts.era + 1)
        return self.facts.era

    async def raise_version(self, scope_id):
        if self.away:
            raise StoreUnavailable("away", begun=self.asks)
        self.versions_of[scope_id] = self.versions_of.get(scope_id, -1) + 1
        return self.versions_of[scope_id]


class World:
    """A worker's coherence and answers, over the above."""

    def __init__(self):
        self.clock = SetClock()
        self.slots = Counters()
        self.ledger = Versions()
        self.heard = []
        self.coherence = self.another()
        self.requests = cache()
        self.answers = self.answering(Answers)

    async def fall_silent(self):
        """The database stops to answer, and so many checks find that out as it takes."""
        self.ledger.away = True
        for _ in range(SILENT_CHECKS):
            with contextlib.suppress(StoreUnavailable):
                await self.coherence.check()

    def another(self, kind=Coherence):
        """The coherence of another worker of the host."""
        return kind(self.slots, self.ledger, self.ledger.facts, self.clock, self.heard.append)

    def answering(self, kind):
        """Answers with caches of their own."""
        caches = {name: cache() for name in ("search", "list", "get")}
        return kind(caches, self.requests, self.coherence, Heat(None, self.clock), self.clock)


def cache():
    """A cache that nothing leaves by itself."""
    return ByteCache(1 << 20, entry_limit=1000, ttl_ns=2**60, idle_ns=2**60)


def memory(number, version, text="text", **fields):
    """A memory; its vector is `vector(number)`."""
    return memory_of(EPOCH, id=UUID(int=number), user_id="user 1", text=text, version=version, **fields)


def vector(number):
    """A unit vector, float32 (DIMENSIONS,)."""
    made = np.zeros(DIMENSIONS, np.float32)
    made[number % DIMENSIONS] = 1.0
    return made


def vectors(memories):
    """Their vectors, float32 (n, DIMENSIONS)."""
    made = np.zeros((len(memories), DIMENSIONS), np.float32)
    for row, each in enumerate(memories):
        made[row] = vector(each.id.int)
    return made


class Rows:
    """The part of `MemoryStore` that shards need: one user's memories and tombstones. Reads wait while `gate` is shut."""

    def __init__(self):
        self.version = 0
        self.purged_to = 0
        self.live = {}
        self.dead = {}
        self.loads = self.deltas = 0
        self.away = False
        self.empty = False
        self.gate = asyncio.Event()
        self.gate.set()

    def put(self, number, text="text", **fields):
        self.version += 1
        self.live[number] = memory(number, self.version, text, **fields)

    def delete(self, number):
        self.version += 1
        del self.live[number]
        self.dead[UUID(int=number)] = self.version

    async def load(self, scope):
        self.loads += 1
        rows = sorted(self.live.values(), key=lambda each: each.id)
        snapshot = Snapshot(memories=rows, vectors=vectors(rows), version=self.version, purged_to=self.purged_to)
        await self._wait()
        return snapshot

    async def changes_since(self, scope, version):
        self.deltas += 1
        rows = [each for each in self.live.values() if each.version > version]
        delta = Delta(
            since=version,
            version=self.version,
            purged_to=self.purged_to,
            memories=rows,
            vectors=vectors(rows),
            deleted=[(target, own) for target, own in self.dead.items() if own > version],
        )
        await self._wait()
        return None if self.empty else delta

    async def _wait(self):
        await self.gate.wait()
        if self.away:
            raise StoreUnavailable("away")


def shards(folder, capacity_bytes=1 << 20):
    """A pool of shards."""
    return ShardPool(
        capacity_bytes,
        snapshots=folder,
        life=lambda: LINEAGE,
        generation=1,
        dimensions=DIMENSIONS,
        admit_window_s=600.0,
    )
