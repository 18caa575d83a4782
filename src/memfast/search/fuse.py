"""One score from several legs: lexical, vector and whatever else found memories.

Each leg is brought to 0..1 by a map that knows the query and the user's memories, never the other hits of the query:
a memory's score does not move because another hit is strong or weak, and `min_score` means the same for every query.
The convex sum of scaled scores follows Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval"
(2023), with the lexical leg scaled by its theoretical maximum. Rank fusion (Cormack, Clarke and Büttcher 2009) is an
option: it knows nothing of how good a hit is, so a weak leg displaces what a strong one has found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

__all__ = [
    "STRONG_WEIGHTS",
    "WEAK_WEIGHTS",
    "BoostSettings",
    "Fused",
    "FusionSettings",
    "best",
    "boost",
    "calibrate_lexical",
    "calibrate_vector",
    "centre",
    "fuse",
]

_DECIMALS = 6

WEAK_WEIGHTS = {"lexical": 0.7, "vector": 0.3}
"""Weights beside static word vectors such as WordLlama's. Measured: vectors at 0.25 to 0.4 differ little."""

STRONG_WEIGHTS = {"lexical": 0.5, "vector": 0.5}
"""Weights beside a contextual model. Not measured here: such a model earns more, how much depends on it."""

_Share = Annotated[float, Meta(ge=0, le=1)]


class FusionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How legs become one score."""

    method: Literal["convex", "rrf"] = "convex"
    weights: dict[str, Annotated[float, Meta(ge=0)]] = msgspec.field(default_factory=lambda: dict(WEAK_WEIGHTS))
    """Weight of each leg by its name; only their proportions count."""
    convergence: _Share = 0.0
    """Bonus for what two legs agree on: this share of the lower of the two scores. 0.1 to 0.2 brought nothing."""
    vector_floor: Annotated[float, Meta(ge=-1, lt=1)] = -0.2
    """Similarity to a centred query that counts as nothing, see `calibrate_vector`."""
    centre_prior: Annotated[float, Meta(gt=0)] = 50.0
    """Memories of no direction that are added to a user's own before the centre is taken, see `centre`."""
    rrf_k: Annotated[float, Meta(gt=0)] = 60.0
    """How little the first ranks stand out in rank fusion."""
    guaranteed: Annotated[int, Meta(ge=0)] = 1
    """Best hits by words that always stand among the results, see `best`."""


class BoostSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What counts besides the question. Off as it stands; 0.6, 0.3, 1.15 and 3600 are a common choice."""

    similarity_weight: _Share = 1.0
    importance_weight: _Share = 0.0
    recency_factor: Annotated[float, Meta(ge=1)] = 1.0
    """What the score of a young memory is multiplied by."""
    recency_window_s: Annotated[float, Meta(ge=0)] = 3600.0
    """Age up to which a memory is young, in seconds."""

    @property
    def off(self) -> bool:
        """Whether nothing would change."""
        return self.similarity_weight == 1 and not self.importance_weight and self.recency_factor == 1


class Fused(Struct, frozen=True):
    """Scores of n candidates and where they come from."""

    scores: NDArray[np.float64]
    """(n,), 0..1, rounded to 1e-6"""
    scaled: dict[str, NDArray[np.float64]]
    """(n,) a leg, 0..1: its score, or under rank fusion its share, before the weight"""
    bonus: NDArray[np.float64]
    """(n,), what convergence added"""


def centre(total: NDArray[np.float64], count: int, prior: float) -> NDArray[np.float64]:
    """What a user's memories have in common, to be subtracted from the query's vector.

    (query - centre) · v = query · v - centre · v: the similarity beyond what the memory has to everything else, an
    inverse document frequency for vectors. Where two speakers' names stand in every memory, they stop counting.

    Args:
        total: float64 (dimensions,), the sum of the memories' unit vectors.
        count: how many they are.
        prior: memories of no direction that are added, so that few memories do not vanish beside their own mean.

    Returns:
        float64 (dimensions,), norm below 1.
    """
    shrunk: NDArray[np.float64] = total / (count + prior)
    return shrunk


def calibrate_lexical(scores: NDArray[np.float64], ceiling: float) -> NDArray[np.float64]:
    """BM25 as a share of the most that any memory could reach.

    Args:
        scores: (n,) BM25 scores; NaN where the leg has not found a memory.
        ceiling: the sum of the inverse document frequencies of the query's distinct terms, those that no memory has
            included (a query half of which is unknown is half answered at best), times k1 + 1 where BM25 has that
            factor. 0 for a query without terms.

    Returns:
        (n,), 0..1.
    """
    if ceiling <= 0:
        return np.zeros_like(scores)
    return _unit(scores / ceiling)


def calibrate_vector(similarities: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """Similarities as shares of the way from `floor` to 1.

    Args:
        similarities: (n,) of a centred query, at most 1 in general; NaN where the leg has not found a memory.
        floor: what counts as 0. Centred similarities of unrelated texts scatter around a little less than 0, and their
            order still says something.

    Returns:
        (n,), 0..1.
    """
    return _unit((similarities - floor) / (1 - floor))


def fuse(legs: Mapping[str, NDArray[np.float64]], settings: FusionSettings) -> Fused:
    """Fuse the legs' scores of the same n candidates.

    A candidate of any leg takes part: nothing is filtered by another leg. A leg that says nothing of a candidate adds
    nothing, and a leg that is out (not in `legs`) adds nothing to anybody, so that scores keep their scale.

    Args:
        legs: scaled scores (n,), at most 1, by the leg's name; 0 or NaN where the leg has not found a candidate. A leg
            without a weight counts nothing but is explained.
        settings: the weights and the method.

    Raises:
        ValueError: no leg at all, or their lengths differ.
    """
    rows = {scores.shape for scores in legs.values()}
    if len(rows) != 1:
        raise ValueError(f"legs must be of one length, and at least one: {sorted(rows)}")
    found = {name: np.fmax(scores, 0.0) for name, scores in legs.items()}
    if settings.method == "rrf":
        found = {name: _rank_shares(scores, settings.rrf_k) for name, scores in found.items()}
    whole = sum(settings.weights.values()) or 1.0
    shares = [weight / whole * found[name] for name, weight in settings.weights.items() if name in found]
    total = np.zeros(rows.pop()) if not shares else shares[0]
    for share in shares[1:]:
        total += share
    bonus = np.zeros(len(total))
    if settings.convergence:
        bonus = _convergence(found, settings)
        total += bonus
    return Fused(_rounded(total), found, bonus)


def boost(
    scores: NDArray[np.float64],
    importance: NDArray[np.float64],
    age_s: NDArray[np.float64],
    settings: BoostSettings,
) -> NDArray[np.float64]:
    """Weigh importance in, and lift what is young. What is not found (0) stays so, however important.

    Args:
        scores: (n,), 0..1.
        importance: (n,), 0..1.
        age_s: (n,), seconds since the memory was made; negative for one from the future, which counts as young.
        settings: the weights.

    Returns:
        (n,), 0..1, rounded to 1e-6.
    """
    if settings.off:
        return scores
    lifted = settings.similarity_weight * scores + settings.importance_weight * importance
    lifted = np.where(age_s <= settings.recency_window_s, lifted * settings.recency_factor, lifted)
    return _rounded(np.where(scores > 0, lifted, 0.0))


def best(
    scores: NDArray[np.float64],
    limit: int,
    *,
    min_score: float = 0.0,
    words: NDArray[np.float64] | None = None,
    guaranteed: int = 0,
    zeros: bool = False,
) -> NDArray[np.intp]:
    """Choose the hits.

    The `guaranteed` best by words are among them whatever the other legs say: an exact number that vectors know
    nothing of is found. They take the last places where their score does not earn one, and at most half of all.

    Args:
        scores: (n,) fused scores of candidates in ascending order of id.
        limit: hits at most.
        min_score: the lowest score that is kept; 0 keeps what has any.
        words: (n,) scaled scores of the lexical leg, where `guaranteed` is more than 0.
        guaranteed: how many of the best by words, as far as they have any word and reach `min_score`.
        zeros: whether a score of 0 is a hit, as it is where vectors are compared: every memory has one.

    Returns:
        Rows by (score descending, row ascending). Rows of a negative score are not found.
    """
    eligible = scores >= min_score if zeros and min_score >= 0 else (scores >= min_score) & (scores > 0)
    falling = (-scores).argsort(kind="stable")
    chosen = falling[: min(limit, int(np.count_nonzero(eligible)))]  # what is not eligible has lower scores
    if words is None or len(chosen) < limit:
        return chosen
    kept = _first(words, eligible & (words > 0), min(guaranteed, limit // 2))
    if set(kept.tolist()).issubset(chosen.tolist()):
        return chosen
    missing = np.setdiff1d(kept, chosen)
    gone = chosen[~np.isin(chosen, kept)][-len(missing) :]
    named = np.sort(np.concatenate((np.setdiff1d(chosen, gone), missing)))
    return named[np.argsort(-scores[named], kind="stable")]


def _first(scores: NDArray[np.float64], eligible: NDArray[np.bool_], most: int) -> NDArray[np.intp]:
    """The eligible rows of the highest scores, of equals the lower row first."""
    rows = eligible.nonzero()[0]
    if most == 1 and len(rows):
        place = int(scores[rows].argmax())
        return rows[place : place + 1]
    return rows[(-scores[rows]).argsort(kind="stable")][:most]


def _convergence(found: Mapping[str, NDArray[np.float64]], settings: FusionSettings) -> NDArray[np.float64]:
    weighed = [scores for name, scores in found.items() if settings.weights.get(name)]
    if len(weighed) < 2:
        return np.zeros_like(next(iter(found.values())))
    second: NDArray[np.float64] = np.sort(np.stack(weighed), axis=0)[-2]
    return settings.convergence * second


def _rank_shares(scores: NDArray[np.float64], k: float) -> NDArray[np.float64]:
    """(k + 1) / (k + rank), 1 for the first; 0 for what has not been found. Of equals the lower row comes first."""
    shares = np.zeros_like(scores)
    order = _first(scores, scores > 0, len(scores))
    shares[order] = (k + 1) / (k + 1 + np.arange(len(order)))
    return shares


def _unit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cut new numbers to 0..1, where they are."""
    np.fmax(scores, 0.0, out=scores)  # of NaN and a number, the number
    return np.fmin(scores, 1.0, out=scores)


def _rounded(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return _unit(scores).round(_DECIMALS, out=scores)
