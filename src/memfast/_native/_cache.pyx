"""A bounded cache of finished answers; contracts and policy stand in `_cache_reference.py`.

Nothing here is known to the cyclic garbage collector: entries are C structs, keys and values plain bytes objects
whose references the structs own. A struct fills one cache line; when it was made stands in an array beside it, which
only the one who asks for ages reads.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyObject_Hash
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp

from memfast._native._pool cimport (
    FIRST,
    Pool,
    pool_empty,
    pool_free,
    pool_grow,
    pool_is_full,
    pool_link,
    pool_oldest,
    pool_return,
    pool_take,
    pool_unlink,
)

from memfast._native._cache_reference import (
    ENTRY_BYTES,
    KEY_BYTES_MAX,
    KEY_BYTES_MIN,
    LARGEST_SHARE,
    CacheAges,
    CacheStats,
    check_key,
    check_limits,
)

__all__ = ["ByteCache"]

cdef extern from "Python.h":
    char *PyBytes_AS_STRING(object string)
    void Py_DECREF(PyObject *o)

cdef enum:
    ONCE = 0
    OFTEN = 1

cdef int64_t c_entry_bytes = ENTRY_BYTES
cdef int64_t c_largest_share = LARGEST_SHARE
cdef Py_ssize_t c_key_bytes_min = KEY_BYTES_MIN
cdef Py_ssize_t c_key_bytes_max = KEY_BYTES_MAX
cdef int64_t NEVER = <int64_t> (<uint64_t> 1 << 63)
cdef uint64_t LIST_BIT = <uint64_t> 1 << 63


cdef struct Entry:
    PyObject *key           # NULL: the place is free
    PyObject *value
    uint64_t slot_epoch
    uint64_t global_epoch
    uint64_t version
    int64_t deadline_ns
    int64_t used_ns
    uint32_t slot
    uint32_t listed


cdef inline int64_t charge_of(const Entry *entry) noexcept:
    """Return the bytes that an entry counts for."""
    return c_entry_bytes + PyBytes_GET_SIZE(<object> entry.key) + PyBytes_GET_SIZE(<object> entry.value)


cdef class ByteCache:
    """Bytes by key, bounded and never stale; see `_cache_reference.ByteCache`."""

    cdef Pool live
    cdef Pool ghosts
    cdef Entry *entries
    cdef int64_t *made_ns       # parallel to the entries; NEVER: the place is free
    cdef int64_t capacity
    cdef int64_t ttl_ns
    cdef int64_t idle_ns
    cdef int64_t used
    cdef int64_t used_once
    cdef int64_t target
    cdef uint32_t entry_limit
    cdef uint32_t cursor
    cdef uint64_t hits
    cdef uint64_t misses
    cdef uint64_t evictions
    cdef uint64_t expirations
    cdef uint64_t invalidations
    cdef uint64_t rejections
    cdef uint64_t recalls

    def __cinit__(self, capacity_bytes, *, entry_limit, ttl_ns, idle_ns):
        check_limits(capacity_bytes, entry_limit, ttl_ns, idle_ns)
        self.capacity = capacity_bytes
        self.entry_limit = entry_limit
        self.ttl_ns = ttl_ns
        self.idle_ns = idle_ns
        self.grow_live()
        pool_grow(&self.ghosts)

    def __dealloc__(self):
        self.release_all()
        pool_free(&self.live)
        pool_free(&self.ghosts)
        free(self.entries)
        free(self.made_ns)

    def __len__(self):
        return self.count()

    @property
    def capacity_bytes(self):
        """The bound of `stats().bytes`."""
        return self.capacity

    def get(self, bytes key not None, uint64_t slot_epoch, uint64_t global_epoch, int64_t now_ns):
        """Return the value, or None; see `_cache_reference.ByteCache.get`."""
        cdef uint32_t place = self.hit(key, slot_epoch, global_epoch, now_ns)
        return <object> self.entries[place].value if place else None

    def get_entry(self, bytes key not None, uint64_t slot_epoch, uint64_t global_epoch, int64_t now_ns):
        """Return `(value, version)`, or None; see `_cache_reference.ByteCache.get_entry`."""
        cdef uint32_t place = self.hit(key, slot_epoch, global_epoch, now_ns)
        return (<object> self.entries[place].value, self.entries[place].version) if place else None

    def put(
        self,
        bytes key not None,
        bytes value not None,
        uint32_t slot,
        uint64_t slot_epoch,
        uint64_t global_epoch,
        uint64_t version,
        int64_t deadline_ns,
        int64_t now_ns,
    ):
        """Keep a value, or say that it was not kept; see `_cache_reference.ByteCache.put`."""
        check_key_length(key)
        cdef uint64_t hashed = <uint64_t> PyObject_Hash(key)
        cdef uint32_t place = self.find(key, hashed), listed = ONCE
        cdef bint known = place != 0
        cdef int64_t charge = c_entry_bytes + PyBytes_GET_SIZE(key) + PyBytes_GET_SIZE(value)
        cdef Entry *entry
        if known:
            listed = self.entries[place].listed
            self.drop(place)
        deadline_ns = min(deadline_ns, now_ns + self.ttl_ns)
        if charge > self.capacity // c_largest_share or now_ns >= deadline_ns:
            self.rejections += 1
            return False
        if not known:
            listed = self.recall(hashed, charge)
        while self.used + charge > self.capacity or self.count() >= self.entry_limit:
            self.evict()
        if pool_is_full(&self.live):
            self.grow_live()
        place = pool_take(&self.live, hashed)
        pool_link(&self.live, listed, place)
        Py_INCREF(key)
        Py_INCREF(value)
        entry = &self.entries[place]
        entry.key = <PyObject *> key
        entry.value = <PyObject *> value
        entry.slot = slot
        entry.slot_epoch = slot_epoch
        entry.global_epoch = global_epoch
        entry.version = version
        entry.deadline_ns = deadline_ns
        entry.used_ns = now_ns
        entry.listed = listed
        self.made_ns[place] = now_ns
        self.used += charge
        if listed == ONCE:
            self.used_once += charge
        return True

    def count_slot(self, uint32_t slot):
        """Count the entries of a slot."""
        cdef uint32_t place, found = 0
        for place in range(FIRST, self.live.top):
            found += self.entries[place].key != NULL and self.entries[place].slot == slot
        return found

    def drop_slot(self, uint32_t slot):
        """Drop every entry of a slot; see `_cache_reference.ByteCache.drop_slot`."""
        cdef uint32_t place, dropped = 0
        for place in range(FIRST, self.live.top):
            if self.entries[place].key != NULL and self.entries[place].slot == slot:
                self.drop(place)
                dropped += 1
        self.invalidations += dropped
        return dropped

    def clear(self):
        """Drop everything; see `_cache_reference.ByteCache.clear`."""
        self.invalidations += self.count()
        self.release_all()
        pool_empty(&self.live)
        pool_empty(&self.ghosts)
        self.used = self.used_once = self.target = 0
        self.cursor = 0

    def shrink_to(self, int64_t bytes_wanted, int64_t now_ns, Py_ssize_t max_steps):
        """Free memory in bounded steps; see `_cache_reference.ByteCache.shrink_to`."""
        cdef int64_t before = self.used
        cdef Py_ssize_t looked = 0
        while self.used > bytes_wanted and looked < min(max_steps // 2, <Py_ssize_t> self.live.top - FIRST):
            self.sweep_one(now_ns, None)
            looked += 1
        while looked < max_steps and self.used > bytes_wanted and self.count():
            self.evict()
            looked += 1
        return before - self.used

    def resize(self, capacity_bytes, entry_limit, Py_ssize_t max_steps):
        """Change the bounds in bounded steps; see `_cache_reference.ByteCache.resize`."""
        check_limits(capacity_bytes, entry_limit, self.ttl_ns, self.idle_ns)
        cdef int64_t bytes_wanted = capacity_bytes
        cdef uint32_t entries_wanted = entry_limit
        cdef Py_ssize_t left = max_steps
        while left > 0 and (self.used > bytes_wanted or self.count() > entries_wanted):
            self.evict()
            left -= 1
        self.capacity = max(bytes_wanted, self.used)
        self.entry_limit = max(entries_wanted, self.count())
        self.target = min(self.target, self.capacity)
        return self.capacity == bytes_wanted and self.entry_limit == entries_wanted

    def sweep(self, int64_t now_ns, Py_ssize_t max_steps, epochs=None):
        """Drop what is over, place by place; see `_cache_reference.ByteCache.sweep`."""
        cdef uint32_t before = self.count()
        cdef Py_ssize_t _
        for _ in range(min(max_steps, <Py_ssize_t> self.live.top - FIRST)):
            self.sweep_one(now_ns, epochs)
        return before - self.count()

    def stats(self):
        """Return the counters."""
        return CacheStats(
            self.count(),
            self.used,
            self.hits,
            self.misses,
            self.evictions,
            self.expirations,
            self.invalidations,
            self.rejections,
            self.recalls,
            self.capacity,
            self.entry_limit,
        )

    def ages(self, int64_t now_ns):
        """Return the ages of the entries; see `_cache_reference.ByteCache.ages`."""
        cdef uint32_t place
        cdef int64_t age_ns, oldest_ns = 0
        cdef double total_ns = 0
        for place in range(FIRST, self.live.top):
            if self.made_ns[place] != NEVER:
                age_ns = max(<int64_t> 0, now_ns - self.made_ns[place])
                total_ns += age_ns
                oldest_ns = max(oldest_ns, age_ns)
        return CacheAges(total_ns / 1e9, oldest_ns / 1e9)

    cdef inline uint32_t count(self) noexcept:
        """Return how many entries there are."""
        return self.live.counts[ONCE] + self.live.counts[OFTEN]

    cdef int grow_live(self) except -1:
        """Make room for twice the entries."""
        cdef void *memory = realloc(self.entries, (2 * <size_t> self.live.size or 64) * sizeof(Entry))
        if memory == NULL:
            raise MemoryError
        self.entries = <Entry *> memory
        memory = realloc(self.made_ns, (2 * <size_t> self.live.size or 64) * sizeof(int64_t))
        if memory == NULL:
            raise MemoryError
        self.made_ns = <int64_t *> memory
        return pool_grow(&self.live)

    cdef inline uint32_t find(self, bytes key, uint64_t hashed):
        """Return the place of a key, 0 if it has none."""
        cdef uint32_t at = hashed & self.live.bucket_mask
        cdef uint32_t place = self.live.buckets[at]
        cdef PyObject *other
        while place:
            if self.live.hashes[place] == hashed:
                other = self.entries[place].key
                if other == <PyObject *> key or (
                    PyBytes_GET_SIZE(<object> other) == PyBytes_GET_SIZE(key)
                    and memcmp(PyBytes_AS_STRING(<object> other), PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)) == 0
                ):
                    return place
            at = (at + 1) & self.live.bucket_mask
            place = self.live.buckets[at]
        return 0

    cdef inline bint is_expired(self, const Entry *entry, int64_t now_ns) noexcept:
        """Say whether the deadline has come, or nobody asked for too long."""
        return now_ns >= entry.deadline_ns or now_ns - entry.used_ns >= self.idle_ns

    cdef uint32_t hit(self, bytes key, uint64_t slot_epoch, uint64_t global_epoch, int64_t now_ns) except? 0:
        """Return the place of a valid entry, now the newest of its list, or 0."""
        check_key_length(key)
        cdef uint32_t place = self.find(key, <uint64_t> PyObject_Hash(key))
        cdef Entry *entry
        if not place:
            self.misses += 1
            return 0
        entry = &self.entries[place]
        if entry.slot_epoch != slot_epoch or entry.global_epoch != global_epoch:
            self.invalidations += 1
        elif self.is_expired(entry, now_ns):
            self.expirations += 1
        else:
            self.hits += 1
            entry.used_ns = now_ns
            pool_unlink(&self.live, entry.listed, place)
            if entry.listed == ONCE:
                self.used_once -= charge_of(entry)
                entry.listed = OFTEN
            pool_link(&self.live, OFTEN, place)
            return place
        self.misses += 1
        self.drop(place)
        return 0

    cdef void drop(self, uint32_t place) noexcept:
        """Take an entry out and let its bytes go."""
        cdef Entry *entry = &self.entries[place]
        cdef PyObject *key = entry.key
        cdef PyObject *value = entry.value
        cdef int64_t charge = charge_of(entry)
        self.used -= charge
        if entry.listed == ONCE:
            self.used_once -= charge
        pool_unlink(&self.live, entry.listed, place)
        pool_return(&self.live, place)
        self.made_ns[place] = NEVER
        entry.key = NULL
        Py_DECREF(key)
        Py_DECREF(value)

    cdef void release_all(self) noexcept:
        """Let the bytes of all entries go."""
        cdef uint32_t place
        for place in range(FIRST, self.live.top):
            if self.entries[place].key != NULL:
                Py_DECREF(self.entries[place].key)
                Py_DECREF(self.entries[place].value)
                self.entries[place].key = NULL

    cdef int evict(self) except -1:
        """Drop the oldest of the list that has more than its share, and leave its ghost."""
        cdef bint once = self.live.counts[ONCE] and (self.used_once > self.target or not self.live.counts[OFTEN])
        cdef uint32_t listed = ONCE if once else OFTEN
        cdef uint32_t victim = pool_oldest(&self.live, listed)
        cdef uint64_t hashed = self.live.hashes[victim] >> 1
        cdef uint32_t ghost
        self.drop(victim)
        self.evictions += 1
        if pool_is_full(&self.ghosts):
            pool_grow(&self.ghosts)
        ghost = pool_take(&self.ghosts, hashed | (LIST_BIT if listed == OFTEN else 0))
        pool_link(&self.ghosts, listed, ghost)
        while self.ghosts.counts[ONCE] > max(self.live.counts[OFTEN], 1):
            self.forget(ONCE, pool_oldest(&self.ghosts, ONCE))
        while self.ghosts.counts[OFTEN] and self.ghosts.counts[ONCE] + self.ghosts.counts[OFTEN] > max(self.count(), 1):
            self.forget(OFTEN, pool_oldest(&self.ghosts, OFTEN))
        return 0

    cdef inline void forget(self, uint32_t listed, uint32_t ghost) noexcept:
        """Drop a ghost."""
        pool_unlink(&self.ghosts, listed, ghost)
        pool_return(&self.ghosts, ghost)

    cdef uint32_t recall(self, uint64_t hashed, int64_t charge) noexcept:
        """Choose the list of a new key; a ghost moves the border towards the list that lost it."""
        cdef uint64_t wanted = hashed >> 1
        cdef uint32_t at = wanted & self.ghosts.bucket_mask
        cdef uint32_t ghost = self.ghosts.buckets[at], listed
        cdef int64_t move
        while ghost and (self.ghosts.hashes[ghost] & ~LIST_BIT) != wanted:
            at = (at + 1) & self.ghosts.bucket_mask
            ghost = self.ghosts.buckets[at]
        if not ghost:
            return ONCE
        listed = OFTEN if self.ghosts.hashes[ghost] & LIST_BIT else ONCE
        move = max(charge, charge * self.ghosts.counts[1 - listed] // self.ghosts.counts[listed])
        self.target += move if listed == ONCE else -move
        self.target = min(max(self.target, 0), self.capacity)
        self.forget(listed, ghost)
        self.recalls += 1
        return OFTEN

    cdef int sweep_one(self, int64_t now_ns, object epochs) except -1:
        """Look at the next place; drop its entry if that is over."""
        cdef uint32_t place
        if self.cursor >= self.live.top - FIRST:
            self.cursor = 0
        place = FIRST + self.cursor
        self.cursor += 1
        if self.entries[place].key == NULL:
            return 0
        if self.is_expired(&self.entries[place], now_ns):
            self.expirations += 1
            self.drop(place)
        elif epochs is not None and self.is_outdated(place, epochs) and self.entries[place].key != NULL:
            self.invalidations += 1
            self.drop(place)
        return 0

    cdef bint is_outdated(self, uint32_t place, object epochs) except -1:
        """Say whether the scope or everything has changed since the entry was made."""
        cdef uint64_t slot_epoch = self.entries[place].slot_epoch, global_epoch = self.entries[place].global_epoch
        return epochs.epoch(self.entries[place].slot) != slot_epoch or epochs.epoch(0) != global_epoch


cdef inline int check_key_length(bytes key) except -1:
    """Raise ValueError unless the key has a digest's length."""
    if not c_key_bytes_min <= PyBytes_GET_SIZE(key) <= c_key_bytes_max:
        check_key(key)
    return 0
