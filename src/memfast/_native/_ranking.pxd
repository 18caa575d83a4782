"""The best `k` rows seen so far, by (score falling, id rising), in an array whose root ranks last."""

from libc.string cimport memcmp

cdef enum:
    ID_BYTES = 16


cdef struct Best:
    double score
    Py_ssize_t row
    const char *id


cdef inline bint is_worse(const Best *one, const Best *other) noexcept nogil:
    """Say whether the first ranks behind the other: a lower score, or the same score and a higher id."""
    return one.score < other.score or (one.score == other.score and memcmp(one.id, other.id, ID_BYTES) > 0)


cdef inline void sift_down(Best *heap, Py_ssize_t size) noexcept nogil:
    """Move the root down until the heap, whose root ranks last, is in order again."""
    cdef Best moving = heap[0]
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


cdef inline void offer(Best *heap, Py_ssize_t *size, Py_ssize_t k, Best row) noexcept nogil:
    """Put a row into the heap of the best `k`, 1 or more."""
    cdef Py_ssize_t at, parent
    if size[0] < k:
        at = size[0]
        size[0] += 1
        while at > 0:
            parent = (at - 1) // 2
            if not is_worse(&row, &heap[parent]):
                break
            heap[at] = heap[parent]
            at = parent
        heap[at] = row
    elif is_worse(&heap[0], &row):
        heap[0] = row
        sift_down(heap, size[0])


cdef inline void sort_best_first(Best *heap, Py_ssize_t size) noexcept nogil:
    """Turn the heap into an array, best row first."""
    cdef Best last
    while size > 1:
        size -= 1
        last = heap[size]
        heap[size] = heap[0]
        heap[0] = last
        sift_down(heap, size)
