"""Who stood beside whom: the readable twin of `_runs.pyx`, its type declaration and its judge.

Rows belong to runs, and a run is in order of time. Rows come in two parts, numbered one behind the other, each as
columns `(runs, created, ids, passing)`: int32, int64, S16, and bool, uint8 or None. A row of a negative run belongs to
none. Of the first part it is known in which order its rows stand by (run, created, id).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["REACH_MAX", "neighbours"]

REACH_MAX = 16
"""The farthest neighbours that can be asked for."""

COLUMNS_WANTED = (
    "columns must be C-contiguous arrays (runs int32 (n,), created int64 (n,), ids S16 (n,), passing bool or uint8 "
    "(n,) or None)"
)
ORDER_WANTED = "order must be a C-contiguous int32 array of the n rows of the base"
ROWS_WANTED = "rows must be a C-contiguous int64 array of numbers from 0 to n + m - 1"
REACH_WANTED = f"reach must be from 1 to {REACH_MAX}"

Rows = npt.NDArray[np.int64]
Int32s = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_] | npt.NDArray[np.uint8]
Columns = tuple[Int32s, Rows, npt.NDArray[np.bytes_], Mask | None]


def neighbours(base: Columns, order: Int32s, tail: Columns, rows: Rows, reach: int) -> Rows:
    """Find the rows that stand nearest to others in their runs, by (created, id).

    Args:
        base: n rows.
        order: int32 (n,), the rows of the base by (run, created, id).
        tail: m rows, in any order.
        rows: int64 (r,), the rows whose neighbours are wanted. They need not pass.
        reach: how many on each side.

    Returns:
        int64 (2 · reach, r): the rows 1 before, 1 after, 2 before, 2 after and so on, among those of the run that pass;
        -1 where there is none. Rows of the tail are numbered from n.

    Raises:
        ValueError: an array has another dtype, shape or layout, or a row or the reach is out of range.
    """
    parts = [checked(each) for each in (base, tail)]
    size = len(parts[0][0])
    if not is_array(order, np.int32, 1) or len(order) != size:
        raise ValueError(ORDER_WANTED)
    if not is_array(rows, np.int64, 1) or ((rows < 0) | (rows >= size + len(parts[1][0]))).any():
        raise ValueError(ROWS_WANTED)
    if not 1 <= reach <= REACH_MAX:
        raise ValueError(REACH_WANTED)
    runs, created, ids, passing = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    keys = [(int(time), bytes(each).ljust(16, b"\0")) for time, each in zip(created, ids, strict=True)]
    found = np.full((2 * reach, len(rows)), -1, np.int64)
    for column, row in enumerate(rows.tolist()):
        if runs[row] < 0:
            continue
        others = [int(other) for other in np.flatnonzero((runs == runs[row]) & passing) if other != row]
        others.sort(key=keys.__getitem__)
        before = [other for other in others if keys[other] < keys[row]][-reach:]
        after = [other for other in others if keys[other] > keys[row]][:reach]
        found[: 2 * len(before) : 2, column] = before[::-1]
        found[1 : 2 * len(after) : 2, column] = after
    return found


def checked(columns: Columns) -> tuple[Int32s, Rows, npt.NDArray[np.bytes_], Mask]:
    """Return the columns of a part with a mask, or raise ValueError where they cannot be such."""
    runs, created, ids, passing = columns
    if passing is None:
        passing = np.ones(len(runs), np.bool_)
    fits = is_array(runs, np.int32, 1) and is_array(created, np.int64, 1) and is_array(ids, "S16", 1)
    if not fits or not (is_array(passing, np.bool_, 1) or is_array(passing, np.uint8, 1)):
        raise ValueError(COLUMNS_WANTED)
    if not len(runs) == len(created) == len(ids) == len(passing):
        raise ValueError(COLUMNS_WANTED)
    return runs, created, ids, passing


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
