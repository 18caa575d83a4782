"""Recall and nDCG of one ranking, and their means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

__all__ = ["DEPTHS", "Score", "average", "average_precision", "macro_ndcg", "paired_bootstrap", "score"]

DEPTHS = (5, 10, 50)
_NDCG_DEPTH = 10


@dataclass(frozen=True)
class Score:
    """One question: its category, recall by depth, and nDCG@10, each from 0 to 1."""

    category: int
    recall: dict[int, float]
    ndcg: float


def score(category: int, ranked: Sequence[str], relevant: AbstractSet[str]) -> Score:
    """Judge a ranking.

    Recall@k is the share of the relevant that stand among the first k. nDCG@10 has binary gain and the discount
    1/log2(rank + 1) (Järvelin and Kekäläinen 2002); the ideal ranking begins with all that is relevant.
    """
    recall = {depth: len(relevant & set(ranked[:depth])) / len(relevant) for depth in DEPTHS}
    gained = sum(_discount(rank) for rank, found in enumerate(ranked[:_NDCG_DEPTH], 1) if found in relevant)
    ideal = sum(_discount(rank) for rank in range(1, min(_NDCG_DEPTH, len(relevant)) + 1))
    return Score(category, recall, gained / ideal)


def average_precision(ranked: Sequence[str], relevant: AbstractSet[str]) -> float:
    """The mean, over the relevant, of the precision at the rank where each was found; 0 for one that was not."""
    hits, total = 0, 0.0
    for rank, found in enumerate(ranked, 1):
        if found in relevant:
            hits += 1
            total += hits / rank
    return total / len(relevant)


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], *, seed: int = 7, draws: int = 10_000
) -> tuple[float, float, float]:
    """The mean difference of two runs over the same questions, and its 95 % interval (Efron 1979, percentiles)."""
    differences = np.asarray(first) - np.asarray(second)
    random = np.random.default_rng(seed)
    means = np.array(
        [differences[random.integers(len(differences), size=len(differences))].mean() for _ in range(draws)]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return float(differences.mean()), float(low), float(high)


def average(scores: Sequence[Score]) -> dict[str, float]:
    """Means over questions, in percent: R@5, R@10, R@50, nDCG@10."""
    means = {f"R@{depth}": statistics.fmean(one.recall[depth] for one in scores) for depth in DEPTHS}
    means["nDCG@10"] = statistics.fmean(one.ndcg for one in scores)
    return {name: 100 * mean for name, mean in means.items()}


def macro_ndcg(scores: Sequence[Score]) -> float:
    """The mean of the categories' mean nDCG@10, in percent: every category counts the same, whatever its size."""
    categories = {one.category for one in scores}
    means = [statistics.fmean(one.ndcg for one in scores if one.category == category) for category in categories]
    return 100 * statistics.fmean(means)


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)
