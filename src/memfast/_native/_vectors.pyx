# cython: freethreading_compatible=True
"""Exact ranking of unit vectors; contracts and meaning stand in `_vectors_reference.py`."""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

cimport numpy as cnp

from memfast._native._vectors_reference import MATRIX_WANTED, QUERY_WANTED

cnp.import_array()

__all__ = ["top_k"]

cdef extern from "dot.h" nogil:
    ctypedef double (*dot64_t)(const float *, const float *, Py_ssize_t)
    dot64_t mf_dot64
    double mf_score(double dot)
    int mf_best_level()
    void mf_use_level(int level)

cdef extern from "numpy/arrayobject.h":
    bint PyArray_ISCARRAY_RO(cnp.ndarray array)


cdef struct Hit:
    double score
    int64_t row


mf_use_level(mf_best_level())


cdef inline bint is_worse(Hit a, Hit b) noexcept nogil:
    """Say whether `a` ranks behind `b`: a lower score, or the same score and a higher row."""
    return a.score < b.score or (a.score == b.score and a.row > b.row)


cdef void sift_down(Hit *heap, Py_ssize_t size, Py_ssize_t at) noexcept nogil:
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


cdef void sort_best_first(Hit *heap, Py_ssize_t size) noexcept nogil:
    """Turn the heap into an array, best hit first."""
    cdef Hit last
    while size > 1:
        size -= 1
        last = heap[size]
        heap[size] = heap[0]
        heap[0] = last
        sift_down(heap, size, 0)


cdef int check_arrays(object matrix, object query, Py_ssize_t k) except -1:
    """Raise ValueError unless the arguments are what every ranking kernel asks for."""
    if not is_float32(matrix, 2):
        raise ValueError(MATRIX_WANTED)
    if not is_float32(query, 1):
        raise ValueError(QUERY_WANTED)
    if cnp.PyArray_DIM(matrix, 1) != cnp.PyArray_DIM(query, 0):
        raise ValueError(
            f"matrix has {cnp.PyArray_DIM(matrix, 1)} columns and query {cnp.PyArray_DIM(query, 0)}; they must agree"
        )
    if k < 0:
        raise ValueError(f"k is {k}; it must be 0 or more")
    return 0


cdef inline bint is_float32(object array, int dimensions):
    """Say whether this is a native, aligned, C-contiguous float32 array with so many dimensions."""
    return (
        cnp.PyArray_Check(array)
        and cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32
        and cnp.PyArray_NDIM(array) == dimensions
        and PyArray_ISCARRAY_RO(array)
    )


cdef tuple hits_to_arrays(const Hit *hits, Py_ssize_t size):
    """Copy hits into `(rows int64, scores float64)`."""
    cdef cnp.npy_intp shape = size
    rows = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_INT64, 0)
    scores = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_FLOAT64, 0)
    cdef int64_t *row = <int64_t *> cnp.PyArray_DATA(rows)
    cdef double *score = <double *> cnp.PyArray_DATA(scores)
    cdef Py_ssize_t i
    for i in range(size):
        row[i] = hits[i].row
        score[i] = hits[i].score
    return rows, scores


def top_k(matrix, query, Py_ssize_t k):
    """Rank all rows exactly; see `_vectors_reference.top_k`."""
    check_arrays(matrix, query, k)
    cdef Py_ssize_t count = cnp.PyArray_DIM(matrix, 0)
    cdef Py_ssize_t width = cnp.PyArray_DIM(matrix, 1)
    cdef const float *row = <const float *> cnp.PyArray_DATA(matrix)
    cdef const float *wanted = <const float *> cnp.PyArray_DATA(query)
    cdef Py_ssize_t i, size = 0
    cdef Hit hit
    k = min(k, count)
    cdef Hit *heap = <Hit *> malloc((k + 1) * sizeof(Hit))
    if heap == NULL:
        raise MemoryError
    try:
        with nogil:
            for i in range(count):
                hit.score = mf_score(mf_dot64(row + i * width, wanted, width))
                hit.row = i
                offer(heap, &size, k, hit)
            sort_best_first(heap, size)
        return hits_to_arrays(heap, size)
    finally:
        free(heap)
