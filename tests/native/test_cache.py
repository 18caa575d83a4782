"""The response cache: bounded, exact in its accounts, and never stale; both twins do the same in the same order."""

import gc
import os
import subprocess
import sys

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memfast._native import _cache, _cache_reference
from memfast._native._cache_reference import ENTRY_BYTES

TTL_NS = 1_000
IDLE_NS = 400
FOREVER_NS = 2**60


def key_of(number: int) -> bytes:
    """Make a key of 16 bytes."""
    return number.to_bytes(16, "big")


def new_cache(module, *, charges: int = 8, entry_limit: int = 100, ttl_ns: int = TTL_NS, idle_ns: int = IDLE_NS):
    """Make a cache for so many values of 100 bytes; never fewer than 8, or each is too large."""
    return module.ByteCache(charges * (ENTRY_BYTES + 116), entry_limit=entry_limit, ttl_ns=ttl_ns, idle_ns=idle_ns)


def put(
    cache, number: int, *, value: bytes | None = None, now_ns: int = 0, deadline_ns: int = FOREVER_NS, epochs=(1, 1)
):
    """Put a value of 100 bytes that tells its key."""
    value = bytes([number % 256]) * 100 if value is None else value
    return cache.put(key_of(number), value, 5, *epochs, number + 1000, deadline_ns, now_ns)


def held(cache, numbers, now_ns: int = 0) -> list[int]:
    """List which of these are there; they count as used."""
    return [n for n in numbers if cache.get(key_of(n), 1, 1, now_ns) is not None]


def test_a_hit_returns_the_very_bytes(caches):
    """What was put comes back, the same object, with its version; an empty value is no miss."""
    cache = new_cache(caches)
    value = b"v" * 50
    assert put(cache, 1, value=value)
    assert put(cache, 2, value=b"")
    assert cache.get(key_of(1), 1, 1, 0) is value
    assert cache.get(bytes(bytearray(key_of(1))), 1, 1, 0) is value
    assert cache.get_entry(key_of(1), 1, 1, 0) == (value, 1001)
    assert cache.get(key_of(2), 1, 1, 0) == b""
    assert cache.get(key_of(3), 1, 1, 0) is None
    assert cache.get_entry(key_of(3), 1, 1, 0) is None
    assert cache.stats()[:4] == (2, 2 * ENTRY_BYTES + 32 + 50, 4, 2)


def test_overwriting_counts_once(caches):
    """A key that is written five times is charged for its last value only."""
    cache = new_cache(caches)
    for size in (10, 100, 20, 90, 30):
        assert put(cache, 1, value=b"x" * size)
    assert len(cache) == 1
    assert cache.stats().bytes == ENTRY_BYTES + 16 + 30
    assert cache.stats().evictions == 0


def test_too_large_a_value_is_refused_and_the_old_one_goes(caches):
    """A value above an eighth of the capacity evicts nothing, and never leaves an older one behind it."""
    cache = new_cache(caches)
    put(cache, 1)
    put(cache, 2)
    assert not put(cache, 1, value=b"x" * 101)
    assert held(cache, [1, 2]) == [2]
    assert cache.stats().rejections == 1
    assert cache.stats().evictions == 0


def test_other_epochs_end_an_entry(caches):
    """A changed scope or global epoch makes a miss, drops the entry and counts it."""
    for epochs in ((2, 1), (1, 2), (0, 1)):
        cache = new_cache(caches)
        put(cache, 1)
        assert cache.get(key_of(1), *epochs, 0) is None
        assert cache.get(key_of(1), 1, 1, 0) is None
        stats = cache.stats()
        assert (stats.entries, stats.bytes, stats.invalidations, stats.misses) == (0, 0, 1, 2)


@pytest.mark.parametrize(
    ("deadline_ns", "lives_at", "dead_at"),
    [(50, 49, 50), (FOREVER_NS, 399, 400), (399, 398, 399)],
)
def test_deadline_and_idleness_end_an_entry(caches, deadline_ns, lives_at, dead_at):
    """An entry is there until the nanosecond before its deadline, or before it was idle for too long."""
    cache = new_cache(caches)
    put(cache, 1, deadline_ns=deadline_ns)
    put(cache, 2, deadline_ns=deadline_ns)
    assert cache.get(key_of(1), 1, 1, lives_at) is not None
    assert cache.get(key_of(2), 1, 1, dead_at) is None
    assert cache.stats().expirations == 1


def test_hits_keep_an_entry_from_idling_but_not_beyond_the_ttl(caches):
    """An entry that is asked for lives as long as the TTL, and not a nanosecond longer."""
    cache = new_cache(caches)
    put(cache, 1)
    assert all(held(cache, [1], now) for now in (300, 600, 900, 999))
    assert held(cache, [1], 1000) == []


def test_a_slot_is_dropped_whole(caches):
    """Every entry of it, good or void, used or not, and none of another; the account stays exact."""
    cache = new_cache(caches)
    for number, slot in enumerate((5, 6, 5, 5)):
        cache.put(key_of(number), b"v" * 50, slot, number, 1, 0, FOREVER_NS, 0)
    assert cache.get(key_of(3), 3, 1, 0) is not None
    assert (cache.count_slot(5), cache.count_slot(6), cache.count_slot(7)) == (3, 1, 0)
    assert (cache.drop_slot(5), cache.drop_slot(5), cache.drop_slot(7)) == (3, 0, 0)
    assert cache.get(key_of(1), 1, 1, 0) is not None
    stats = cache.stats()
    assert (stats.entries, stats.bytes, stats.invalidations) == (1, ENTRY_BYTES + 16 + 50, 3)
    put(cache, 9)
    assert (held(cache, [0, 2, 3, 9]), cache.count_slot(5)) == ([9], 1)


def test_a_dead_value_is_not_taken(caches):
    """A value whose deadline has come is refused."""
    cache = new_cache(caches)
    assert not put(cache, 1, now_ns=50, deadline_ns=50)
    assert (len(cache), cache.stats().rejections) == (0, 1)


def test_entries_leave_in_the_order_of_their_last_use(caches):
    """Among entries used equally often the one unused for longest goes first, exactly."""
    cache = new_cache(caches)
    for number in range(8):
        put(cache, number)
    put(cache, 8)
    put(cache, 9)
    assert held(cache, range(10)) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert held(cache, [5, 2]) == [5, 2]
    for number in range(20, 28):
        put(cache, number)
    assert cache.stats().evictions == 10
    assert held(cache, [5, 2]) != []


def test_entries_used_twice_survive_a_scan(caches):
    """Keys that come once do not push out keys that came again."""
    cache = new_cache(caches, charges=20)
    for number in range(5):
        put(cache, number)
    assert held(cache, range(5)) == list(range(5))
    for number in range(100, 200):
        put(cache, number)
    assert held(cache, range(5)) == list(range(5))


def test_ghosts_move_the_border(caches):
    """Keys that come back after they were lost enter among the ones used again, and recency gains room."""
    cache = new_cache(caches, charges=10)
    for number in range(5):
        put(cache, number)
    held(cache, range(5))
    for number in range(10, 20):
        put(cache, number)
    before = cache.stats().evictions
    put(cache, 14)
    assert cache.stats().evictions == before + 1
    for number in range(30, 50):
        put(cache, number)
    assert held(cache, [14]) == [14]


def test_what_comes_back_after_an_eviction_is_counted(caches):
    """Once for each time that room for it would have been a hit; what was never held, or was dropped, is none."""
    cache = new_cache(caches, charges=10)
    for number in range(10):
        put(cache, number)
    held(cache, range(5))
    for number in range(10, 13):
        put(cache, number)
    assert cache.stats().recalls == 0
    for number in (5, 6, 20):
        put(cache, number)
    assert cache.stats().recalls == 2
    put(cache, 5)
    assert cache.stats().recalls == 2


def test_the_number_of_entries_is_bounded(caches):
    """Small values do not make more entries than allowed."""
    cache = new_cache(caches, charges=1000, entry_limit=7)
    for number in range(50):
        put(cache, number, value=b"")
    assert len(cache) == 7
    assert cache.stats().evictions == 43


def test_clear(caches):
    """All entries can be dropped; they are counted, and the cache goes on working."""
    cache = new_cache(caches)
    for number in range(6):
        put(cache, number)
    cache.clear()
    assert cache.stats()[:2] == (0, 0)
    assert cache.stats().invalidations == 6
    put(cache, 1)
    assert held(cache, range(6)) == [1]


def test_shrinking_takes_the_expired_first_then_the_coldest(caches):
    """Under pressure what is over goes before what is cold, and what is warm stays."""
    cache = new_cache(caches, charges=20)
    for number in range(20):
        put(cache, number, deadline_ns=10 if number >= 15 else FOREVER_NS)
    charge = ENTRY_BYTES + 116
    assert cache.shrink_to(12 * charge, 20, 1000) == 8 * charge
    assert held(cache, range(20), 20) == list(range(3, 15))
    stats = cache.stats()
    assert (stats.expirations, stats.evictions) == (5, 3)


def test_shrinking_is_bounded(caches):
    """A call takes no more steps than it is allowed, and several calls get there."""
    cache = new_cache(caches, charges=100)
    for number in range(100):
        put(cache, number)
    calls = 0
    while cache.stats().bytes > 0:
        assert cache.shrink_to(0, 0, 10) <= 10 * (ENTRY_BYTES + 116)
        calls += 1
        assert calls <= 20
    assert cache.shrink_to(0, 0, 10) == 0


def test_resizing_is_bounded_and_keeps_what_is_used(caches):
    """Smaller bounds are reached in steps and never grow back meanwhile; what was used again stays; larger ones hold."""
    charge = ENTRY_BYTES + 116
    cache = new_cache(caches, charges=100)
    for number in range(100):
        put(cache, number)
    assert held(cache, range(5)) == list(range(5))
    assert not cache.resize(20 * charge, 50, 30)
    assert cache.stats()[-2:] == (70 * charge, 70)
    put(cache, 200)
    assert len(cache) == 70
    assert not cache.resize(20 * charge, 50, 30)
    assert cache.resize(20 * charge, 50, 30)
    assert cache.stats()[-2:] == (20 * charge, 50)
    assert held(cache, range(5)) == list(range(5))
    assert cache.resize(200 * charge, 10, 30)
    assert len(cache) == 10
    assert cache.resize(200 * charge, 300, 0)
    for number in range(300, 400):
        put(cache, number)
    assert len(cache) == 110
    with pytest.raises(ValueError, match="capacity_bytes is 0"):
        cache.resize(0, 1, 1)


def test_sweeping_is_incremental(caches):
    """Expired entries go as the sweep comes by, a few places at a time, round and round."""
    cache = new_cache(caches, charges=20)
    for number in range(20):
        put(cache, number, deadline_ns=10 + number % 2 * 100)
    assert cache.sweep(5, 100) == 0
    assert cache.sweep(50, 10) == 5
    assert cache.sweep(50, 10) == 5
    assert held(cache, range(20), 50) == list(range(1, 20, 2))
    assert cache.sweep(200, 20) == 10
    assert cache.stats()[:2] == (0, 0)


class FixedEpochs:
    """Epochs as a table: every slot at one number."""

    def __init__(self, slot_epoch: int, global_epoch: int) -> None:
        self.numbers = (global_epoch, slot_epoch)

    def epoch(self, index: int) -> int:
        assert index in {0, 5}
        return self.numbers[index != 0]


def test_sweeping_by_epochs_drops_what_is_out_of_date(caches):
    """Given the table, a sweep also frees entries that could never be served again."""
    cache = new_cache(caches)
    put(cache, 1)
    put(cache, 2, epochs=(2, 1))
    assert cache.sweep(0, 10, FixedEpochs(2, 1)) == 1
    assert len(cache) == 1
    assert cache.sweep(0, 10, FixedEpochs(2, 2)) == 1
    assert cache.stats().invalidations == 2


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"capacity_bytes": 0}, "capacity_bytes is 0"),
        ({"entry_limit": 0}, "entry_limit is 0"),
        ({"ttl_ns": 0}, "ttl_ns is 0"),
        ({"idle_ns": -1}, "idle_ns is -1"),
        ({"ttl_ns": 2**62 + 1}, "ttl_ns is"),
    ],
)
def test_limits_are_checked(caches, limits, message):
    """A limit of nothing is a mistake, never 'for ever'."""
    good = {"capacity_bytes": 1000, "entry_limit": 10, "ttl_ns": 1, "idle_ns": 1}
    with pytest.raises(ValueError, match=message):
        caches.ByteCache(**(good | limits))


def test_ages_are_those_of_what_is_held(caches):
    """From when each was put: a hit makes nothing younger, a new value does, what left is not counted."""
    cache = new_cache(caches, charges=200)
    assert cache.ages(10**9) == (0, 0)
    for number in range(100):  # more than the first memory is for
        put(cache, number, now_ns=number)
    cache.get(key_of(0), 1, 1, 300)
    assert cache.ages(300) == (pytest.approx(sum(300 - number for number in range(100)) / 1e9), 300 / 1e9)
    put(cache, 0, now_ns=310)
    for number in range(1, 98):
        cache.get(key_of(number), 1, 2, 310)
    assert (len(cache), cache.ages(320)) == (3, (pytest.approx((10 + 222 + 221) / 1e9), 222 / 1e9))
    assert cache.ages(5) == (0, 0), "a clock that went back makes nothing younger than new"
    cache.clear()
    assert cache.ages(400) == (0, 0)
    put(cache, 7, now_ns=400)
    assert cache.ages(401) == (1 / 1e9, 1 / 1e9)


def test_keys_and_values_are_checked(caches):
    """Keys are 16 to 64 bytes, values bytes."""
    cache = new_cache(caches)
    for key in (b"", b"x" * 15, b"x" * 65):
        with pytest.raises(ValueError, match="16 to 64 are wanted"):
            cache.get(key, 1, 1, 0)
        with pytest.raises(ValueError, match="16 to 64 are wanted"):
            cache.put(key, b"", 0, 1, 1, 1, 1, 0)
    with pytest.raises(TypeError, match="bytes"):
        cache.get("x" * 20, 1, 1, 0)
    with pytest.raises(TypeError, match="bytes"):
        cache.put(key_of(1), "text", 0, 1, 1, 1, 1, 0)
    assert len(cache) == 0


class BothCaches(RuleBasedStateMachine):
    """Both twins and a plain dict go through the same life."""

    def __init__(self) -> None:
        super().__init__()
        self.twins = [new_cache(module, charges=12, entry_limit=9) for module in (_cache, _cache_reference)]
        self.model = {}
        self.now_ns = 0

    def both(self, method: str, *arguments):
        """Call both twins, and return the answer that they agree on."""
        first, second = (getattr(twin, method)(*arguments) for twin in self.twins)
        assert first == second, method
        return first

    @rule(
        number=st.integers(0, 14),
        size=st.integers(0, 160),
        epochs=st.tuples(st.integers(1, 2), st.integers(1, 2)),
        ahead_ns=st.integers(0, 900),
    )
    def put(self, number, size, epochs, ahead_ns):
        value = bytes([number]) * size
        taken = self.both("put", key_of(number), value, 3, *epochs, number, self.now_ns + ahead_ns, self.now_ns)
        self.model.pop(number, None)
        if taken:
            self.model[number] = (value, epochs, self.now_ns + ahead_ns)

    @rule(number=st.integers(0, 14), epochs=st.tuples(st.integers(1, 2), st.integers(1, 2)))
    def get(self, number, epochs):
        found = self.both("get_entry", key_of(number), *epochs, self.now_ns)
        value, own_epochs, deadline_ns = self.model.get(number, (None, None, 0))
        if found is not None:
            assert found == (value, number)
            assert own_epochs == epochs
            assert self.now_ns < deadline_ns
        else:
            self.model.pop(number, None)

    @rule(ahead_ns=st.integers(0, 300))
    def wait(self, ahead_ns):
        self.now_ns += ahead_ns

    @rule(steps=st.integers(0, 12))
    def sweep(self, steps):
        self.both("sweep", self.now_ns, steps)

    @rule(share=st.floats(0, 1), steps=st.integers(0, 12))
    def shrink(self, share, steps):
        self.both("shrink_to", int(self.twins[0].stats().bytes * share), self.now_ns, steps)

    @rule(charges=st.integers(1, 16), entry_limit=st.integers(1, 9), steps=st.integers(0, 12))
    def resize(self, charges, entry_limit, steps):
        self.both("resize", charges * (ENTRY_BYTES + 116), entry_limit, steps)

    @rule()
    def clear(self):
        self.both("clear")
        self.model.clear()

    @invariant()
    def books_balance(self):
        stats = self.both("stats")
        assert stats.bytes <= self.twins[0].capacity_bytes == self.twins[1].capacity_bytes
        assert stats.entries == len(self.twins[0]) == len(self.twins[1]) <= min(9, len(self.model))
        assert (stats.bytes == 0) == (stats.entries == 0)
        assert stats.entries <= stats.entry_limit
        assert stats.capacity_bytes == self.twins[0].capacity_bytes
        ages = self.both("ages", self.now_ns)
        most_s = ages.oldest_s * stats.entries
        assert 0 <= ages.oldest_s <= ages.total_s <= most_s or ages.total_s == pytest.approx(most_s)


BothCaches.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestBothCaches = BothCaches.TestCase


def test_entries_are_nothing_to_the_garbage_collector():
    """The compiled cache adds no object that a collection would have to visit."""
    cache = new_cache(_cache, charges=20_000, entry_limit=20_000)
    assert not gc.is_tracked(cache)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(10_000):
        put(cache, number)
    assert len(cache) == 10_000
    assert len(gc.get_objects()) <= before + 20


def test_references_are_given_back(caches):
    """A value is let go when its entry leaves, whichever way it leaves."""
    for leave in (
        lambda cache: cache.clear(),
        lambda cache: put(cache, 1),
        lambda cache: cache.get(key_of(1), 2, 1, 0),
        lambda cache: cache.sweep(TTL_NS, 5),
    ):
        value = os.urandom(90)
        references = sys.getrefcount(value)
        cache = new_cache(caches)
        put(cache, 1, value=value)
        assert sys.getrefcount(value) > references
        leave(cache)
        assert sys.getrefcount(value) == references


LEAK_SCRIPT = """
import psutil, random
from memfast._native._cache import ByteCache
random.seed(4)
keys = [random.randbytes(32) for _ in range(4000)]
def live(operations):
    cache = ByteCache(2_000_000, entry_limit=2000, ttl_ns=3_000, idle_ns=2_000)
    for now in range(operations):
        key = keys[random.randrange(4000)]
        if cache.get(key, now // 9000, 1, now) is None:
            cache.put(key, b"v" * random.randrange(2000), 1, now // 9000, 1, 1, now + 40_000, now)
        if now % 100 == 0:
            cache.sweep(now, 10)
        if now % 50_000 == 0:
            cache.shrink_to(500_000, now, 300)
    return cache.stats()
live(100_000)
before = psutil.Process().memory_info().rss
for _ in range(5):
    stats = live(200_000)
assert min(stats.evictions, stats.expirations, stats.invalidations, stats.hits) > 100, stats
print(psutil.Process().memory_info().rss - before)
"""


def test_a_million_operations_leak_nothing():
    """Memory after a million operations of every kind is where it was."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", LEAK_SCRIPT], env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4_000_000
