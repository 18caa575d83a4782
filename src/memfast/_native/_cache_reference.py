"""A bounded cache of finished answers: the readable twin of `_cache.pyx`, and its type declaration.

An entry is valid while both of its epochs are the caller's and its deadline has not come. Time is an
argument: nanoseconds of one monotonic clock. The cache belongs to one thread at a time.

Eviction is ARC (Megiddo and Modha, FAST 2003) counted in bytes: one list for what was used once, one for what
was used again, and ghosts (hashes) of what either lost lately; a ghost that comes back moves the border between
the two. Chosen by `bench/cache_traces.py`, hit % of LRU / ARC / Belady: web07 at 500 entries 45.58 / 48.25 /
59.17, at 2,000 55.50 / 57.86 / 67.97; web12 at 500 55.78 / 58.50 / 71.82, at 2,000 72.56 / 74.60 / 82.34;
Mooncake prefix blocks at 5,000 11.04 / 11.36 / 34.12, at 20,000 28.75 / 28.92 / 36.64. SIEVE, S3-FIFO and
W-TinyLFU, also with an adaptive window, lose 3.6 to 7.9 points to LRU on the last line. A ghost's memory is part
of `ENTRY_BYTES`: about 40 bytes, beside answers of some 2,500.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple, Protocol

__all__ = ["ENTRY_BYTES", "KEY_BYTES_MAX", "KEY_BYTES_MIN", "ByteCache", "CacheAges", "CacheStats", "Epochs"]

ENTRY_BYTES = 240
"""What an entry costs beside its key and value, a ghost included: see `bench/micro/cache.py --memory`."""
KEY_BYTES_MIN = 16
KEY_BYTES_MAX = 64
LARGEST_SHARE = 8
"""A value may take one part in so many of the capacity."""
TIME_MAX_NS = 2**62
"""Bound of every time and duration, so that sums stay in 64 bits."""

ONCE, OFTEN = 0, 1


class CacheStats(NamedTuple):
    """Counters since the cache was made, what it holds now, and its bounds.

    `recalls` count entries that came back soon after an eviction: a cache of twice the size would have held them.
    """

    entries: int
    bytes: int
    hits: int
    misses: int
    evictions: int
    expirations: int
    invalidations: int
    rejections: int
    recalls: int
    capacity_bytes: int
    entry_limit: int


class CacheAges(NamedTuple):
    """Ages of the entries held, from when they were put: all of them added, and that of the oldest; in seconds."""

    total_s: float
    oldest_s: float


class Epochs(Protocol):
    """Where `sweep` looks epochs up: a `SlotTable`."""

    def epoch(self, index: int) -> int:
        """Return the counter of a slot; 0 is the global one."""
        ...


@dataclass(slots=True)
class Entry:
    """One answer and what makes it valid."""

    key: bytes
    value: bytes
    slot: int
    slot_epoch: int
    global_epoch: int
    version: int
    deadline_ns: int
    made_ns: int
    used_ns: int
    place: int
    listed: int

    @property
    def charge(self) -> int:
        """Bytes that the entry counts for."""
        return ENTRY_BYTES + len(self.key) + len(self.value)


class ByteCache:
    """Bytes by key, bounded by bytes and by number, dropped by epoch, deadline, idleness and pressure.

    Args:
        capacity_bytes: what keys, values and `ENTRY_BYTES` for each may add up to, 1 or more.
        entry_limit: entries at most, 1 or more.
        ttl_ns: no entry lives longer, whatever its own deadline says.
        idle_ns: an entry that is not asked for during this time is gone.

    Raises:
        ValueError: a limit or a duration is out of its range.
    """

    def __init__(self, capacity_bytes: int, *, entry_limit: int, ttl_ns: int, idle_ns: int) -> None:
        check_limits(capacity_bytes, entry_limit, ttl_ns, idle_ns)
        self._capacity = capacity_bytes
        self._entry_limit = entry_limit
        self._ttl_ns = ttl_ns
        self._idle_ns = idle_ns
        self._counts = dict.fromkeys(CacheStats._fields[2:-2], 0)
        self._target = 0
        self._forget()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def capacity_bytes(self) -> int:
        """The bound of `stats().bytes`."""
        return self._capacity

    def get(self, key: bytes, slot_epoch: int, global_epoch: int, now_ns: int) -> bytes | None:
        """Return the value, or None where there is no valid one; an invalid one is dropped and counted."""
        entry = self._hit(key, slot_epoch, global_epoch, now_ns)
        return None if entry is None else entry.value

    def get_entry(self, key: bytes, slot_epoch: int, global_epoch: int, now_ns: int) -> tuple[bytes, int] | None:
        """Do as `get`, and return the version beside the value."""
        entry = self._hit(key, slot_epoch, global_epoch, now_ns)
        return None if entry is None else (entry.value, entry.version)

    def put(
        self,
        key: bytes,
        value: bytes,
        slot: int,
        slot_epoch: int,
        global_epoch: int,
        version: int,
        deadline_ns: int,
        now_ns: int,
    ) -> bool:
        """Keep a value until `deadline_ns`, the TTL or an epoch ends it; one under the same key goes first.

        Args:
            key: 16 to 64 bytes, evenly distributed (a digest).
            value: the bytes to keep.
            slot: index of the scope's epoch, for `sweep`.
            slot_epoch: the scope's epoch, read before the data was.
            global_epoch: the global epoch, read before the data was.
            version: any 64-bit number; `get_entry` returns it.
            deadline_ns: when the value ends by itself.
            now_ns: the time.

        Returns:
            Whether it was kept. A value that takes more than an eighth of the capacity, or whose deadline has
            come, is not, and counts as a rejection.

        Raises:
            ValueError: the key has another length.
            TypeError: key or value is no bytes object.
        """
        check_key(key)
        if not isinstance(value, bytes):
            raise TypeError(f"value must be bytes, not {type(value).__name__}")
        old = self._entries.get(key)
        listed = ONCE
        if old is not None:
            listed = old.listed
            self._drop(old)
        entry = Entry(
            key,
            value,
            slot,
            slot_epoch,
            global_epoch,
            version,
            min(deadline_ns, now_ns + self._ttl_ns),
            now_ns,
            now_ns,
            0,
            listed,
        )
        if entry.charge > self._capacity // LARGEST_SHARE or now_ns >= entry.deadline_ns:
            self._counts["rejections"] += 1
            return False
        if old is None:
            entry.listed = self._recall(key, entry.charge)
        while self._bytes + entry.charge > self._capacity or len(self._entries) >= self._entry_limit:
            self._evict()
        self._insert(entry)
        return True

    def count_slot(self, slot: int) -> int:
        """Entries of a slot, valid or not."""
        return sum(entry.slot == slot for entry in self._entries.values())

    def drop_slot(self, slot: int) -> int:
        """Drop every entry of a slot, valid or not: no byte of them stays. Each counts as an invalidation.

        Returns:
            Entries dropped.
        """
        outdated = [entry for entry in self._entries.values() if entry.slot == slot]
        for entry in outdated:
            self._drop(entry)
        self._counts["invalidations"] += len(outdated)
        return len(outdated)

    def clear(self) -> None:
        """Drop everything, ghosts too; counts as one invalidation for each entry."""
        self._counts["invalidations"] += len(self._entries)
        self._forget()

    def shrink_to(self, bytes_wanted: int, now_ns: int, max_steps: int) -> int:
        """Free memory in bounded steps: half of them look for expired entries, the others evict.

        Returns:
            Bytes freed. Call again while `stats().bytes` is above what is wanted.
        """
        before = self._bytes
        looked = 0
        while self._bytes > bytes_wanted and looked < min(max_steps // 2, len(self._places)):
            self._sweep_one(now_ns, None)
            looked += 1
        for _ in range(max_steps - looked):
            if self._bytes <= bytes_wanted or not self._entries:
                break
            self._evict()
        return before - self._bytes

    def resize(self, capacity_bytes: int, entry_limit: int, max_steps: int) -> bool:
        """Change the bounds; entries that have no room any more leave, `max_steps` of them at most.

        Returns:
            Whether the bounds are these now. Else they are what is still held, and another call goes on.

        Raises:
            ValueError: a bound is out of its range.
        """
        check_limits(capacity_bytes, entry_limit, self._ttl_ns, self._idle_ns)
        for _ in range(max_steps):
            if self._bytes <= capacity_bytes and len(self._entries) <= entry_limit:
                break
            self._evict()
        self._capacity = max(capacity_bytes, self._bytes)
        self._entry_limit = max(entry_limit, len(self._entries))
        self._target = min(self._target, self._capacity)
        return (self._capacity, self._entry_limit) == (capacity_bytes, entry_limit)

    def sweep(self, now_ns: int, max_steps: int, epochs: Epochs | None = None) -> int:
        """Look at the next `max_steps` places and drop what has expired or, given `epochs`, is out of date.

        Returns:
            Entries dropped.
        """
        before = len(self._entries)
        for _ in range(min(max_steps, len(self._places))):
            self._sweep_one(now_ns, epochs)
        return before - len(self._entries)

    def stats(self) -> CacheStats:
        """Return the counters."""
        bounds = {"capacity_bytes": self._capacity, "entry_limit": self._entry_limit}
        return CacheStats(len(self._entries), self._bytes, **self._counts, **bounds)

    def ages(self, now_ns: int) -> CacheAges:
        """How long the entries have been held: looks at each of them, so that no call pays for it but this one."""
        ages_ns = [max(0, now_ns - entry.made_ns) for entry in self._entries.values()]
        return CacheAges(sum(ages_ns) / 1e9, max(ages_ns, default=0) / 1e9)

    def _forget(self) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._lists: tuple[OrderedDict[bytes, Entry], ...] = (OrderedDict(), OrderedDict())
        self._ghosts: tuple[OrderedDict[bytes, None], ...] = (OrderedDict(), OrderedDict())
        self._places: list[Entry | None] = []
        self._free: list[int] = []
        self._bytes = 0
        self._once_bytes = 0
        self._target = 0
        self._cursor = 0

    def _hit(self, key: bytes, slot_epoch: int, global_epoch: int, now_ns: int) -> Entry | None:
        check_key(key)
        entry = self._entries.get(key)
        if entry is None:
            self._counts["misses"] += 1
            return None
        if entry.slot_epoch != slot_epoch or entry.global_epoch != global_epoch:
            reason = "invalidations"
        elif self._is_expired(entry, now_ns):
            reason = "expirations"
        else:
            self._counts["hits"] += 1
            del self._lists[entry.listed][key]
            self._once_bytes -= entry.charge if entry.listed == ONCE else 0
            entry.listed, entry.used_ns = OFTEN, now_ns
            self._lists[OFTEN][key] = entry
            return entry
        self._drop(entry)
        self._counts[reason] += 1
        self._counts["misses"] += 1
        return None

    def _is_expired(self, entry: Entry, now_ns: int) -> bool:
        return now_ns >= entry.deadline_ns or now_ns - entry.used_ns >= self._idle_ns

    def _insert(self, entry: Entry) -> None:
        if self._free:
            entry.place = self._free.pop()
            self._places[entry.place] = entry
        else:
            entry.place = len(self._places)
            self._places.append(entry)
        self._entries[entry.key] = entry
        self._lists[entry.listed][entry.key] = entry
        self._bytes += entry.charge
        self._once_bytes += entry.charge if entry.listed == ONCE else 0

    def _drop(self, entry: Entry) -> None:
        del self._entries[entry.key]
        del self._lists[entry.listed][entry.key]
        self._places[entry.place] = None
        self._free.append(entry.place)
        self._bytes -= entry.charge
        self._once_bytes -= entry.charge if entry.listed == ONCE else 0

    def _evict(self) -> None:
        once, often = self._lists
        listed = ONCE if once and (self._once_bytes > self._target or not often) else OFTEN
        victim = next(iter(self._lists[listed].values()))
        self._drop(victim)
        self._counts["evictions"] += 1
        self._ghosts[listed][victim.key] = None
        ghosts_once, ghosts_often = self._ghosts
        while len(ghosts_once) > max(len(often), 1):
            ghosts_once.popitem(last=False)
        while ghosts_often and len(ghosts_once) + len(ghosts_often) > max(len(self._entries), 1):
            ghosts_often.popitem(last=False)

    def _recall(self, key: bytes, charge: int) -> int:
        """Choose the list of a new key; if it left a ghost, move the border towards the list that lost it."""
        for listed in (ONCE, OFTEN):
            own, other = self._ghosts[listed], self._ghosts[1 - listed]
            if key in own:
                move = max(charge, charge * len(other) // len(own))
                self._target += move if listed == ONCE else -move
                self._target = min(max(self._target, 0), self._capacity)
                del own[key]
                self._counts["recalls"] += 1
                return OFTEN
        return ONCE

    def _sweep_one(self, now_ns: int, epochs: Epochs | None) -> None:
        if self._cursor >= len(self._places):
            self._cursor = 0
        entry = self._places[self._cursor]
        self._cursor += 1
        if entry is None:
            return
        if self._is_expired(entry, now_ns):
            reason = "expirations"
        elif epochs is not None and (
            epochs.epoch(entry.slot) != entry.slot_epoch or epochs.epoch(0) != entry.global_epoch
        ):
            reason = "invalidations"
        else:
            return
        self._drop(entry)
        self._counts[reason] += 1


def check_limits(capacity_bytes: int, entry_limit: int, ttl_ns: int, idle_ns: int) -> None:
    """Raise ValueError unless every limit of a cache is in its range."""
    if not 1 <= capacity_bytes <= TIME_MAX_NS:
        raise ValueError(f"capacity_bytes is {capacity_bytes}; it must be 1 or more")
    if not 1 <= entry_limit < 2**30:
        raise ValueError(f"entry_limit is {entry_limit}; it must be 1 to 2^30 - 1")
    for name, duration in (("ttl_ns", ttl_ns), ("idle_ns", idle_ns)):
        if not 1 <= duration <= TIME_MAX_NS:
            raise ValueError(f"{name} is {duration}; it must be 1 to 2^62 nanoseconds")


def check_key(key: bytes) -> None:
    """Raise ValueError unless the key has a digest's length."""
    if not isinstance(key, bytes):
        raise TypeError(f"key must be bytes, not {type(key).__name__}")
    if not KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX:
        raise ValueError(f"key has {len(key)} bytes; {KEY_BYTES_MIN} to {KEY_BYTES_MAX} are wanted")
