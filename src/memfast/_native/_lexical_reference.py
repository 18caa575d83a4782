"""BM25 over rows that are terms: the readable twin of `_lexical.pyx`, its type declaration and its judge.

A term is a number of 64 bits. Rows come in two parts, numbered one behind the other:

* the base, inverted: `(keys, starts, rows, counts, lengths)`. Term `keys[t]`, rising, stands in the rows
  `rows[starts[t]:starts[t + 1]]`, each once, in any order, as often as `counts` beside them says, 255 at most;
  row r has `lengths[r]` terms in all.
* the tail, as it came: `(keys, ends)`. Row r has the terms `keys[ends[r - 1]:ends[r]]`, each as often as it occurs.

A row's score is the sum over the wanted terms, in their order, of

    weight · idf · count · (K1 + 1) / (count + K1 · (1 - B + B · length / mean length))
    idf = ln(1 + (N - df + 0.5) / (df + 0.5))

(Robertson and Zaragoza 2009, with the idf that stays positive.) N, df and the mean length are those of the live rows,
counted anew at each query, so that a score does not tell what was deleted, nor in which part a row stands: it is the
same to the last bit however the rows are spread over base and tail.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["BM25_B", "BM25_K1", "COUNT_MAX", "Scored", "count_terms", "rank_terms"]

BM25_K1 = 0.9
"""How slowly a term's further occurrences stop counting."""
BM25_B = 0.4
"""How much longer rows count less, 0 to 1."""
COUNT_MAX = 255
"""A term that occurs more often in a row counts so often."""
WEIGHT_MIN, WEIGHT_MAX = 1e-9, 1e9
"""Bounds of a term's weight, between which no sum is lost or overflows."""
TERMS_MAX = 65_536
"""The most terms of a query."""

BASE_WANTED = (
    "base must be C-contiguous arrays (keys uint64 (v,), starts int32 (v + 1,), rows int32 (e,), counts uint8 (e,), "
    "lengths int32 (n,))"
)
TAIL_WANTED = "tail must be C-contiguous arrays (keys uint64 (e,), ends int64 (m,))"
TERMS_WANTED = "wanted and weights must be C-contiguous arrays uint64 (t,) and float64 (t,)"
IDS_WANTED = "ids must be C-contiguous S16 arrays (n,) and (m,)"
MASK_WANTED = "a mask must be a C-contiguous bool or uint8 array, one entry for each row of its part, or None"
ROWS_WANTED = "rows must be a C-contiguous int64 array of numbers from 0 to n + m - 1"
WEIGHTS_WANTED = f"weights must be from {WEIGHT_MIN} to {WEIGHT_MAX}"
TWICE = "a term is wanted twice; add up its weights"

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Float64s = npt.NDArray[np.float64]
Ids = npt.NDArray[np.bytes_]
Mask = npt.NDArray[np.bool_] | npt.NDArray[np.uint8]
Masks = tuple[Mask | None, Mask | None]
Inverted = tuple[Keys, Int32s, Int32s, npt.NDArray[np.uint8], Int32s]
Forward = tuple[Keys, Rows]


class Scored:
    """What a ranking knows of all rows."""

    def __init__(self, scores: Float64s, counts: Rows) -> None:
        self._scores = scores
        self._counts = counts

    def scores_of(self, rows: Rows) -> Float64s:
        """Return the scores of chosen rows, float64 (r,), 0 where a row has none of the terms or is not live.

        Args:
            rows: int64 (r,), in any order.

        Raises:
            ValueError: another dtype, rank or layout, or a row is out of range.
        """
        if not is_array(rows, np.int64, 1) or ((rows < 0) | (rows >= len(self._scores))).any():
            raise ValueError(ROWS_WANTED)
        return self._scores[rows]

    def frequencies(self) -> Rows:
        """Return how many live rows have each wanted term, int64 (t,), as `count_terms` does."""
        return self._counts


def rank_terms(
    base: Inverted,
    tail: Forward,
    wanted: Keys,
    weights: Float64s,
    k: int,
    *,
    ids: tuple[Ids, Ids],
    live: Masks = (None, None),
    passing: Masks = (None, None),
    total: tuple[int, int],
) -> tuple[Rows, Scored]:
    """Rank the rows that have at least one of the wanted terms.

    Args:
        base: n inverted rows.
        tail: m rows as they came.
        wanted: uint64 (t,), each once, `TERMS_MAX` at most.
        weights: float64 (t,), from `WEIGHT_MIN` to `WEIGHT_MAX`.
        k: rows wanted, 0 or more.
        ids: S16 of the rows of both parts.
        live: of each part, bool or uint8: the rows that are there. None: all are.
        passing: of each part, those of the live rows that may be found. None: all live ones.
        total: how many rows are live, and how many terms they have together.

    Returns:
        `(rows, scored)`: int64, at most k, in the order (score falling, id rising), rows of the tail numbered from n;
        and what else was found on the way.

    Raises:
        ValueError: an array has another dtype, shape or layout, a term is wanted twice, there are too many of
            them, a weight is out of bounds, or `k` is negative.
    """
    if k < 0:
        raise ValueError(f"k is {k}; it must be 0 or more")
    scores = all_scores(base, tail, wanted, weights, live, total)
    parts = (len(base[4]), len(tail[1]))
    if not all(is_array(each, "S16", 1) and len(each) == rows for each, rows in zip(ids, parts, strict=True)):
        raise ValueError(IDS_WANTED)
    hits = np.flatnonzero((scores > 0.0) & np.concatenate([*map(checked_mask, passing, parts)]))
    order = np.argsort(np.concatenate(ids)[hits], kind="stable")
    hits = hits[order]
    hits = hits[np.argsort(-scores[hits], kind="stable")][:k]
    return hits.astype(np.int64), Scored(scores, count_terms(base, tail, wanted, live=live))


def count_terms(base: Inverted, tail: Forward, wanted: Keys, *, live: Masks = (None, None)) -> Rows:
    """Count the live rows that have each term.

    Args:
        base: as in `rank_terms`.
        tail: likewise.
        wanted: likewise.
        live: likewise.

    Returns:
        int64 (t,).

    Raises:
        ValueError: as `rank_terms`.
    """
    there = live_rows(base, tail, live)
    check_terms(wanted, np.ones(len(wanted)))
    return np.array([int(np.count_nonzero(there[rows])) for rows, _ in postings(base, tail, wanted)], np.int64)


def all_scores(
    base: Inverted, tail: Forward, wanted: Keys, weights: Float64s, live: Masks, total: tuple[int, int]
) -> Float64s:
    """Score every row of both parts; those that are not live get 0."""
    there = live_rows(base, tail, live)
    check_terms(wanted, weights)
    steady, per_length = BM25_K1 * (1.0 - BM25_B), BM25_K1 * BM25_B / (total[1] / total[0]) if total[1] else 0.0
    damping = steady + per_length * np.concatenate((base[4], np.diff(tail[1], prepend=0))).astype(np.float64)
    scores = np.zeros(len(there))
    for (rows, counts), weight in zip(postings(base, tail, wanted), weights.tolist(), strict=True):
        holders, count = rows[there[rows]], counts[there[rows]]
        frequency = float(len(holders))
        idf = math.log(1.0 + (total[0] - frequency + 0.5) / (frequency + 0.5))
        scores[holders] += weight * idf * (BM25_K1 + 1.0) * count / (count + damping[holders])
    return scores


def postings(base: Inverted, tail: Forward, wanted: Keys) -> list[tuple[Rows, Float64s]]:
    """List for each term the rows of both parts that have it, and how often."""
    keys, starts, rows, counts, lengths = base
    ends = tail[1]
    tail_rows = np.repeat(np.arange(len(ends)) + len(lengths), np.diff(ends, prepend=0))
    tail_keys = tail[0][: len(tail_rows)]
    found = []
    for key in wanted:
        place = int(np.searchsorted(keys, key))
        there = place < len(keys) and keys[place] == key
        part = slice(starts[place], starts[place + 1]) if there else slice(0)
        later, later_counts = np.unique(tail_rows[tail_keys == key], return_counts=True)
        count = np.concatenate((counts[part], np.minimum(later_counts, COUNT_MAX))).astype(np.float64)
        found.append((np.concatenate((rows[part].astype(np.int64), later)), count))
    return found


def live_rows(base: Inverted, tail: Forward, live: Masks) -> npt.NDArray[np.bool_]:
    """Check both parts and return which of their rows are live."""
    check_base(base)
    check_tail(tail)
    return np.concatenate([*map(checked_mask, live, (len(base[4]), len(tail[1])))])


def check_base(base: Inverted) -> None:
    """Raise ValueError unless these can be inverted rows."""
    kinds = (np.uint64, np.int32, np.int32, np.uint8, np.int32)
    if not all(is_array(array, kind, 1) for array, kind in zip(base, kinds, strict=True)):
        raise ValueError(BASE_WANTED)
    keys, starts, rows, counts, _ = base
    if len(starts) != len(keys) + 1 or len(rows) != len(counts):
        raise ValueError(BASE_WANTED)


def check_tail(tail: Forward) -> None:
    """Raise ValueError unless these can be rows as they came."""
    keys, ends = tail
    if not is_array(keys, np.uint64, 1) or not is_array(ends, np.int64, 1) or (ends[-1:] > len(keys)).any():
        raise ValueError(TAIL_WANTED)


def check_terms(wanted: Keys, weights: Float64s) -> None:
    """Raise ValueError unless these are terms with their weights, each once."""
    if not is_array(wanted, np.uint64, 1) or not is_array(weights, np.float64, 1) or len(wanted) != len(weights):
        raise ValueError(TERMS_WANTED)
    if len(np.unique(wanted)) < len(wanted):
        raise ValueError(TWICE)
    if not ((weights >= WEIGHT_MIN) & (weights <= WEIGHT_MAX)).all():
        raise ValueError(WEIGHTS_WANTED)
    if len(wanted) > TERMS_MAX:
        raise ValueError(too_many(len(wanted)))


def too_many(terms: int) -> str:
    """Say that a query is too long."""
    return f"{terms} terms are wanted; {TERMS_MAX} are the most"


def checked_mask(mask: Mask | None, rows: int) -> npt.NDArray[np.bool_]:
    """Return the mask of a part as booleans."""
    if mask is None:
        return np.ones(rows, np.bool_)
    if not (is_array(mask, np.bool_, 1) or is_array(mask, np.uint8, 1)) or len(mask) != rows:
        raise ValueError(MASK_WANTED)
    return mask.astype(np.bool_)


def is_array(array: object, dtype: npt.DTypeLike, dimensions: int) -> bool:
    """Say whether this is a native, aligned, C-contiguous array of this type and rank."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype == dtype
        and array.dtype.isnative
        and array.ndim == dimensions
        and array.flags.c_contiguous
        and array.flags.aligned
    )
