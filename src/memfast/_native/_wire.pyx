# cython: freethreading_compatible=True
"""What is done to the numbers and bytes of every search, in one pass each; contracts stand in `_wire_reference.py`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy

cimport numpy as cnp

from memfast._native._wire_reference import (
    BLOCKS_WANTED, BOUNDS_WANTED, DATA_WANTED, SIZE_WANTED, SQUARE_MIN, no_such_row, texts_wanted, wrong_bounds,
)

cnp.import_array()

__all__ = ["join_rows", "unit_vector"]

cdef extern from "numpy/arrayobject.h":
    bint PyArray_ISCARRAY_RO(cnp.ndarray array)
    bint PyArray_ISBEHAVED_RO(cnp.ndarray array)

cdef enum:
    LANES = 8

cdef double c_square_min = SQUARE_MIN


cdef struct Piece:
    const char *start
    Py_ssize_t size


def unit_vector(bytes raw not None):
    """Scale a vector to norm 1; see `_wire_reference.unit_vector`."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(raw), i, j
    cdef const float *given = <const float *> PyBytes_AS_STRING(raw)
    cdef double[LANES] lane
    cdef double norm, square
    cdef cnp.npy_intp count = size // 4
    cdef float *unit
    if size % 4:
        raise ValueError(SIZE_WANTED)
    for j in range(LANES):
        lane[j] = 0.0
    for i in range(0, count - LANES + 1, LANES):
        for j in range(LANES):
            lane[j] += <double> given[i + j] * <double> given[i + j]
    for i in range(count - count % LANES, count):
        lane[i % LANES] += <double> given[i] * <double> given[i]
    square = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]))
    if not (c_square_min < square < INFINITY):
        return None
    norm = sqrt(square)
    scaled = cnp.PyArray_EMPTY(1, &count, cnp.NPY_FLOAT32, 0)
    unit = <float *> cnp.PyArray_DATA(scaled)
    for i in range(count):
        unit[i] = <float> (<double> given[i] / norm)
    return scaled


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
    if cnp.PyArray_TYPE(data) != cnp.NPY_UINT8 or cnp.PyArray_NDIM(data) != 1 or not PyArray_ISCARRAY_RO(data):
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
