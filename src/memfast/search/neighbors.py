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

__all__ = ["WEIGHTS", "Neighborhood", "context", "lend"]

WEIGHTS = (0.6, 0.4)
"""What a neighbour at distance 1, 2 counts, for both uses."""


class Neighborhood(Struct, frozen=True):
    """Who stands beside whom among n rows."""

    rows: NDArray[np.intp]
    """(2 · reach, n): the rows 1 before, 1 after, 2 before, 2 after and so on; n where there is none"""


def context(
    similarities: NDArray[np.float64], near: Neighborhood, weights: Sequence[float] = WEIGHTS
) -> NDArray[np.float64]:
    """Similarities to the text around each memory.

    The weighted sum over a memory and its neighbours, divided by the root of the weights: about the similarity to the
    normalised sum of their vectors, which is between their mean (all vectors equal) and this (all orthogonal).

    Args:
        similarities: (n,) of a centred query.
        near: the neighbourhood of the n rows.
        weights: of the neighbours at distance 1, 2 and so on, as far as they are known.

    Returns:
        (n,); a row without neighbours keeps its similarity.
    """
    around = _Around(near, similarities)
    presence = _Around(near, np.ones_like(similarities))
    blended = similarities.copy()
    mass = np.ones_like(similarities)
    for place, weight in enumerate(np.repeat(weights, 2)):
        blended += weight * around.at(place)
        mass += weight * presence.at(place)
    blended /= np.sqrt(mass)
    return blended


def lend(scores: NDArray[np.float64], near: Neighborhood, weights: Sequence[float] = WEIGHTS) -> NDArray[np.float64]:
    """Lift each memory by the best of its neighbours.

    score + (1 - score) · loan, where the loan is the largest of a neighbour's score times its weight: never less than
    the score, never more than 1. A loan is made of what the neighbour earned itself, never of what it borrowed.

    Args:
        scores: (n,), 0..1.
        near: the neighbourhood of the n rows.
        weights: of the neighbours at distance 1, 2 and so on, 0..1, as far as they are known.

    Returns:
        (n,), 0..1, rounded to 1e-6.
    """
    around = _Around(near, scores)
    loan = np.zeros_like(scores)
    for place, weight in enumerate(np.repeat(weights, 2)):
        np.maximum(loan, weight * around.at(place), out=loan)
    return np.round(scores + (1.0 - scores) * loan, 6)


class _Around:
    """Values of neighbours, 0 where there is none."""

    def __init__(self, near: Neighborhood, values: NDArray[np.float64]) -> None:
        self._rows = near.rows
        self._padded = np.append(values, 0.0)

    def at(self, place: int) -> NDArray[np.float64]:
        taken: NDArray[np.float64] = self._padded.take(self._rows[place])
        return taken
