# cython: freethreading_compatible=True
# distutils: extra_compile_args = -ffp-contract=off
"""BM25 over rows that are terms; contracts and meaning stand in `_lexical_reference.py`.

A query is weighed first: its terms are looked up in the base and, through a small hash table, found in the tail, and
the live rows that have them are counted. Then each term adds to the scores of its rows, and one pass over all scores
keeps the best. Additions stand in the order of the reference, so that both twins agree to the last bit.
"""

from libc.math cimport log
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memset

cimport numpy as cnp

from memfast._native._arrays cimport is_array
from memfast._native._heap cimport ID_BYTES, HitById, offer, sort_best_first

from memfast._native._lexical_reference import (
    BASE_WANTED, BM25_B, BM25_K1, COUNT_MAX, IDS_WANTED, MASK_WANTED, ROWS_WANTED, TAIL_WANTED, TERMS_MAX,
    TERMS_WANTED, TWICE, WEIGHT_MAX, WEIGHT_MIN, WEIGHTS_WANTED, too_many,
)

cnp.import_array()

__all__ = ["Scored", "count_terms", "rank_terms"]

cdef double k1 = BM25_K1
cdef double b = BM25_B
cdef double weight_min = WEIGHT_MIN
cdef double weight_max = WEIGHT_MAX
cdef Py_ssize_t terms_max = TERMS_MAX
cdef int32_t count_max = COUNT_MAX

cdef enum:
    # Up to so many postings and rows, about 0.2 ms, the GIL is kept: two hand-overs of it cost a server's loop more.
    HELD_STEPS = 60000


cdef struct Base:
    const uint64_t *keys
    const int32_t *starts
    const int32_t *rows
    const uint8_t *counts
    const int32_t *lengths
    const uint8_t *live         # NULL: all rows are
    Py_ssize_t terms
    Py_ssize_t size


cdef struct Tail:
    const uint64_t *keys
    const int64_t *ends
    const uint8_t *live
    Py_ssize_t size


cdef struct Wanted:
    # A term of the query: its postings in the base, its matches in the tail, and the live rows of both that have it.
    uint64_t key
    double weight
    int64_t first
    int64_t last
    Py_ssize_t first_match
    Py_ssize_t last_match
    int64_t frequency


cdef struct Match:
    # A live row of the tail has a term so often.
    int32_t row
    int32_t term
    int32_t count


cdef class Work:
    """The memory of one query; freed with it."""

    cdef Wanted *wanted
    cdef int32_t *table         # places of terms + 1 by their hash, 0 where there is none
    cdef Match *matches         # in the order of the rows
    cdef Match *by_term         # the same in the order of the terms
    cdef double *scores
    cdef int32_t *hits          # the rows with a score, in the order in which they got it
    cdef HitById *best
    cdef Py_ssize_t found
    cdef Py_ssize_t terms
    cdef Py_ssize_t mask
    cdef Py_ssize_t matched
    cdef Py_ssize_t room
    cdef Py_ssize_t rows

    def __cinit__(self, Py_ssize_t terms, Py_ssize_t rows, Py_ssize_t k):
        self.terms = terms
        self.rows = rows
        self.mask = 255
        while self.mask < 4 * terms:
            self.mask = 2 * self.mask + 1
        self.wanted = <Wanted *> malloc((terms + 1) * sizeof(Wanted))
        self.table = <int32_t *> calloc(self.mask + 1, sizeof(int32_t))
        self.scores = <double *> calloc(rows + 1, sizeof(double))
        self.hits = <int32_t *> malloc((rows + 1) * sizeof(int32_t))
        self.best = <HitById *> malloc((k + 1) * sizeof(HitById))
        if not (self.wanted and self.table and self.scores and self.hits and self.best):
            raise MemoryError

    def scores_of(self, rows):
        """Return the scores of chosen rows; see `_lexical_reference.Scored.scores_of`."""
        cdef const int64_t *chosen = <const int64_t *> items(rows, cnp.NPY_INT64, ROWS_WANTED)
        cdef cnp.npy_intp shape = cnp.PyArray_DIM(rows, 0)
        cdef Py_ssize_t i
        scores = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_FLOAT64, 0)
        for i in range(shape):
            if not 0 <= chosen[i] < self.rows:
                raise ValueError(ROWS_WANTED)
            (<double *> cnp.PyArray_DATA(scores))[i] = self.scores[chosen[i]]
        return scores

    def frequencies(self):
        """Return how many live rows have each term; see `_lexical_reference.Scored.frequencies`."""
        cdef cnp.npy_intp shape = self.terms
        cdef Py_ssize_t term
        counts = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_INT64, 0)
        for term in range(self.terms):
            (<int64_t *> cnp.PyArray_DATA(counts))[term] = self.wanted[term].frequency
        return counts

    def __dealloc__(self):
        free(self.wanted)
        free(self.table)
        free(self.matches)
        free(self.by_term)
        free(self.scores)
        free(self.hits)
        free(self.best)


cdef const void *items(object array, int kind, str wanted) except? NULL:
    """Return where the items of an array of this type lie."""
    if not is_array(array, kind, 1):
        raise ValueError(wanted)
    return cnp.PyArray_DATA(array)


cdef int fill_mask(const uint8_t **mask, object array, Py_ssize_t size) except -1:
    """Point at the mask of a part, or at nothing where there is none."""
    mask[0] = NULL
    if array is None:
        return 0
    if not (is_array(array, cnp.NPY_BOOL, 1) or is_array(array, cnp.NPY_UINT8, 1)):
        raise ValueError(MASK_WANTED)
    if cnp.PyArray_DIM(array, 0) != size:
        raise ValueError(MASK_WANTED)
    mask[0] = <const uint8_t *> cnp.PyArray_DATA(array)
    return 0


cdef int fill_base(Base *base, object arrays, object live) except -1:
    """Check the inverted rows and point at them."""
    keys, starts, rows, counts, lengths = arrays
    base.keys = <const uint64_t *> items(keys, cnp.NPY_UINT64, BASE_WANTED)
    base.starts = <const int32_t *> items(starts, cnp.NPY_INT32, BASE_WANTED)
    base.rows = <const int32_t *> items(rows, cnp.NPY_INT32, BASE_WANTED)
    base.counts = <const uint8_t *> items(counts, cnp.NPY_UINT8, BASE_WANTED)
    base.lengths = <const int32_t *> items(lengths, cnp.NPY_INT32, BASE_WANTED)
    base.terms = cnp.PyArray_DIM(keys, 0)
    base.size = cnp.PyArray_DIM(lengths, 0)
    if cnp.PyArray_DIM(starts, 0) != base.terms + 1 or cnp.PyArray_DIM(rows, 0) != cnp.PyArray_DIM(counts, 0):
        raise ValueError(BASE_WANTED)
    return fill_mask(&base.live, live, base.size)


cdef int fill_tail(Tail *tail, object arrays, object live) except -1:
    """Check the rows as they came and point at them."""
    keys, ends = arrays
    tail.keys = <const uint64_t *> items(keys, cnp.NPY_UINT64, TAIL_WANTED)
    tail.ends = <const int64_t *> items(ends, cnp.NPY_INT64, TAIL_WANTED)
    tail.size = cnp.PyArray_DIM(ends, 0)
    if tail.size and tail.ends[tail.size - 1] > cnp.PyArray_DIM(keys, 0):
        raise ValueError(TAIL_WANTED)
    return fill_mask(&tail.live, live, tail.size)


cdef inline Py_ssize_t slot_of(Work work, uint64_t key) noexcept nogil:
    """Return the slot of the table where a term stands, or the free one where it would."""
    cdef Py_ssize_t slot = <Py_ssize_t> (key & <uint64_t> work.mask)
    while work.table[slot] and work.wanted[work.table[slot] - 1].key != key:
        slot = (slot + 1) & work.mask
    return slot


cdef int fill_wanted(Work work, object wanted, object weights) except -1:
    """Take over the query's terms, with their weights where there are some."""
    cdef const uint64_t *keys = <const uint64_t *> items(wanted, cnp.NPY_UINT64, TERMS_WANTED)
    cdef const double *weight = NULL
    cdef Py_ssize_t term, slot
    if weights is not None:
        weight = <const double *> items(weights, cnp.NPY_FLOAT64, TERMS_WANTED)
        if cnp.PyArray_DIM(wanted, 0) != cnp.PyArray_DIM(weights, 0):
            raise ValueError(TERMS_WANTED)
    for term in range(work.terms):
        slot = slot_of(work, keys[term])
        if work.table[slot]:
            raise ValueError(TWICE)
        memset(&work.wanted[term], 0, sizeof(Wanted))
        work.wanted[term].key = keys[term]
        if weight != NULL:
            work.wanted[term].weight = weight[term]
            if not weight_min <= weight[term] <= weight_max:
                raise ValueError(WEIGHTS_WANTED)
        work.table[slot] = <int32_t> term + 1
    return 0


cdef int64_t look_up(Work work, const Base *base) noexcept nogil:
    """Find the postings of each term in the base; return how many they are together."""
    cdef Py_ssize_t term, low, high, middle
    cdef int64_t postings = 0
    cdef Wanted *one
    for term in range(work.terms):
        one = &work.wanted[term]
        low, high = 0, base.terms
        while low < high:
            middle = (low + high) // 2
            if base.keys[middle] < one.key:
                low = middle + 1
            else:
                high = middle
        if low < base.terms and base.keys[low] == one.key:
            one.first = base.starts[low]
            one.last = base.starts[low + 1]
        postings += one.last - one.first
    return postings


cdef void count_base(Work work, const Base *base) noexcept nogil:
    """Count the live rows of the base that have each term."""
    cdef Py_ssize_t term
    cdef int64_t place, dead
    for term in range(work.terms):
        dead = 0
        if base.live != NULL:
            for place in range(work.wanted[term].first, work.wanted[term].last):
                dead += not base.live[base.rows[place]]
        work.wanted[term].frequency = work.wanted[term].last - work.wanted[term].first - dead


cdef int match_tail(Work work, const Tail *tail) noexcept nogil:
    """Note which live rows of the tail have which terms, and how often; -1: no memory."""
    cdef Py_ssize_t row
    cdef int64_t place
    cdef int32_t found
    cdef Wanted *one
    cdef const int32_t *table = work.table
    cdef const uint64_t *keys = tail.keys
    cdef uint64_t mask = work.mask
    for row in range(tail.size):
        if tail.live != NULL and not tail.live[row]:
            continue
        for place in range(tail.ends[row - 1] if row else 0, tail.ends[row]):
            if not table[keys[place] & mask]:  # most terms are not wanted
                continue
            found = table[slot_of(work, keys[place])]
            if not found:
                continue
            one = &work.wanted[found - 1]
            # Until the matches are in order, `last_match` is the latest one, plus 1.
            if not one.last_match or work.matches[one.last_match - 1].row != row:
                if work.matched == work.room and grow(work) < 0:
                    return -1
                work.matches[work.matched] = Match(<int32_t> row, found - 1, 0)
                work.matched += 1
                one.last_match = work.matched
                one.frequency += 1
            if work.matches[one.last_match - 1].count < count_max:
                work.matches[one.last_match - 1].count += 1
    return arrange(work)


cdef int grow(Work work) noexcept nogil:
    """Make room for more matches; -1: no memory."""
    cdef Py_ssize_t room = 2 * work.room + 64
    cdef Match *matches = <Match *> realloc(work.matches, room * sizeof(Match))
    if matches == NULL:
        return -1
    work.matches = matches
    work.room = room
    return 0


cdef int arrange(Work work) noexcept nogil:
    """Put the matches into the order of the terms; -1: no memory."""
    cdef Py_ssize_t i, term, start = 0
    cdef Wanted *one
    work.by_term = <Match *> malloc((work.matched + 1) * sizeof(Match))
    if work.by_term == NULL:
        return -1
    for term in range(work.terms):
        work.wanted[term].first_match = 0
    for i in range(work.matched):
        work.wanted[work.matches[i].term].first_match += 1
    for term in range(work.terms):
        one = &work.wanted[term]
        one.last_match = start  # and, when all have been put there, the end
        start += one.first_match
        one.first_match = one.last_match
    for i in range(work.matched):
        one = &work.wanted[work.matches[i].term]
        work.by_term[one.last_match] = work.matches[i]
        one.last_match += 1
    return 0


cdef int count_rows(Work work, const Base *base, const Tail *tail) noexcept nogil:
    """Count the live rows that have each term; -1: no memory."""
    count_base(work, base)
    return match_tail(work, tail)


cdef int score_all(Work work, const Base *base, const Tail *tail, int64_t rows, int64_t terms) noexcept nogil:
    """Write the score of every row; -1: no memory."""
    cdef double steady = k1 * (1.0 - b)
    cdef double per_length = k1 * b / (<double> terms / <double> rows) if terms else 0.0
    cdef double factor, count, length
    cdef double *scores = work.scores
    cdef int32_t *hits = work.hits
    cdef Py_ssize_t term, i, found = 0, room = work.rows
    cdef int64_t place
    cdef int32_t row
    cdef Wanted *one
    if count_rows(work, base, tail) < 0:
        return -1
    for term in range(work.terms):
        one = &work.wanted[term]
        factor = log(1.0 + (rows - one.frequency + 0.5) / (one.frequency + 0.5))
        factor = one.weight * factor * (k1 + 1.0)
        for place in range(one.first, one.last):
            row = base.rows[place]
            if base.live == NULL or base.live[row]:
                hits[found] = row
                found += (scores[row] == 0.0) & (found < room)  # `and` would be a branch, often guessed wrong
                count = base.counts[place]
                scores[row] += factor * count / (count + (steady + per_length * base.lengths[row]))
        for i in range(one.first_match, one.last_match):
            row = work.by_term[i].row
            count = work.by_term[i].count
            length = <double> (tail.ends[row] - (tail.ends[row - 1] if row else 0))
            hits[found] = <int32_t> (base.size + row)
            found += (scores[base.size + row] == 0.0) & (found < room)
            scores[base.size + row] += factor * count / (count + (steady + per_length * length))
    work.found = found
    return 0


cdef int score_parts(Work work, const Base *base, const Tail *tail, object total) except -1:
    """Write the score of every row, without the GIL where that takes long."""
    cdef int64_t rows, terms
    cdef int64_t steps = look_up(work, base) + work.rows + (tail.ends[tail.size - 1] if tail.size else 0)
    cdef int outcome
    rows, terms = total
    if steps <= HELD_STEPS:
        outcome = score_all(work, base, tail, rows, terms)
    else:
        with nogil:
            outcome = score_all(work, base, tail, rows, terms)
    if outcome < 0:
        raise MemoryError
    return 0


cdef struct Finding:
    # Of one part: the number of its first row, its ids, and the rows that may be found.
    Py_ssize_t first
    const char *ids
    const uint8_t *passing


cdef Py_ssize_t keep_best(Work work, Py_ssize_t k, const Finding *base, const Finding *tail) noexcept nogil:
    """Rank the hits; return how many rows stand in `best`, in order."""
    cdef HitById *heap = work.best
    cdef const Finding *part
    cdef HitById one
    cdef Py_ssize_t i, row, size = 0
    cdef double floor = 0.0
    for i in range(work.found if k else 0):
        one.row = work.hits[i]
        one.score = work.scores[one.row]
        if one.score < floor:
            continue
        part = base if one.row < tail.first else tail
        row = one.row - part.first
        if part.passing != NULL and not part.passing[row]:
            continue
        one.id = part.ids + row * ID_BYTES
        offer(heap, &size, k, one)
        if size == k:
            floor = heap[0].score
    sort_best_first(heap, size)
    return size


cdef const char *ids_of(object ids, Py_ssize_t size) except NULL:
    """Return where the ids of a part lie."""
    if not is_array(ids, cnp.NPY_STRING, 1) or cnp.PyArray_ITEMSIZE(ids) != ID_BYTES:
        raise ValueError(IDS_WANTED)
    if cnp.PyArray_DIM(ids, 0) != size:
        raise ValueError(IDS_WANTED)
    return <const char *> cnp.PyArray_DATA(ids)


cdef Work begin(Base *base, Tail *tail, object arrays, object rows, object wanted, object weights, object live,
                Py_ssize_t k):
    """Check what every query brings and make room for it."""
    base_live, tail_live = live
    fill_base(base, arrays, base_live)
    fill_tail(tail, rows, tail_live)
    items(wanted, cnp.NPY_UINT64, TERMS_WANTED)
    cdef Py_ssize_t terms = cnp.PyArray_DIM(wanted, 0)
    if terms > terms_max:
        raise ValueError(too_many(terms))
    cdef Work work = Work(terms, base.size + tail.size, min(k, base.size + tail.size))
    fill_wanted(work, wanted, weights)
    return work


def rank_terms(base, tail, wanted, weights, Py_ssize_t k, *, ids, live=(None, None), passing=(None, None), total):
    """Rank the rows that have a wanted term; see `_lexical_reference.rank_terms`."""
    if k < 0:
        raise ValueError(f"k is {k}; it must be 0 or more")
    cdef Base inverted
    cdef Tail forward
    cdef Work work = begin(&inverted, &forward, base, tail, wanted, weights, live, k)
    cdef Finding first = Finding(0, NULL, NULL)
    cdef Finding later = Finding(inverted.size, NULL, NULL)
    base_ids, tail_ids = ids
    base_passing, tail_passing = passing
    first.ids = ids_of(base_ids, inverted.size)
    later.ids = ids_of(tail_ids, forward.size)
    fill_mask(&first.passing, base_passing, inverted.size)
    fill_mask(&later.passing, tail_passing, forward.size)
    score_parts(work, &inverted, &forward, total)
    cdef Py_ssize_t i, size = keep_best(work, min(k, work.rows), &first, &later)
    cdef cnp.npy_intp shape = size
    rows = cnp.PyArray_EMPTY(1, &shape, cnp.NPY_INT64, 0)
    for i in range(size):
        (<int64_t *> cnp.PyArray_DATA(rows))[i] = work.best[i].row
    return rows, work


def count_terms(base, tail, wanted, *, live=(None, None)):
    """Count the live rows that have each term; see `_lexical_reference.count_terms`."""
    cdef Base inverted
    cdef Tail forward
    cdef Work work = begin(&inverted, &forward, base, tail, wanted, None, live, 0)
    look_up(work, &inverted)
    if count_rows(work, &inverted, &forward) < 0:
        raise MemoryError
    return work.frequencies()


Scored = Work
