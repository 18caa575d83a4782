# cython: freethreading_compatible=True
"""Who stood beside whom; contracts and meaning stand in `_runs_reference.py`.

In the base a row's place is found by bisection, and its neighbours by walking from there. The tail is short and read
as a whole for each row.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcmp, memmove

cimport numpy as cnp

from memfast._native._arrays cimport is_array

from memfast._native._runs_reference import COLUMNS_WANTED, ORDER_WANTED, REACH_MAX, REACH_WANTED, ROWS_WANTED

cnp.import_array()

__all__ = ["neighbours"]

cdef Py_ssize_t reach_max = REACH_MAX

cdef enum:
    # Up to so many rows that are looked at, about 0.2 ms, the GIL is kept.
    HELD_STEPS = 100000
    ID_BYTES = 16


cdef struct Columns:
    const int32_t *runs
    const int64_t *created
    const char *ids
    const uint8_t *passing      # NULL: all rows do
    Py_ssize_t size
    Py_ssize_t first            # the number of its first row


cdef struct Row:
    int64_t number
    int64_t created
    const char *id


cdef int fill(Columns *columns, object arrays, Py_ssize_t first) except -1:
    """Check the columns of a part and point at them."""
    runs, created, ids, passing = arrays
    if not (is_array(runs, cnp.NPY_INT32, 1) and is_array(created, cnp.NPY_INT64, 1)):
        raise ValueError(COLUMNS_WANTED)
    if not is_array(ids, cnp.NPY_STRING, 1):
        raise ValueError(COLUMNS_WANTED)
    columns.size = cnp.PyArray_DIM(runs, 0)
    if cnp.PyArray_DIM(created, 0) != columns.size or cnp.PyArray_DIM(ids, 0) != columns.size:
        raise ValueError(COLUMNS_WANTED)
    if cnp.PyArray_ITEMSIZE(ids) != ID_BYTES:
        raise ValueError(COLUMNS_WANTED)
    columns.runs = <const int32_t *> cnp.PyArray_DATA(runs)
    columns.created = <const int64_t *> cnp.PyArray_DATA(created)
    columns.ids = <const char *> cnp.PyArray_DATA(ids)
    columns.passing = NULL
    columns.first = first
    if passing is not None:
        if not (is_array(passing, cnp.NPY_BOOL, 1) or is_array(passing, cnp.NPY_UINT8, 1)):
            raise ValueError(COLUMNS_WANTED)
        if cnp.PyArray_DIM(passing, 0) != columns.size:
            raise ValueError(COLUMNS_WANTED)
        columns.passing = <const uint8_t *> cnp.PyArray_DATA(passing)
    return 0


cdef inline Row row_of(const Columns *columns, Py_ssize_t place) noexcept nogil:
    """Return what orders a row of a part."""
    return Row(columns.first + place, columns.created[place], columns.ids + place * ID_BYTES)


cdef inline bint is_before(Row one, Row other) noexcept nogil:
    """Say whether the first stands earlier in their run."""
    if one.created != other.created:
        return one.created < other.created
    return memcmp(one.id, other.id, ID_BYTES) < 0


cdef inline bint passes(const Columns *columns, Py_ssize_t place) noexcept nogil:
    """Say whether a row of a part may be found."""
    return columns.passing == NULL or columns.passing[place]


cdef Py_ssize_t place_of(const Columns *base, const int32_t *order, int32_t run, Row row) noexcept nogil:
    """Return how many rows of the base stand before a row, by (run, created, id)."""
    cdef Py_ssize_t low = 0, high = base.size, middle
    cdef int32_t other
    while low < high:
        middle = (low + high) // 2
        other = order[middle]
        if base.runs[other] < run or (base.runs[other] == run and is_before(row_of(base, other), row)):
            low = middle + 1
        else:
            high = middle
    return low


cdef void insert(Row *nearest, Py_ssize_t *size, Py_ssize_t reach, Row row, bint rising) noexcept nogil:
    """Put a row among the nearest on one side, nearest first, if it is one of them."""
    cdef Py_ssize_t at = size[0]
    while at > 0 and is_before(row, nearest[at - 1]) == rising:
        at -= 1
    if at == reach:
        return
    memmove(&nearest[at + 1], &nearest[at], (min(size[0], reach - 1) - at) * sizeof(Row))
    nearest[at] = row
    size[0] = min(size[0] + 1, reach)


cdef void find(const Columns *base, const int32_t *order, const Columns *tail, int32_t run, Row row,
               Py_ssize_t reach, int64_t *column, Py_ssize_t stride) noexcept nogil:
    """Write the neighbours of one row, each `stride` numbers behind the one before."""
    cdef Row[16] before
    cdef Row[16] after
    cdef Py_ssize_t befores = 0, afters = 0, i, place = place_of(base, order, run, row)
    i = place - 1
    while i >= 0 and befores < reach and base.runs[order[i]] == run:
        if passes(base, order[i]):
            before[befores] = row_of(base, order[i])
            befores += 1
        i -= 1
    i = place
    while i < base.size and afters < reach and base.runs[order[i]] == run:
        if passes(base, order[i]) and order[i] != row.number:
            after[afters] = row_of(base, order[i])
            afters += 1
        i += 1
    for i in range(tail.size):
        if tail.runs[i] != run or tail.first + i == row.number or not passes(tail, i):
            continue
        if is_before(row_of(tail, i), row):
            insert(before, &befores, reach, row_of(tail, i), False)
        elif is_before(row, row_of(tail, i)):
            insert(after, &afters, reach, row_of(tail, i), True)
    for i in range(reach):
        column[2 * i * stride] = before[i].number if i < befores else -1
        column[(2 * i + 1) * stride] = after[i].number if i < afters else -1


cdef void find_all(const Columns *base, const int32_t *order, const Columns *tail, const int64_t *rows,
                   Py_ssize_t count, Py_ssize_t reach, int64_t *found) noexcept nogil:
    """Write the neighbours of all rows."""
    cdef const Columns *part
    cdef Py_ssize_t i, j, place
    for i in range(count):
        part = base if rows[i] < base.size else tail
        place = rows[i] - part.first
        if part.runs[place] < 0:
            for j in range(2 * reach):
                found[j * count + i] = -1
        else:
            find(base, order, tail, part.runs[place], row_of(part, place), reach, found + i, count)


def neighbours(base, order, tail, rows, Py_ssize_t reach):
    """Find the rows that stand nearest in their runs; see `_runs_reference.neighbours`."""
    cdef Columns first, later
    fill(&first, base, 0)
    fill(&later, tail, first.size)
    if not is_array(order, cnp.NPY_INT32, 1) or cnp.PyArray_DIM(order, 0) != first.size:
        raise ValueError(ORDER_WANTED)
    if not is_array(rows, cnp.NPY_INT64, 1):
        raise ValueError(ROWS_WANTED)
    if not 1 <= reach <= reach_max:
        raise ValueError(REACH_WANTED)
    cdef const int32_t *ordered = <const int32_t *> cnp.PyArray_DATA(order)
    cdef const int64_t *numbers = <const int64_t *> cnp.PyArray_DATA(rows)
    cdef Py_ssize_t count = cnp.PyArray_DIM(rows, 0), i
    for i in range(count):
        if not 0 <= numbers[i] < first.size + later.size:
            raise ValueError(ROWS_WANTED)
    cdef cnp.npy_intp[2] shape = [2 * reach, count]
    table = cnp.PyArray_EMPTY(2, shape, cnp.NPY_INT64, 0)
    cdef int64_t *found = <int64_t *> cnp.PyArray_DATA(table)
    if count * later.size <= HELD_STEPS:
        find_all(&first, ordered, &later, numbers, count, reach, found)
    else:
        with nogil:
            find_all(&first, ordered, &later, numbers, count, reach, found)
    return table
