"""Sums of vectors that do not depend on the order of their rows: what a user's memories have in common."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Total", "total_of", "unscaled"]

Total = NDArray[np.int64]

_SCALE = 2.0**24
"""Steps of a number: a float32 of a unit vector is kept to a twice of its precision near 1, and so exactly that sums
of a trillion rows fit."""
_CHUNK_ROWS = 2048


def total_of(vectors: NDArray[np.float32]) -> Total:
    """The sum of rows as whole steps, int64 (dimensions,). Adding and taking away rows is exact.

    Args:
        vectors: float32 (n, dimensions), unit rows.
    """
    total = np.zeros(vectors.shape[1], np.int64)
    for start in range(0, len(vectors), _CHUNK_ROWS):
        chunk = vectors[start : start + _CHUNK_ROWS].astype(np.float64)
        total += np.rint(chunk * _SCALE).astype(np.int64).sum(axis=0)
    return total


def unscaled(total: Total) -> NDArray[np.float64]:
    """The sum as numbers, float64 (dimensions,)."""
    return total.astype(np.float64) / _SCALE
