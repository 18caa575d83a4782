"""From candidates to hits. Every tier ends here, so that every tier gives the same answer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memfast import kernels
from memfast.model import Hit, NearestRows

__all__ = ["SLACK", "rank"]

SLACK = 16
"""Candidates that a tier gives beyond k: its own order may differ from ours within rounding."""


def rank(candidates: NearestRows, vector: NDArray[np.float32], limit: int, min_score: float = 0.0) -> list[Hit]:
    """Score candidates exactly and keep the best.

    Args:
        candidates: rows in ascending order of id.
        vector: float32 (dimensions,), norm 1.
        limit: hits at most.
        min_score: the lowest score that is kept, 0..1.

    Returns:
        Hits by (score descending, id ascending); a score is max(0, cosine) rounded to 1e-6.
    """
    rows, scores = kernels.top_k(candidates.vectors, vector, limit)
    return [
        Hit(candidates.memories[row], score)
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        if score >= min_score
    ]
