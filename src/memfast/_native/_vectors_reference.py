"""Exact ranking of unit vectors: the readable twin of `_vectors.pyx`, its type declaration and its judge.

All vectors are free of NaN and infinity, and rows are not longer than `NORM_MAX`: the caller promises it.

Every sum of `top_k` is taken in float64 over eight lanes: lane `j` adds the products of the columns `j`,
`j + 8`, `j + 16`, … in this order, and the lanes are added as a tree. A product of two float32 is exact in
float64, so only the order of the additions decides about the last bit, and both twins use this one: they
agree to the byte.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "LANES",
    "NORM_MAX",
    "SCORE_DECIMALS",
    "quantise",
    "scan",
    "scan_int8",
    "search_rows",
    "simd",
    "simd_levels",
    "top_k",
    "use_simd",
]

SCORE_DECIMALS = 6
"""Scores are rounded to this many decimals, half to even, before they are compared."""
LANES = 8
"""Partial sums of a float64 dot product."""

NORM_MAX = 1.001
"""The longest row that the bounds of `search_rows` and of the int8 pass hold for."""
WIDTH_MAX = 65_536
"""The most columns whose int8 products fit an int32 sum."""
ROUNDING_MARGIN = 1.5e-6
"""Two scores further apart than this cannot be rounded to the same value, nor change places."""
ZERO_SURE = 0.4e-6
"""A score below this is surely rounded to zero."""
SIMD_LEVELS = ("numpy",)

MATRIX_WANTED = "matrix must be a C-contiguous float32 array (n, d); numpy.ascontiguousarray makes one"
QUERY_WANTED = "query must be a C-contiguous float32 array (d,); numpy.ascontiguousarray makes one"
MASK_WANTED = "mask must be a C-contiguous bool or uint8 array (n,), one entry for each row of the matrix"
CODES_WANTED = "codes must be a C-contiguous int8 array (n, d), as quantise(matrix) makes it"
SCALE_WANTED = "scale and residual_norm must be C-contiguous float32 arrays (n,), as quantise(matrix) makes them"

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_] | npt.NDArray[np.uint8]
Quantised = tuple[Codes, Float32s, Float32s]


def top_k(matrix: Float32s, query: Float32s, k: int) -> tuple[Rows, Float64s]:
    """Rank all rows of a matrix exactly.

    Args:
        matrix: float32 (n, d), C-contiguous.
        query: float32 (d,), C-contiguous.
        k: rows wanted, 0 or more.

    Returns:
        `(rows, scores)`, int64 and float64, both of length min(k, n), in the order (score descending, row
        ascending). A score is the float64 dot product, rounded to 1e-6 half to even, and 0 where negative.

    Raises:
        ValueError: an array has another dtype, shape or layout, or `k` is negative.
    """
    check_arrays(matrix, query, k)
    scores = exact_scores(matrix, query)
    order = np.lexsort((np.arange(len(scores)), -scores))[:k]
    return order.astype(np.int64), scores[order]


def scan(matrix: Float32s, query: Float32s, k: int, mask: Mask | None = None) -> tuple[Rows, Float32s]:
    """Rank the rows that pass the mask by a score that is good to float32.

    Args:
        matrix: float32 (n, d), C-contiguous.
        query: float32 (d,), C-contiguous.
        k: rows wanted, 0 or more.
        mask: bool or uint8 (n,); only rows with a true entry take part. None: all do.

    Returns:
        `(rows, scores)`, int64 and float32, of length min(k, rows that pass), in the order (score descending,
        row ascending). Scores are neither rounded nor cut at zero; equal rows have equal scores. Last bits
        differ between the twins and between instruction sets: what is shown comes from `search_rows`.

    Raises:
        ValueError: an array has another dtype, shape or layout, or `k` is negative.
    """
    check_arrays(matrix, query, k)
    return best_float32(matrix, query, k, rows_that_pass(matrix, mask))


def scan_int8(
    matrix: Float32s, quantised: Quantised, query: Float32s, k: int, mask: Mask | None = None
) -> tuple[Rows, Float32s]:
    """Answer exactly as `scan` does, reading a quarter of the memory.

    With q' and x' for what the int8 codes stand for, q.x = q'.x' + q'.(x - x') + (q - q').x, so q'.x' is off
    by |q'| |x - x'| + |q - q'| |x| at most. Every row whose upper bound reaches the k-th best lower bound is
    scored again from its float32 values.

    Args:
        matrix: float32 (n, d), C-contiguous, rows not longer than `NORM_MAX`.
        quantised: what `quantise(matrix)` returned, or the first n rows of larger arrays.
        query: float32 (d,), C-contiguous, of any length.
        k: rows wanted, 0 or more.
        mask: as in `scan`.

    Returns:
        As `scan`.

    Raises:
        ValueError: as `scan`, or the codes are not those of such a matrix.
    """
    check_arrays(matrix, query, k)
    rows = rows_that_pass(matrix, mask)
    codes, scale, residual_norm = check_quantised(matrix, quantised)
    query_codes, query_scale, missed_norm = codes_of(query[None, :])
    stand_in = query_codes[0] * np.float64(query_scale[0])
    near = (codes[rows].astype(np.int64) @ query_codes[0].astype(np.int64)) * scale[rows] * np.float64(query_scale[0])
    reach = np.linalg.norm(stand_in) * residual_norm[rows] + missed_norm[0] * NORM_MAX
    reach = reach + 1e-6 * (1.0 + np.linalg.norm(query.astype(np.float64)))
    wanted = min(k, len(rows))
    floor = np.sort(near - reach)[len(rows) - wanted] if wanted else np.inf
    return best_float32(matrix, query, k, rows[near + reach >= floor])


def search_rows(
    matrix: Float32s,
    query: Float32s,
    k: int,
    *,
    mask: Mask | None = None,
    quantised: Quantised | None = None,
) -> tuple[Rows, Float64s]:
    """Answer exactly as `top_k` over the rows that pass the mask, at the price of a `scan`.

    The compiled twin looks twice only at rows that can still be among the best: however many rows tie, and
    however many scores are zero, the answer is that of `top_k`.

    Args:
        matrix: float32 (n, d), C-contiguous, rows not longer than `NORM_MAX`.
        query: float32 (d,), C-contiguous, of any length.
        k: rows wanted, 0 or more.
        mask: as in `scan`.
        quantised: as in `scan_int8`; given, the first pass reads int8. It never changes the answer.

    Returns:
        As `top_k`, of length min(k, rows that pass).

    Raises:
        ValueError: as `scan_int8`.
    """
    check_arrays(matrix, query, k)
    rows = rows_that_pass(matrix, mask)
    if quantised is not None:
        check_quantised(matrix, quantised)
    places, scores = top_k(np.ascontiguousarray(matrix[rows]), query, k)
    return rows[places], scores


def quantise(matrix: Float32s) -> Quantised:
    """Make the int8 image of unit vectors, one scale a row.

    Args:
        matrix: float32 (n, d), C-contiguous, rows not longer than `NORM_MAX`.

    Returns:
        `(codes, scale, residual_norm)`: int8 (n, d), float32 (n,), float32 (n,). `codes * scale` stands for
        the row, and `residual_norm` is the length of what it misses, rounded up.

    Raises:
        ValueError: the array has another dtype, shape or layout, or a row is too long.
    """
    if not is_array(matrix, np.float32, 2):
        raise ValueError(MATRIX_WANTED)
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1)
    for row in np.flatnonzero(~(norms <= NORM_MAX))[:1]:
        raise ValueError(not_unit(int(row), float(norms[row])))
    return codes_of(matrix)


def simd_levels() -> tuple[str, ...]:
    """Name the instruction sets that this machine has kernels for, plainest first."""
    return SIMD_LEVELS


def use_simd(name: str) -> None:
    """Choose the instruction set of all later calls; the best one is chosen at import.

    Raises:
        ValueError: this machine has no kernels of that name.
    """
    if name not in SIMD_LEVELS:
        raise ValueError(f"{name!r} is not one of {SIMD_LEVELS}")


def simd() -> str:
    """Name the instruction set in use."""
    return SIMD_LEVELS[0]


def best_float32(matrix: Float32s, query: Float32s, k: int, rows: Rows) -> tuple[Rows, Float32s]:
    """Rank these rows by their dot product, cut to float32."""
    scores = lane_sums(matrix[rows], query).astype(np.float32)
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def codes_of(matrix: Float32s) -> Quantised:
    """Return codes, scale and residual norm of every row."""
    scale = np.abs(matrix).max(axis=1, initial=0.0) / np.float32(127.0)
    divisor = np.where(scale > 0.0, scale, np.float32(1.0))[:, None]
    codes = np.clip(np.rint(matrix / divisor), -127, 127).astype(np.int8)
    residual = matrix.astype(np.float64) - codes * scale[:, None].astype(np.float64)
    return codes, scale, (np.linalg.norm(residual, axis=1) * (1.0 + 2e-7)).astype(np.float32)


def rows_that_pass(matrix: Float32s, mask: Mask | None) -> Rows:
    """Return the numbers of the rows that take part, rising."""
    if mask is None:
        return np.arange(len(matrix), dtype=np.int64)
    if not (is_array(mask, np.bool_, 1) or is_array(mask, np.uint8, 1)) or len(mask) != len(matrix):
        raise ValueError(MASK_WANTED)
    return np.flatnonzero(mask).astype(np.int64)


def check_quantised(matrix: Float32s, quantised: Quantised) -> Quantised:
    """Return the image of the matrix, or raise ValueError where it cannot be one."""
    codes, scale, residual_norm = quantised
    if not is_array(codes, np.int8, 2) or codes.shape != matrix.shape:
        raise ValueError(CODES_WANTED)
    for column in (scale, residual_norm):
        if not is_array(column, np.float32, 1) or len(column) != len(matrix):
            raise ValueError(SCALE_WANTED)
    if matrix.shape[1] > WIDTH_MAX:
        raise ValueError(f"matrix has {matrix.shape[1]} columns; int8 sums hold {WIDTH_MAX} at most")
    return quantised


def not_unit(row: int, norm: float) -> str:
    """Say which row is too long."""
    return f"row {row} has the norm {norm:.6g}; unit vectors are wanted, {NORM_MAX} at most"


def exact_scores(matrix: Float32s, query: Float32s) -> Float64s:
    """Return the float64 score of every row: rounded, never below zero."""
    rounded = np.round(lane_sums(matrix, query), SCORE_DECIMALS)
    return np.where(rounded > 0.0, rounded, 0.0)


def lane_sums(matrix: Float32s, query: Float32s) -> Float64s:
    """Return the float64 dot product of every row with the query, added in the order of the lanes."""
    count, width = matrix.shape
    blocks = -(-width // LANES)
    products = np.zeros((count, blocks * LANES))
    np.multiply(matrix, query, out=products[:, :width], dtype=np.float64)
    lanes = np.zeros((count, LANES))
    for block in range(blocks):
        lanes += products[:, block * LANES : (block + 1) * LANES]
    half = lanes[:, :4] + lanes[:, 4:]
    quarter = half[:, :2] + half[:, 2:]
    return np.asarray(quarter[:, 0] + quarter[:, 1], dtype=np.float64)


def check_arrays(matrix: Float32s, query: Float32s, k: int) -> None:
    """Raise ValueError unless the arguments are what every ranking kernel asks for."""
    if not is_array(matrix, np.float32, 2):
        raise ValueError("matrix must be a C-contiguous float32 array of shape (n, d); use numpy.ascontiguousarray")
    if not is_array(query, np.float32, 1):
        raise ValueError("query must be a C-contiguous float32 array of shape (d,); use numpy.ascontiguousarray")
    if matrix.shape[1] != query.shape[0]:
        raise ValueError(f"matrix has {matrix.shape[1]} columns and query {query.shape[0]}; they must agree")
    if k < 0:
        raise ValueError(f"k is {k}; it must be 0 or more")


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
