"""The shards that a worker holds, bounded in bytes: `ports.Shards`."""

from __future__ import annotations

import logging
import math
import re
import shutil
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from msgspec import Struct

from memfast.config import Language
from memfast.errors import CommandFailed
from memfast.index.shard import Shard as FlatShard
from memfast.index.shard import ShardIdentity
from memfast.index.snapshot import load, save
from memfast.model import Scope, Snapshot
from memfast.ports import Shard

__all__ = ["PoolStats", "ShardPool", "unsave_all"]

_log = logging.getLogger("memfast.index")

ADMISSIONS_MAX = 10_000
"""Scopes whose last miss is remembered, and scopes that are known to be too large."""


_HEX = re.compile("[0-9a-f]{32}")


class _Held(NamedTuple):
    """A shard, its bytes, and since when the scope has been held without a break, in seconds."""

    shard: Shard
    size: int
    since_s: float


class PoolStats(Struct, frozen=True):
    """What a pool holds and did; `age_s` adds how long each scope has been held, in seconds."""

    shards: int
    rows: int
    bytes: int
    evictions: int
    age_s: float
    oldest_s: float
    largest: int
    graphs: int


class ShardPool:
    """Shards by scope; the coldest leave first.

    Args:
        capacity_bytes: what all shards may take together.
        life: gives the database's lineage now.
        snapshots: the directory of saved shards.
        generation: the embedder's generation.
        dimensions: length of a vector.
        admit_window_s: a scope that misses twice within it is worth loading; one that turned out to be larger than
            all room is not tried again before it is over.
        language: of the words by which memories are found.
        int8: whether shards of many memories keep an int8 image of their vectors.
        disk_reserve_bytes: free disk space that saving a shard must leave.
        monotonic: the clock by which scopes grow old, in seconds.
    """

    def __init__(
        self,
        capacity_bytes: int,
        *,
        snapshots: Path,
        life: Callable[[], UUID],
        generation: int,
        dimensions: int,
        admit_window_s: float,
        language: Language = "english",
        int8: bool = True,
        disk_reserve_bytes: int = 0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity_bytes = capacity_bytes
        self._snapshots = snapshots
        self._life = life
        self._generation = generation
        self._dimensions = dimensions
        self._admit_window_s = admit_window_s
        self._language = language
        self._int8 = int8
        self._disk_reserve_bytes = disk_reserve_bytes
        self._monotonic = monotonic
        self._held: OrderedDict[UUID, _Held] = OrderedDict()
        self._missed_s: OrderedDict[UUID, float] = OrderedDict()
        self._too_large_s: OrderedDict[UUID, float] = OrderedDict()
        self._bytes = 0
        self._evictions = 0

    def build(self, scope: Scope, snapshot: Snapshot) -> Shard:
        """See `ports.Shards.build`."""
        identity = self._identity(scope.id)
        return FlatShard.build(
            snapshot.memories,
            snapshot.vectors,
            identity=identity,
            version=snapshot.version,
            purged_to=snapshot.purged_to,
            language=self._language,
            int8=self._int8,
        )

    def restore(self, scope: Scope) -> Shard | None:
        """See `ports.Shards.restore`."""
        return load(self._path(scope.id), self._identity(scope.id), language=self._language, int8=self._int8)

    def save(self, scope: Scope, shard: Shard) -> int:
        """See `ports.Shards.save`."""
        if not isinstance(shard, FlatShard):
            raise TypeError(f"{type(shard).__name__} is not a shard of this pool")
        path = self._path(scope.id)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            room_bytes = shutil.disk_usage(path.parent).free - self._disk_reserve_bytes
            if self._disk_reserve_bytes and shard.nbytes > room_bytes:
                reason = "it would leave less of the disk than postgres.disk_reserve_mb"
                raise CommandFailed(f"the snapshot {path} is not written: {reason}")
            save(shard, path)
            return path.stat().st_size
        except OSError as error:
            raise CommandFailed(f"the snapshot {path} cannot be written: {error.strerror}") from error

    def unsave(self, scope_id: UUID) -> int:
        """See `ports.Shards.unsave`."""
        leftovers = list(self._snapshots.glob(f"{self._path(scope_id).name}*"))
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        return len(leftovers)

    def saved(self) -> list[UUID]:
        """See `ports.Shards.saved`."""
        names = {path.name.partition(".")[0] for path in self._snapshots.glob("*.shard*")}
        return [UUID(hex=name) for name in names if _HEX.fullmatch(name)]

    def held(self) -> list[UUID]:
        """See `ports.Shards.held`."""
        return list(self._held)

    def peek(self, scope_id: UUID) -> Shard | None:
        """See `ports.Shards.peek`."""
        held = self._held.get(scope_id)
        return None if held is None else held.shard

    def get(self, scope_id: UUID) -> Shard | None:
        """See `ports.Shards.get`."""
        held = self._held.get(scope_id)
        if held is None:
            return None
        self._held.move_to_end(scope_id)
        return held.shard

    def put(self, scope_id: UUID, shard: Shard, *, evict: bool = True) -> bool:
        """See `ports.Shards.put`."""
        before = self._held.get(scope_id)
        self.drop(scope_id)
        size = shard.nbytes
        if size > self._capacity_bytes:  # a load at every search would cost more than it could ever give
            _remember(self._too_large_s, scope_id, self._missed_s.pop(scope_id, -math.inf))
            return False
        if not evict and size > self._capacity_bytes - self._bytes:
            return False
        self.shrink_to(self._capacity_bytes - size)
        self._held[scope_id] = _Held(shard, size, self._monotonic() if before is None else before.since_s)
        self._bytes += size
        self._missed_s.pop(scope_id, None)
        return True

    def drop(self, scope_id: UUID) -> None:
        """See `ports.Shards.drop`."""
        held = self._held.pop(scope_id, None)
        if held is not None:
            self._bytes -= held.size

    def shrink_to(self, wanted_bytes: int) -> None:
        """Let the coldest shards go until the rest takes no more than this."""
        while self._bytes > wanted_bytes and self._held:
            self._bytes -= self._held.popitem(last=False)[1].size
            self._evictions += 1

    def resize(self, capacity_bytes: int) -> None:
        """Let all shards take so much together from now on; who was refused as too large is tried again."""
        if capacity_bytes > self._capacity_bytes:
            self._too_large_s.clear()
        self._capacity_bytes = capacity_bytes
        self.shrink_to(capacity_bytes)

    @property
    def capacity_bytes(self) -> int:
        """What all shards may take."""
        return self._capacity_bytes

    @property
    def nbytes(self) -> int:
        """Bytes that all shards take."""
        return self._bytes

    def sweep(self) -> None:
        """Nothing expires here: an expired memory is one row of a shard that lives on."""

    def release(self, wanted_bytes: int) -> int:
        """Let the coldest shards go; returns the bytes that went, which may be more than wanted."""
        before = self._bytes
        self.shrink_to(max(0, before - wanted_bytes))
        return before - self._bytes

    def note_miss(self, scope_id: UUID, now_s: float) -> bool:
        """See `ports.Shards.note_miss`."""
        refused_s = self._too_large_s.get(scope_id)
        if refused_s is not None and now_s - refused_s <= self._admit_window_s:
            return False
        last_s = self._missed_s.get(scope_id)
        _remember(self._missed_s, scope_id, now_s)
        return last_s is not None and now_s - last_s <= self._admit_window_s

    def _identity(self, scope_id: UUID) -> ShardIdentity:
        return ShardIdentity(scope_id, self._life(), self._generation, self._dimensions)

    def _path(self, scope_id: UUID) -> Path:
        return self._snapshots / f"{scope_id.hex}.shard"

    def stats(self) -> PoolStats:
        """What is held now."""
        now_s = self._monotonic()
        ages_s = [now_s - held.since_s for held in self._held.values()]
        sizes = [len(held.shard) for held in self._held.values()]
        return PoolStats(
            shards=len(sizes),
            rows=sum(sizes),
            bytes=self._bytes,
            evictions=self._evictions,
            age_s=sum(ages_s),
            oldest_s=max(ages_s, default=0.0),
            largest=max(sizes, default=0),
            graphs=sum(held.shard.has_graph for held in self._held.values()),
        )


def unsave_all(snapshots: Path) -> None:
    """Remove every saved shard: they are of vectors that are not compared any more."""
    try:
        for path in [*snapshots.glob("*.shard"), *snapshots.glob("*.shard.*.tmp")]:
            path.unlink(missing_ok=True)
    except OSError:
        _log.warning("saved shards of another model could not be removed", exc_info=True)


def _remember(times_s: OrderedDict[UUID, float], scope_id: UUID, at_s: float) -> None:
    times_s.pop(scope_id, None)
    while len(times_s) >= ADMISSIONS_MAX:
        times_s.popitem(last=False)
    times_s[scope_id] = at_s
