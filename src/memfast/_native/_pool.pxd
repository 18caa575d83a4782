"""Numbered slots with a hash index and two linked lists, all in plain memory.

Slots count from `FIRST`; the numbers below it are the heads of the lists, and 0 also marks an empty bucket. What a
slot means, and what else belongs to it, is the owner's business: arrays of its own run parallel to `hashes`.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

cdef enum:
    FIRST = 2
    SMALLEST = 64


cdef struct Link:
    uint32_t newer
    uint32_t older


cdef struct Pool:
    Link *links
    uint64_t *hashes
    uint32_t *buckets
    uint32_t bucket_mask
    uint32_t size          # slots there is memory for
    uint32_t top           # slots ever used
    uint32_t unused        # the first returned slot, 0 if none; the next ones follow by `older`
    uint32_t[2] counts     # members of each list


cdef inline void pool_empty(Pool *pool) noexcept:
    """Forget every slot."""
    cdef uint32_t head
    if pool.buckets != NULL:
        memset(pool.buckets, 0, (<size_t> pool.bucket_mask + 1) * sizeof(uint32_t))
    for head in range(<uint32_t> FIRST):
        if pool.links != NULL:
            pool.links[head].newer = pool.links[head].older = head
        pool.counts[head] = 0
    pool.top = FIRST
    pool.unused = 0


cdef inline void pool_free(Pool *pool) noexcept:
    """Give all memory back."""
    free(pool.links)
    free(pool.hashes)
    free(pool.buckets)
    memset(pool, 0, sizeof(Pool))


cdef inline int pool_grow(Pool *pool) except -1:
    """Double the memory, or take the first."""
    cdef uint32_t size = pool.size * 2 if pool.size else SMALLEST
    cdef size_t buckets = 2 * <size_t> size
    cdef uint32_t slot, at
    cdef void *memory
    if size >= <uint32_t> 1 << 31:
        raise MemoryError("a cache holds 2^30 entries at most")
    memory = realloc(pool.links, size * sizeof(Link))
    if memory == NULL:
        raise MemoryError
    pool.links = <Link *> memory
    memory = realloc(pool.hashes, size * sizeof(uint64_t))
    if memory == NULL:
        raise MemoryError
    pool.hashes = <uint64_t *> memory
    memory = realloc(pool.buckets, buckets * sizeof(uint32_t))
    if memory == NULL:
        raise MemoryError
    pool.buckets = <uint32_t *> memory
    pool.bucket_mask = buckets - 1
    if pool.size == 0:
        pool.size = size
        pool_empty(pool)
        return 0
    pool.size = size
    memset(pool.buckets, 0, buckets * sizeof(uint32_t))
    for slot in range(FIRST, pool.top):
        at = pool.hashes[slot] & pool.bucket_mask
        while pool.buckets[at]:
            at = (at + 1) & pool.bucket_mask
        pool.buckets[at] = slot
    return 0


cdef inline bint pool_is_full(const Pool *pool) noexcept:
    """Say whether `pool_take` must be preceded by `pool_grow`; then no slot is unused, and all are indexed."""
    return pool.unused == 0 and pool.top >= pool.size


cdef inline uint32_t pool_take(Pool *pool, uint64_t hashed) noexcept:
    """Take a slot, the one returned last before a new one, and index it."""
    cdef uint32_t slot = pool.unused, at = hashed & pool.bucket_mask
    if slot:
        pool.unused = pool.links[slot].older
    else:
        slot = pool.top
        pool.top += 1
    pool.hashes[slot] = hashed
    while pool.buckets[at]:
        at = (at + 1) & pool.bucket_mask
    pool.buckets[at] = slot
    return slot


cdef inline void pool_return(Pool *pool, uint32_t slot) noexcept:
    """Take a slot out of the index, closing the gap, and keep it for later."""
    cdef uint32_t mask = pool.bucket_mask
    cdef uint32_t gap = pool.hashes[slot] & mask, at, home
    while pool.buckets[gap] != slot:
        gap = (gap + 1) & mask
    at = (gap + 1) & mask
    while pool.buckets[at]:
        home = pool.hashes[pool.buckets[at]] & mask
        if ((at - home) & mask) >= ((at - gap) & mask):
            pool.buckets[gap] = pool.buckets[at]
            gap = at
        at = (at + 1) & mask
    pool.buckets[gap] = 0
    pool.links[slot].older = pool.unused
    pool.unused = slot


cdef inline void pool_link(Pool *pool, uint32_t which, uint32_t slot) noexcept:
    """Put a slot at the new end of a list."""
    cdef uint32_t after = pool.links[which].older
    pool.links[slot].newer = which
    pool.links[slot].older = after
    pool.links[after].newer = slot
    pool.links[which].older = slot
    pool.counts[which] += 1


cdef inline void pool_unlink(Pool *pool, uint32_t which, uint32_t slot) noexcept:
    """Take a slot out of its list."""
    cdef Link link = pool.links[slot]
    pool.links[link.newer].older = link.older
    pool.links[link.older].newer = link.newer
    pool.counts[which] -= 1


cdef inline uint32_t pool_oldest(const Pool *pool, uint32_t which) noexcept:
    """Return the slot at the old end of a list, or the list's head when it is empty."""
    return pool.links[which].newer
