# cython: freethreading_compatible=True
"""Exact ranking of unit vectors; contracts and meaning stand in `_vectors_reference.py`.

A search is one pass over all rows that leaves an upper bound for each and the best `k` lower bounds in a
heap, then a second look at the few rows whose upper bound reaches the k-th lower one. What stands between the
checks of the arguments and the making of the answer runs without the GIL.
"""

from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc

cimport numpy as cnp

from memfast._native._arrays cimport is_array
from memfast._native._heap cimport Hit, offer, sort_best_first

from memfast._native._vectors_reference import (
    CODES_WANTED, MASK_WANTED, MATRIX_WANTED, NORM_MAX, QUERY_WANTED, ROUNDING_MARGIN, SCALE_WANTED,
    WIDTH_MAX, ZERO_SURE, not_unit,
)

cnp.import_array()

__all__ = ["quantise", "scan", "scan_int8", "search_rows", "simd", "simd_levels", "top_k", "use_simd"]

cdef extern from "dot.h" nogil:
    enum:
        MF_BLOCK
        MF_CODE_PAD
        MF_LEVELS
    ctypedef double (*mf_dot64_t)(const float *, const float *, Py_ssize_t)
    ctypedef void (*mf_dots_t)(const float **, const float *, Py_ssize_t, float *)
    ctypedef void (*mf_codes_t)(const int8_t **, const int8_t *, Py_ssize_t, int32_t, int32_t *)
    mf_dot64_t mf_dot64
    mf_dots_t mf_dots
    mf_codes_t mf_codes
    double mf_score(double dot)
    float mf_quantise(const float *x, Py_ssize_t d, int8_t *codes, double *norm2, double *residual2)
    void mf_prefetch(const float *x, Py_ssize_t d)
    bint mf_supports(int level)
    void mf_use(int level)

cdef double UNIT_ROUNDOFF = 2.0 ** -24
cdef double c_norm_max = NORM_MAX
cdef double c_rounding_margin = ROUNDING_MARGIN
cdef double c_zero_sure = ZERO_SURE

cdef tuple SIMD_NAMES = ("scalar", "avx2", "avx2vnni", "avx512", "avx512vnni")
cdef int simd_level = 0


def simd_levels():
    """Name the instruction sets that this machine has kernels for, plainest first."""
    return tuple(name for level, name in enumerate(SIMD_NAMES) if mf_supports(level))


def use_simd(name):
    """Choose the instruction set of all later calls; the best one is chosen at import."""
    global simd_level
    if name not in simd_levels():
        raise ValueError(f"{name!r} is not one of {simd_levels()}")
    simd_level = SIMD_NAMES.index(name)
    mf_use(simd_level)


def simd():
    """Name the instruction set in use."""
    return SIMD_NAMES[simd_level]


use_simd(max(simd_levels(), key=SIMD_NAMES.index))


cdef enum:
    # Up to so many numbers, about 0.2 ms, the GIL is kept: on a server's loop two hand-overs of it cost more than that.
    HELD_CELLS = 3000000
    HELD_ROWS = 40000       # the same for rows of which only the mask is read
    AHEAD = 4               # rows that are asked for before they are read, where they are far apart


cdef struct Field:
    # The rows that take part: all of the matrix, or the `count` rows that `index` lists in rising order.
    const float *matrix
    const int64_t *index
    Py_ssize_t width
    Py_ssize_t count


cdef struct Codes:
    # The int8 image of a matrix and of a query, and what the bounds are made of.
    const int8_t *matrix
    const float *scale
    const float *residual_norm
    int8_t *query
    int32_t query_sum
    double query_scale
    double per_residual
    double constant


cdef inline Py_ssize_t blocks_of(Py_ssize_t count) noexcept nogil:
    """Return how many blocks hold so many rows."""
    return (count + MF_BLOCK - 1) // MF_BLOCK


cdef class Work:
    """The memory of one search; freed with it."""

    cdef Hit *lower
    cdef Hit *best
    cdef float *upper
    cdef int64_t *index
    cdef int8_t *query_codes

    def __cinit__(self, Py_ssize_t k, Py_ssize_t count, Py_ssize_t width):
        self.lower = <Hit *> malloc((k + 1) * sizeof(Hit))
        self.best = <Hit *> malloc((k + 1) * sizeof(Hit))
        self.upper = <float *> malloc((blocks_of(count) + 1) * MF_BLOCK * sizeof(float))
        self.index = <int64_t *> malloc((count + 1) * sizeof(int64_t))
        self.query_codes = <int8_t *> calloc(width + MF_CODE_PAD, 1)
        if not (self.lower and self.best and self.upper and self.index and self.query_codes):
            raise MemoryError

    def __dealloc__(self):
        free(self.lower)
        free(self.best)
        free(self.upper)
        free(self.index)
        free(self.query_codes)


cdef int check_arrays(object matrix, object query, Py_ssize_t k) except -1:
    """Raise ValueError unless the arguments are what every ranking kernel asks for."""
    if not is_array(matrix, cnp.NPY_FLOAT32, 2):
        raise ValueError(MATRIX_WANTED)
    if not is_array(query, cnp.NPY_FLOAT32, 1):
        raise ValueError(QUERY_WANTED)
    if cnp.PyArray_DIM(matrix, 1) != cnp.PyArray_DIM(query, 0):
        raise ValueError(f"matrix has {matrix.shape[1]} columns and query {query.shape[0]}; they must agree")
    if k < 0:
        raise ValueError(f"k is {k}; it must be 0 or more")
    return 0


cdef tuple arrays_of(const Hit *hits, Py_ssize_t size, bint exact):
    """Copy hits into `(rows int64, scores)`: float64 scores where they are exact, else float32."""
    cdef cnp.npy_intp shape = size
    rows = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_INT64, 0)
    scores = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_FLOAT64 if exact else cnp.NPY_FLOAT32, 0)
    cdef int64_t *row = <int64_t *> cnp.PyArray_DATA(rows)
    cdef void *score = cnp.PyArray_DATA(scores)
    cdef Py_ssize_t i
    for i in range(size):
        row[i] = hits[i].row
        if exact:
            (<double *> score)[i] = hits[i].score
        else:
            (<float *> score)[i] = <float> hits[i].score
    return rows, scores


cdef inline double floor_of(const Hit *heap, Py_ssize_t size, Py_ssize_t k) noexcept nogil:
    """Return the k-th best score of a heap, or minus infinity while there are fewer."""
    return heap[0].score if size == k else -INFINITY


cdef inline int64_t row_at(const Field *field, Py_ssize_t place) noexcept nogil:
    """Return the number of the row at a place of the field."""
    return field.index[place] if field.index != NULL else place


cdef int fill_field(Field *field, Work work, object matrix, object mask) except -1:
    """Describe the rows that pass the mask, or all."""
    cdef Py_ssize_t count = cnp.PyArray_DIM(matrix, 0), kept
    cdef const uint8_t *passes
    field.matrix = <const float *> cnp.PyArray_DATA(matrix)
    field.width = cnp.PyArray_DIM(matrix, 1)
    field.index = NULL
    field.count = count
    if mask is None:
        return 0
    if not (is_array(mask, cnp.NPY_BOOL, 1) or is_array(mask, cnp.NPY_UINT8, 1)):
        raise ValueError(MASK_WANTED)
    if cnp.PyArray_DIM(mask, 0) != count:
        raise ValueError(MASK_WANTED)
    passes = <const uint8_t *> cnp.PyArray_DATA(mask)
    if count <= HELD_ROWS:
        kept = list_passing(passes, count, work.index)
    else:
        with nogil:
            kept = list_passing(passes, count, work.index)
    field.index = work.index
    field.count = kept
    return 0


cdef Py_ssize_t list_passing(const uint8_t *passes, Py_ssize_t count, int64_t *index) noexcept nogil:
    """Write the numbers of the rows that pass in rising order; return how many they are."""
    cdef Py_ssize_t row, kept = 0
    for row in range(count):
        index[kept] = row
        kept += passes[row] != 0
    return kept


cdef Py_ssize_t score_rows(
    const Field *field, const float *query, Py_ssize_t k, Hit *heap, float *scores
) noexcept nogil:
    """Write the float32 score of every row, keep the best `k` in the heap, return how many it holds."""
    cdef const float *rows[MF_BLOCK]
    cdef Py_ssize_t block, start, i, size = 0
    cdef Hit hit
    for block in range(blocks_of(field.count)):
        start = block * MF_BLOCK
        for i in range(MF_BLOCK):
            rows[i] = field.matrix + row_at(field, min(start + i, field.count - 1)) * field.width
        mf_dots(rows, query, field.width, scores + start)
        for i in range(start, min(start + MF_BLOCK, field.count)):
            if size < k or scores[i] > heap[0].score:
                hit.score = scores[i]
                hit.row = row_at(field, i)
                offer(heap, &size, k, hit)
    return size


cdef Py_ssize_t bound_rows(
    const Field *field, const Codes *codes, Py_ssize_t k, Hit *heap, float *upper
) noexcept nogil:
    """Write an upper bound of every row's score, keep the best `k` lower ones, return how many they are."""
    cdef const int8_t *rows[MF_BLOCK]
    cdef int32_t sums[MF_BLOCK]
    cdef Py_ssize_t block, start, i, row, size = 0
    cdef float near, reach
    cdef Hit hit
    for block in range(blocks_of(field.count)):
        start = block * MF_BLOCK
        for i in range(MF_BLOCK):
            rows[i] = codes.matrix + row_at(field, min(start + i, field.count - 1)) * field.width
        mf_codes(rows, codes.query, field.width, codes.query_sum, sums)
        for i in range(start, min(start + MF_BLOCK, field.count)):
            row = row_at(field, i)
            near = <float> sums[i - start] * codes.scale[row] * <float> codes.query_scale
            reach = <float> codes.per_residual * codes.residual_norm[row] + <float> codes.constant
            upper[i] = near + reach
            if size < k or near - reach > heap[0].score:
                hit.score = near - reach
                hit.row = row
                offer(heap, &size, k, hit)
    return size


cdef Py_ssize_t rescore_float32(
    const Field *field, const float *query, const float *upper, double floor, Py_ssize_t k, Hit *best
) noexcept nogil:
    """Rank the rows whose upper bound reaches the floor by float32 score; return how many are kept."""
    cdef const float *rows[MF_BLOCK]
    cdef int64_t numbers[MF_BLOCK]
    cdef float scores[MF_BLOCK]
    cdef Py_ssize_t place, i, waiting = 0, size = 0
    cdef Hit hit
    for place in range(field.count + 1):
        if place < field.count:
            if upper[place] < floor:
                continue
            numbers[waiting] = row_at(field, place)
            waiting += 1
            if waiting < MF_BLOCK:
                continue
        for i in range(MF_BLOCK if waiting else 0):
            rows[i] = field.matrix + numbers[min(i, waiting - 1)] * field.width
        if waiting:
            mf_dots(rows, query, field.width, scores)
        for i in range(waiting):
            hit.score = scores[i]
            hit.row = numbers[i]
            offer(best, &size, k, hit)
        waiting = 0
    return size


cdef Py_ssize_t list_reaching(
    const Field *field, double spread, double floor, bint zeros_are_out, float *upper, int64_t *index
) noexcept nogil:
    """Move the bounds and numbers of the rows whose `upper + spread` reaches the floor to the front; count them."""
    cdef Py_ssize_t place, kept = 0
    cdef double reach
    for place in range(field.count):
        reach = upper[place] + spread
        if reach < floor and (zeros_are_out or reach >= c_zero_sure):
            continue
        upper[kept] = upper[place]
        index[kept] = row_at(field, place)
        kept += 1
    return kept


cdef double least_score(const Field *field, const float *query, const Hit *hits, Py_ssize_t size) noexcept nogil:
    """Return the lowest exact score of some rows."""
    cdef double least = INFINITY
    cdef Py_ssize_t i
    for i in range(size):
        mf_prefetch(field.matrix + hits[min(i + AHEAD, size - 1)].row * field.width, field.width)
        least = min(least, mf_score(mf_dot64(field.matrix + hits[i].row * field.width, query, field.width)))
    return least


cdef Py_ssize_t rescore_exactly(
    const Field *field, const float *query, double spread, double floor, Py_ssize_t k, float *upper, int64_t *index,
    Hit *best,
) noexcept nogil:
    """Rank as `top_k` does, from the rows whose `upper + spread` reaches the floor; return how many are kept.

    Rows that are surely zero all tie, so of these the first `k` stand for the others. `index` may be the field's own.
    """
    cdef Py_ssize_t place, kept, zeros = 0, size = 0
    cdef Hit hit
    floor -= c_rounding_margin
    kept = list_reaching(field, spread, floor, floor >= c_zero_sure, upper, index)
    for place in range(kept):
        if place + AHEAD < kept:
            mf_prefetch(field.matrix + index[place + AHEAD] * field.width, field.width)
        hit.row = index[place]
        if upper[place] + spread >= c_zero_sure:
            hit.score = mf_score(mf_dot64(field.matrix + hit.row * field.width, query, field.width))
        elif zeros < k:
            zeros += 1
            hit.score = 0.0
        else:
            continue
        offer(best, &size, k, hit)
    return size


cdef inline double dot_error(Py_ssize_t width, double query_norm) noexcept nogil:
    """Bound what a float32 kernel's sum can be wrong by, for a row of a norm up to `NORM_MAX`."""
    return (width / 16 + 8) * UNIT_ROUNDOFF * query_norm * c_norm_max * 1.01


cdef int fill_codes(Codes *codes, Work work, object matrix, object quantised, const float *query) except -1:
    """Check the image of the matrix, quantise the query and work out the bounds.

    With q' and x' for what the codes stand for: q.x = q'.x' + q'.(x - x') + (q - q').x, so the error is at
    most |q'| |x - x'| + |q - q'| |x|. The rest covers the rounding of float32 here and in the kernels.
    """
    cdef Py_ssize_t count = cnp.PyArray_DIM(matrix, 0), width = cnp.PyArray_DIM(matrix, 1), i
    cdef double norm2 = 0.0, missed2 = 0.0, squares = 0.0, norm
    image, scale, residual_norm = quantised
    if not is_array(image, cnp.NPY_INT8, 2):
        raise ValueError(CODES_WANTED)
    if cnp.PyArray_DIM(image, 0) != count or cnp.PyArray_DIM(image, 1) != width:
        raise ValueError(CODES_WANTED)
    for column in (scale, residual_norm):
        if not is_array(column, cnp.NPY_FLOAT32, 1) or cnp.PyArray_DIM(column, 0) != count:
            raise ValueError(SCALE_WANTED)
    if width > WIDTH_MAX:
        raise ValueError(f"matrix has {width} columns; int8 sums hold {WIDTH_MAX} at most")
    codes.matrix = <const int8_t *> cnp.PyArray_DATA(image)
    codes.scale = <const float *> cnp.PyArray_DATA(scale)
    codes.residual_norm = <const float *> cnp.PyArray_DATA(residual_norm)
    codes.query = work.query_codes
    codes.query_scale = mf_quantise(query, width, codes.query, &norm2, &missed2)
    codes.query_sum = 0
    for i in range(width):
        codes.query_sum += codes.query[i]
        squares += codes.query[i] * codes.query[i]
    norm = sqrt(norm2)
    codes.per_residual = codes.query_scale * sqrt(squares) * (1.0 + 1e-6)
    codes.constant = sqrt(missed2) * c_norm_max * (1.0 + 1e-6)
    codes.constant += dot_error(width, norm) + 24.0 * UNIT_ROUNDOFF * norm
    return 0


def top_k(matrix, query, Py_ssize_t k):
    """Rank all rows exactly; see `_vectors_reference.top_k`."""
    check_arrays(matrix, query, k)
    cdef Py_ssize_t count = cnp.PyArray_DIM(matrix, 0), width = cnp.PyArray_DIM(matrix, 1), i, size = 0
    cdef const float *rows = <const float *> cnp.PyArray_DATA(matrix)
    cdef const float *wanted = <const float *> cnp.PyArray_DATA(query)
    cdef Hit hit
    k = min(k, count)
    cdef Work work = Work(k, 0, 0)
    with nogil:
        for i in range(count):
            hit.score = mf_score(mf_dot64(rows + i * width, wanted, width))
            hit.row = i
            offer(work.best, &size, k, hit)
        sort_best_first(work.best, size)
    return arrays_of(work.best, size, True)


def scan(matrix, query, Py_ssize_t k, mask=None):
    """Rank rows by their float32 score; see `_vectors_reference.scan`."""
    check_arrays(matrix, query, k)
    k = min(k, cnp.PyArray_DIM(matrix, 0))
    cdef Work work = Work(k, cnp.PyArray_DIM(matrix, 0), 0)
    cdef const float *wanted = <const float *> cnp.PyArray_DATA(query)
    cdef Py_ssize_t size = 0
    cdef Field field
    fill_field(&field, work, matrix, mask)
    with nogil:
        if k > 0:
            size = score_rows(&field, wanted, k, work.best, work.upper)
            sort_best_first(work.best, size)
    return arrays_of(work.best, size, False)


def scan_int8(matrix, quantised, query, Py_ssize_t k, mask=None):
    """Answer as `scan` does, after an int8 pass; see `_vectors_reference.scan_int8`."""
    check_arrays(matrix, query, k)
    k = min(k, cnp.PyArray_DIM(matrix, 0))
    cdef Work work = Work(k, cnp.PyArray_DIM(matrix, 0), cnp.PyArray_DIM(matrix, 1))
    cdef const float *wanted = <const float *> cnp.PyArray_DATA(query)
    cdef Py_ssize_t size = 0
    cdef Field field
    cdef Codes codes
    fill_field(&field, work, matrix, mask)
    fill_codes(&codes, work, matrix, quantised, wanted)
    with nogil:
        if k > 0:
            size = bound_rows(&field, &codes, k, work.lower, work.upper)
            size = rescore_float32(&field, wanted, work.upper, floor_of(work.lower, size, k), k, work.best)
            sort_best_first(work.best, size)
    return arrays_of(work.best, size, False)


cdef Py_ssize_t search_field(
    const Field *field, const Codes *image, const float *query, Py_ssize_t k, Hit *lower, float *upper, int64_t *index,
    Hit *best,
) noexcept nogil:
    """Rank exactly, by the int8 image where there is one; return how many rows stand in `best`, in order."""
    cdef Py_ssize_t size
    cdef double spread = 0.0, floor = -INFINITY
    if k < 1:
        return 0
    if image != NULL:
        size = bound_rows(field, image, k, lower, upper)
    else:
        spread = dot_error(field.width, sqrt(mf_dot64(query, query, field.width)))
        size = score_rows(field, query, k, lower, upper)
    if size == k:  # what these rows score at least is nearer to the k-th score than their bounds are
        floor = max(floor_of(lower, size, k) - spread, least_score(field, query, lower, k))
    size = rescore_exactly(field, query, spread, floor, k, upper, index, best)
    sort_best_first(best, size)
    return size


def search_rows(matrix, query, Py_ssize_t k, *, mask=None, quantised=None):
    """Answer as `top_k` over the rows that pass; see `_vectors_reference.search_rows`."""
    check_arrays(matrix, query, k)
    k = min(k, cnp.PyArray_DIM(matrix, 0))
    cdef Work work = Work(k, cnp.PyArray_DIM(matrix, 0), cnp.PyArray_DIM(matrix, 1))
    cdef const float *wanted = <const float *> cnp.PyArray_DATA(query)
    cdef Py_ssize_t size
    cdef Field field
    cdef Codes codes
    cdef const Codes *image = NULL
    fill_field(&field, work, matrix, mask)
    if quantised is not None:
        fill_codes(&codes, work, matrix, quantised, wanted)
        image = &codes
    if field.count * field.width <= HELD_CELLS:
        size = search_field(&field, image, wanted, k, work.lower, work.upper, work.index, work.best)
    else:
        with nogil:
            size = search_field(&field, image, wanted, k, work.lower, work.upper, work.index, work.best)
    return arrays_of(work.best, size, True)


def quantise(matrix):
    """Make the int8 image of unit vectors; see `_vectors_reference.quantise`."""
    if not is_array(matrix, cnp.NPY_FLOAT32, 2):
        raise ValueError(MATRIX_WANTED)
    cdef cnp.npy_intp[2] shape = [cnp.PyArray_DIM(matrix, 0), cnp.PyArray_DIM(matrix, 1)]
    codes = cnp.PyArray_EMPTY(2, shape, cnp.NPY_INT8, 0)
    scale = cnp.PyArray_EMPTY(1, shape, cnp.NPY_FLOAT32, 0)
    residual_norm = cnp.PyArray_EMPTY(1, shape, cnp.NPY_FLOAT32, 0)
    cdef const float *rows = <const float *> cnp.PyArray_DATA(matrix)
    cdef int8_t *code = <int8_t *> cnp.PyArray_DATA(codes)
    cdef float *step = <float *> cnp.PyArray_DATA(scale)
    cdef float *missed = <float *> cnp.PyArray_DATA(residual_norm)
    cdef Py_ssize_t row, width = shape[1], too_long = -1
    cdef double norm2 = 0.0, missed2 = 0.0
    with nogil:
        for row in range(shape[0]):
            step[row] = mf_quantise(rows + row * width, width, code + row * width, &norm2, &missed2)
            missed[row] = <float> (sqrt(missed2) * (1.0 + 2e-7))
            if not norm2 <= c_norm_max * c_norm_max:
                too_long = row
                break
    if too_long >= 0:
        raise ValueError(not_unit(too_long, sqrt(norm2)))
    return codes, scale, residual_norm
