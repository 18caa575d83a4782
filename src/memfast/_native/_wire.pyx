# cython: freethreading_compatible=True
"""What is done to the numbers and bytes of every search, in one pass each; contracts stand in `_wire_reference.py`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy

cimport numpy as cnp

from memfast._native._arrays cimport is_array

from memfast._native._wire_reference import (
    BLOCKS_WANTED, BOUNDS_WANTED, DATA_WANTED, MATRIX_WANTED, ROWS_WANTED, SIZE_WANTED, SQUARE_MIN, no_such_row,
    texts_wanted, wrong_bounds,
)

cnp.import_array()

__all__ = ["join_rows", "row_dots", "unit_sums", "unit_vector"]

cdef extern from "numpy/arrayobject.h":
    bint PyArray_ISBEHAVED_RO(cnp.ndarray array)

cdef extern from "dot.h" nogil:
    enum:
        MF_LEVELS
    double mf_dot64(const float *, const float *, Py_ssize_t)
    void mf_prefetch(const float *x, Py_ssize_t d)
    bint mf_supports(int level)
    void mf_use(int level)

cdef enum:
    AHEAD = 4       # rows that are asked for before they are read: they are far apart
    # Up to so many tokens, about 0.1 ms, the GIL is kept: on a server's loop two hand-overs of it cost more than that.
    HELD_TOKENS = 1024

cdef double c_square_min = SQUARE_MIN

mf_use(max([level for level in range(MF_LEVELS) if mf_supports(level)]))  # all levels give the same sums


cdef struct Piece:
    const char *start
    Py_ssize_t size


def unit_vector(bytes raw not None):
    """Scale a vector to norm 1; see `_wire_reference.unit_vector`."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(raw)
    cdef const float *given = <const float *> PyBytes_AS_STRING(raw)
    cdef cnp.npy_intp count = size // 4
    cdef double square
    if size % 4:
        raise ValueError(SIZE_WANTED)
    square = square_of(given, count)
    if not has_direction(square):
        return None
    scaled = cnp.PyArray_EMPTY(1, &count, cnp.NPY_FLOAT32, 0)
    scale(given, <float *> cnp.PyArray_DATA(scaled), count, square)
    return scaled


cdef inline bint has_direction(double square) noexcept nogil:
    """Say whether the sum of squares is of use."""
    return c_square_min < square < INFINITY


cdef double square_of(const float *given, Py_ssize_t count) noexcept nogil:
    """Return the sum of squares, added in the order of the lanes."""
    return mf_dot64(given, given, count)


def row_dots(matrix not None, rows not None, query not None):
    """Return the float64 dot product of some rows with a query; see `_wire_reference.row_dots`."""
    check_matrix(matrix)
    if not is_array(rows, cnp.NPY_INT64, 1) or not is_array(query, cnp.NPY_FLOAT32, 1):
        raise ValueError(ROWS_WANTED)
    cdef Py_ssize_t i, width = cnp.PyArray_DIM(matrix, 1), held = cnp.PyArray_DIM(matrix, 0)
    cdef cnp.npy_intp count = cnp.PyArray_DIM(rows, 0)
    if cnp.PyArray_DIM(query, 0) != width:
        raise ValueError(ROWS_WANTED)
    cdef const float *start = <const float *> cnp.PyArray_DATA(matrix)
    cdef const float *wanted = <const float *> cnp.PyArray_DATA(query)
    cdef const int64_t *places = <const int64_t *> cnp.PyArray_DATA(rows)
    dots = cnp.PyArray_EMPTY(1, &count, cnp.NPY_FLOAT64, 0)
    cdef double *found = <double *> cnp.PyArray_DATA(dots)
    for i in range(count):
        if not 0 <= places[i] < held:
            raise IndexError(no_such_row(places[i]))
        if i + AHEAD < count and 0 <= places[i + AHEAD] < held:
            mf_prefetch(start + places[i + AHEAD] * width, width)
        found[i] = mf_dot64(start + places[i] * width, wanted, width)
    return dots


cdef int check_matrix(matrix) except -1:
    """Raise ValueError unless this is a matrix as it is wanted."""
    if not is_array(matrix, cnp.NPY_FLOAT32, 2) or cnp.PyArray_DIM(matrix, 1) == 0:
        raise ValueError(MATRIX_WANTED)
    return 0


cdef void scale(const float *given, float *unit, Py_ssize_t count, double square) noexcept nogil:
    """Divide each number by the norm. Both may be the same place."""
    cdef double norm = sqrt(square)
    cdef Py_ssize_t i
    for i in range(count):
        unit[i] = <float> (<double> given[i] / norm)


def unit_sums(matrix not None, list texts not None):
    """Add the rows of each text's tokens and scale the sums; see `_wire_reference.unit_sums`."""
    cdef Py_ssize_t tokens = 0, text, place = 0
    cdef cnp.npy_intp[2] shape
    cdef int64_t *ids
    cdef Py_ssize_t *ends
    cdef double *total
    check_matrix(matrix)
    shape[0], shape[1] = len(texts), cnp.PyArray_DIM(matrix, 1)
    for found in texts:
        tokens += len(<list> found)
    units = cnp.PyArray_EMPTY(2, shape, cnp.NPY_FLOAT32, 0)
    cdef const float *rows = <const float *> cnp.PyArray_DATA(matrix)
    cdef float *sums = <float *> cnp.PyArray_DATA(units)
    ids = <int64_t *> malloc((tokens + 1) * sizeof(int64_t))
    ends = <Py_ssize_t *> malloc((shape[0] + 1) * sizeof(Py_ssize_t))
    total = <double *> malloc(shape[1] * sizeof(double))
    try:
        if ids == NULL or ends == NULL or total == NULL:
            raise MemoryError
        for text in range(shape[0]):
            place = list_tokens(ids, place, tokens, <list> texts[text], cnp.PyArray_DIM(matrix, 0))
            ends[text] = place
        if tokens <= HELD_TOKENS:
            add_texts(rows, ids, ends, shape, total, sums)
        else:
            with nogil:
                add_texts(rows, ids, ends, shape, total, sums)
        return units
    finally:
        free(ids)
        free(ends)
        free(total)


cdef Py_ssize_t list_tokens(
    int64_t *ids, Py_ssize_t place, Py_ssize_t room, list tokens, Py_ssize_t count
) except -1:
    """Copy the tokens of a text behind those before; return where they end."""
    cdef int64_t token
    for found in tokens:
        token = found
        if not 0 <= token < count or place == room:
            raise IndexError(no_such_row(found))
        ids[place] = token
        place += 1
    return place


cdef void add_texts(
    const float *matrix, const int64_t *ids, const Py_ssize_t *ends, const cnp.npy_intp *shape, double *total,
    float *units
) noexcept nogil:
    """Write the sum of every text, scaled to norm 1."""
    cdef Py_ssize_t text, place = 0, i, width = shape[1]
    cdef const float *row
    cdef double square
    for text in range(shape[0]):
        for i in range(width):
            total[i] = 0.0
        while place < ends[text]:
            row = matrix + ids[place] * width
            for i in range(width):
                total[i] += row[i]
            place += 1
        for i in range(width):
            units[i] = <float> total[i]
        square = square_of(units, width)
        if has_direction(square):
            scale(units, units, width, square)
        else:
            for i in range(width):
                units[i] = i == 0
        units += width


def join_rows(tuple blocks not None, list rows not None, bytes texts not None, bytes between not None,
              bytes behind not None):
    """Lay the bytes of rows one behind the other; see `_wire_reference.join_rows`."""
    cdef Py_ssize_t count = len(rows), total
    cdef Piece *pieces
    if len(blocks) != 2:
        raise ValueError(BLOCKS_WANTED)
    pieces = <Piece *> malloc((2 * count + 1) * sizeof(Piece))
    if pieces == NULL:
        raise MemoryError
    try:
        total = find_rows(pieces, blocks[0], blocks[1], rows) + find_texts(pieces, texts, count)
        total += count * (PyBytes_GET_SIZE(between) + PyBytes_GET_SIZE(behind))
        joined = PyBytes_FromStringAndSize(NULL, total)
        write_pieces(PyBytes_AS_STRING(joined), pieces, count, between, behind)
        return joined
    finally:
        free(pieces)


cdef Py_ssize_t find_rows(Piece *pieces, tuple first, tuple second, list rows) except -1:
    """Note where the bytes of each row lie; return how many they are."""
    cdef cnp.ndarray first_bounds = first[0], first_data = first[1]
    cdef cnp.ndarray second_bounds = second[0], second_data = second[1]
    cdef cnp.ndarray bounds, data
    cdef Py_ssize_t place, i, start, end, total = 0
    check_block(first_bounds, first_data)
    check_block(second_bounds, second_data)
    for i in range(len(rows)):
        place = rows[i]
        bounds, data = first_bounds, first_data
        if place >= cnp.PyArray_DIM(bounds, 1):
            place -= cnp.PyArray_DIM(bounds, 1)
            bounds, data = second_bounds, second_data
        if not 0 <= place < cnp.PyArray_DIM(bounds, 1):
            raise IndexError(no_such_row(rows[i]))
        start = (<int64_t *> cnp.PyArray_GETPTR2(bounds, 0, place))[0]
        end = (<int64_t *> cnp.PyArray_GETPTR2(bounds, 1, place))[0]
        if not 0 <= start <= end <= cnp.PyArray_DIM(data, 0):
            raise ValueError(wrong_bounds(rows[i]))
        pieces[2 * i].start = <const char *> cnp.PyArray_DATA(data) + start
        pieces[2 * i].size = end - start
        total += end - start
    return total


cdef int check_block(cnp.ndarray bounds, cnp.ndarray data) except -1:
    """Raise ValueError unless these are bounds and data of one table."""
    if cnp.PyArray_TYPE(bounds) != cnp.NPY_INT64 or cnp.PyArray_NDIM(bounds) != 2 or not PyArray_ISBEHAVED_RO(bounds):
        raise ValueError(BOUNDS_WANTED)
    if cnp.PyArray_DIM(bounds, 0) != 2:
        raise ValueError(BOUNDS_WANTED)
    if not is_array(data, cnp.NPY_UINT8, 1):
        raise ValueError(DATA_WANTED)
    return 0


cdef Py_ssize_t find_texts(Piece *pieces, bytes texts, Py_ssize_t count) except -1:
    """Note where each text lies; return how many bytes they have."""
    cdef const char *start = PyBytes_AS_STRING(texts)
    cdef const char *end = start + PyBytes_GET_SIZE(texts)
    cdef const char *comma
    cdef Py_ssize_t i
    for i in range(count):
        comma = <const char *> memchr(start, c',', end - start)
        if (comma == NULL) != (i == count - 1):
            raise ValueError(texts_wanted(count))
        pieces[2 * i + 1].start = start
        pieces[2 * i + 1].size = (end if comma == NULL else comma) - start
        start = end if comma == NULL else comma + 1
    if start != end:
        raise ValueError(texts_wanted(count))
    return PyBytes_GET_SIZE(texts) - max(count - 1, 0)


cdef void write_pieces(char *to, const Piece *pieces, Py_ssize_t count, bytes between, bytes behind) noexcept:
    """Copy everything to its place."""
    cdef Py_ssize_t i
    for i in range(count):
        memcpy(to, pieces[2 * i].start, pieces[2 * i].size)
        to += pieces[2 * i].size
        memcpy(to, PyBytes_AS_STRING(between), PyBytes_GET_SIZE(between))
        to += PyBytes_GET_SIZE(between)
        memcpy(to, pieces[2 * i + 1].start, pieces[2 * i + 1].size)
        to += pieces[2 * i + 1].size
        memcpy(to, PyBytes_AS_STRING(behind), PyBytes_GET_SIZE(behind))
        to += PyBytes_GET_SIZE(behind)
