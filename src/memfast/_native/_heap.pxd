"""The best `k` hits seen so far, in an array whose root ranks last."""

from libc.stdint cimport int64_t


cdef struct Hit:
    double score
    int64_t row


cdef inline bint is_worse(Hit a, Hit b) noexcept nogil:
    """Say whether `a` ranks behind `b`: a lower score, or the same score and a higher row."""
    return a.score < b.score or (a.score == b.score and a.row > b.row)


cdef inline void sift_down(Hit *heap, Py_ssize_t size, Py_ssize_t at) noexcept nogil:
    """Move `heap[at]` down until the heap, whose root ranks last, is in order again."""
    cdef Hit moving = heap[at]
    cdef Py_ssize_t child = 2 * at + 1
    while child < size:
        if child + 1 < size and is_worse(heap[child + 1], heap[child]):
            child += 1
        if not is_worse(heap[child], moving):
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = moving


cdef inline void offer(Hit *heap, Py_ssize_t *size, Py_ssize_t k, Hit hit) noexcept nogil:
    """Put a hit into the heap of the best `k`."""
    cdef Py_ssize_t at, parent
    if size[0] < k:
        at = size[0]
        size[0] += 1
        while at > 0:
            parent = (at - 1) // 2
            if not is_worse(hit, heap[parent]):
                break
            heap[at] = heap[parent]
            at = parent
        heap[at] = hit
    elif k > 0 and is_worse(heap[0], hit):
        heap[0] = hit
        sift_down(heap, size[0], 0)


cdef inline void sort_best_first(Hit *heap, Py_ssize_t size) noexcept nogil:
    """Turn the heap into an array, best hit first."""
    cdef Hit last
    while size > 1:
        size -= 1
        last = heap[size]
        heap[size] = heap[0]
        heap[0] = last
        sift_down(heap, size, 0)
