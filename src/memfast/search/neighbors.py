"""Memories of one run lean on each other: a question in one turn, its answer in the next.

Two uses of the same neighbourhood. `context` blends similarities before fusion: it is the similarity to the text
around a memory, made of numbers that are there already. `lend` lifts a memory by the best of its neighbours after
fusion: one that shares no word with the question is found beside the one that does. The best of them, not their sum:
summing lifts the middle of a run over its hits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = ["WEIGHTS", "Neighborhood", "context", "lend", "neighborhood", "run_positions"]

WEIGHTS = (0.6, 0.4)
"""What a neighbour at distance 1, 2 counts, for both uses."""


class Neighborhood(Struct, frozen=True):
    """Who stands beside whom among n rows."""

    rows: NDArray[np.intp]
    """(2 · reach, n): the rows 1 before, 1 after, 2 before, 2 after and so on; n where there is none"""

    @property
    def reach(self) -> int:
        """The largest distance that is known."""
        return len(self.rows) // 2


def run_positions(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each memory in its run, from 0.

    Args:
        runs: (n,) codes of runs, the memories in order of (created_at, id).
    """
    order = np.argsort(runs, kind="stable")
    ordered = runs[order]
    firsts = np.searchsorted(ordered, ordered)
    positions = np.empty(len(runs), dtype=np.int64)
    positions[order] = np.arange(len(runs)) - firsts
    return positions


def neighborhood(runs: NDArray[np.int64], positions: NDArray[np.int64], reach: int = len(WEIGHTS)) -> Neighborhood:
    """Find the neighbours of every row. Worth keeping as long as the rows stay: O(n log n).

    Args:
        runs: (n,) codes of runs, 0 or more; -1 for a memory of no run, which has no neighbours.
        positions: (n,) places in the run, as `run_positions` gives them over all memories, 0 or more. The rows may be
            some of a user's memories, in any order: a neighbour that is not among them is not there, and does not
            bring the next one nearer.
        reach: the largest distance, in places.
    """
    count = len(runs)
    stride = int(positions.max(initial=0)) + 1 + reach  # a step beyond a run's end meets no other run
    keys = runs * stride + positions
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    found = np.full((2 * reach, count), count, dtype=np.intp)
    for distance in range(1, reach + 1):
        for side, step in enumerate((-distance, distance)):
            wanted = keys + step
            places = np.searchsorted(ordered, wanted).clip(max=max(count - 1, 0))
            there = (runs >= 0) & (ordered[places] == wanted) if count else runs >= 0
            found[2 * (distance - 1) + side, there] = order[places[there]]
    return Neighborhood(found)


def context(
    similarities: NDArray[np.float64],
    near: Neighborhood,
    weights: Sequence[float] = WEIGHTS,
    *,
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Similarities to the text around each memory.

    The weighted sum over a memory and its neighbours, divided by the root of the weights: about the similarity to the
    normalised sum of their vectors, which is between their mean (all vectors equal) and this (all orthogonal).

    Args:
        similarities: (n,) of a centred query.
        near: the neighbourhood of the n rows.
        weights: of the neighbours at distance 1, 2 and so on, at most `near.reach`.
        allowed: (n,) False for rows that count as not there, such as those that a filter hides.

    Returns:
        (n,); a row without neighbours keeps its similarity.
    """
    known = np.ones_like(similarities) if allowed is None else allowed.astype(np.float64)
    around = _Around(near, np.where(known > 0, similarities, 0.0))
    presence = _Around(near, known)
    blended = similarities.copy()
    mass = np.ones_like(similarities)
    for place, weight in enumerate(np.repeat(weights, 2)):
        blended += weight * around.at(place)
        mass += weight * presence.at(place)
    blended /= np.sqrt(mass)
    return blended


def lend(
    scores: NDArray[np.float64],
    near: Neighborhood,
    weights: Sequence[float] = WEIGHTS,
    *,
    allowed: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Lift each memory by the best of its neighbours.

    score + (1 - score) · loan, where the loan is the largest of a neighbour's score times its weight: never less than
    the score, never more than 1. A loan is made of what the neighbour earned itself, never of what it borrowed.

    Args:
        scores: (n,), 0..1.
        near: the neighbourhood of the n rows.
        weights: of the neighbours at distance 1, 2 and so on, 0..1, at most `near.reach`.
        allowed: (n,) False for rows that neither lend nor borrow.

    Returns:
        (n,), 0..1, rounded to 1e-6.
    """
    own = scores if allowed is None else np.where(allowed, scores, 0.0)
    around = _Around(near, own)
    loan = np.zeros_like(own)
    for place, weight in enumerate(np.repeat(weights, 2)):
        np.maximum(loan, weight * around.at(place), out=loan)
    lifted = own + (1.0 - own) * loan
    return np.round(lifted if allowed is None else np.where(allowed, lifted, 0.0), 6)


class _Around:
    """Values of neighbours, 0 where there is none."""

    def __init__(self, near: Neighborhood, values: NDArray[np.float64]) -> None:
        self._rows = near.rows
        self._padded = np.append(values, 0.0)

    def at(self, place: int) -> NDArray[np.float64]:
        taken: NDArray[np.float64] = self._padded.take(self._rows[place])
        return taken
