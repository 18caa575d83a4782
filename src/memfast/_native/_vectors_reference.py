"""Exact ranking of unit vectors: the readable twin of `_vectors.pyx`, its type declaration and its judge.

Every sum of `top_k` is taken in float64 over eight lanes: lane `j` adds the products of the columns `j`,
`j + 8`, `j + 16`, … in this order, and the lanes are added as a tree. A product of two float32 is exact in
float64, so only the order of the additions decides about the last bit, and both twins use this one: they
agree to the byte.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["LANES", "SCORE_DECIMALS", "top_k"]

SCORE_DECIMALS = 6
"""Scores are rounded to this many decimals, half to even, before they are compared."""
LANES = 8
"""Partial sums of a float64 dot product."""

MATRIX_WANTED = "matrix must be a C-contiguous float32 array (n, d); numpy.ascontiguousarray makes one"
QUERY_WANTED = "query must be a C-contiguous float32 array (d,); numpy.ascontiguousarray makes one"

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def top_k(matrix: Float32s, query: Float32s, k: int) -> tuple[Rows, Float64s]:
    """Rank all rows of a matrix exactly.

    Args:
        matrix: float32 (n, d), C-contiguous. Free of NaN and infinity: this is the caller's promise.
        query: float32 (d,), C-contiguous, as finite.
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
    if not is_float32(matrix, 2):
        raise ValueError(
            "matrix must be a C-contiguous float32 array of shape (n, d); use numpy.ascontiguousarray"
        )
    if not is_float32(query, 1):
        raise ValueError(
            "query must be a C-contiguous float32 array of shape (d,); use numpy.ascontiguousarray"
        )
    if matrix.shape[1] != query.shape[0]:
        raise ValueError(f"matrix has {matrix.shape[1]} columns and query {query.shape[0]}; they must agree")
    if k < 0:
        raise ValueError(f"k is {k}; it must be 0 or more")


def is_float32(array: object, dimensions: int) -> bool:
    """Say whether this is a native, aligned, C-contiguous float32 array with so many dimensions."""
    return (
        isinstance(array, np.ndarray)
        and array.dtype == np.float32
        and array.dtype.isnative
        and array.ndim == dimensions
        and array.flags.c_contiguous
        and array.flags.aligned
    )
