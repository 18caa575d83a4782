"""The best `k` hits seen so far, in an array whose root ranks last. Of equal scores the lower row, or id, is better."""

from libc.stdint cimport int64_t
from libc.string cimport memcmp

cdef enum:
    ID_BYTES = 16


cdef struct Hit:
    double score
    int64_t row


cdef struct HitById:
    double score
    int64_t row
    const char *id


ctypedef fused AnyHit:
    Hit
    HitById


cdef inline bint is_worse(const AnyHit *one, const AnyHit *other) noexcept nogil:
    """Say whether the first ranks behind the other: a lower score, or the same score and a higher row or id."""
    if AnyHit is Hit:
        return one.score < other.score or (one.score == other.score and one.row > other.row)
    else:
        return one.score < other.score or (one.score == other.score and memcmp(one.id, other.id, ID_BYTES) > 0)


cdef inline void sift_down(AnyHit *heap, Py_ssize_t size) noexcept nogil:
    """Move the root down until the heap, whose root ranks last, is in order again."""
    cdef AnyHit moving = heap[0]
    cdef Py_ssize_t at = 0, child = 1
    while child < size:
        if child + 1 < size and is_worse(&heap[child + 1], &heap[child]):
            child += 1
        if not is_worse(&heap[child], &moving):
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = moving


cdef inline void offer(AnyHit *heap, Py_ssize_t *size, Py_ssize_t k, AnyHit hit) noexcept nogil:
    """Put a hit into the heap of the best `k`."""
    cdef Py_ssize_t at, parent
    if size[0] < k:
        at = size[0]
        size[0] += 1
        while at > 0:
            parent = (at - 1) // 2
            if not is_worse(&hit, &heap[parent]):
                break
            heap[at] = heap[parent]
            at = parent
        heap[at] = hit
    elif k > 0 and is_worse(&heap[0], &hit):
        heap[0] = hit
        sift_down(heap, size[0])


cdef inline void sort_best_first(AnyHit *heap, Py_ssize_t size) noexcept nogil:
    """Turn the heap into an array, best hit first."""
    cdef AnyHit last
    while size > 1:
        size -= 1
        last = heap[size]
        heap[size] = heap[0]
        heap[0] = last
        sift_down(heap, size)
