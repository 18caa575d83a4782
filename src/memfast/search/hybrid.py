"""Finding the memories that answer a question, in one shard, by several legs.

A leg proposes its best `POOL_MIN` rows or four times the limit; rows beside them in their runs join them. Then every
leg scores every row of this pool exactly, so that a score depends on the question, the memory and the user's other
memories, never on what else was found. The same code answers in every tier: a cold search makes a shard for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from memfast.filters import Filter
from memfast.ports import Shard
from memfast.search.expand import ExpansionSettings, Thesaurus, feedback
from memfast.search.fuse import (
    BoostSettings,
    Fused,
    FusionSettings,
    best,
    boost,
    calibrate_lexical,
    calibrate_vector,
    centre,
    fuse,
)
from memfast.search.lent import LendSettings, Lent
from memfast.search.neighbors import WEIGHTS, Neighborhood, context, lend

__all__ = ["LEGS", "POOL_MIN", "RECENCY_STEP_US", "Found", "Mode", "Question", "Ranking", "Scored", "find", "score"]

Mode = Literal["vector", "lexical", "hybrid"]
Rows = NDArray[np.int64]
Scores = NDArray[np.float64]

LEGS = ("lexical", "vector", "context")
"""Words; the vector itself; the vector with those beside it in its run. The last two have the query centred."""

POOL_MIN = 64
"""Rows that a leg proposes at least. On dialogues the first ten are then those of a ranking of all rows, in 999 of
1,000 searches."""

RECENCY_STEP_US = 60_000_000
"""Ages are counted to the minute, so that an answer that depends on them holds for one."""

_DECIMALS = 6


class Ranking(Struct, frozen=True, kw_only=True):
    """How hits are scored and chosen."""

    fusion: FusionSettings = FusionSettings()
    boosts: BoostSettings = BoostSettings()
    expansion: ExpansionSettings = ExpansionSettings()
    neighbors: bool = False
    """Whether memories of a run lend score to those beside them."""
    include_neighbors: int = 0
    """Memories before and after each hit that come with it, 0 to 2."""
    fold_at: float | None = None
    """Cosine from which a lower hit is a duplicate of a higher one and left out; None keeps all."""
    explain: bool = False
    expand: LendSettings | None = None
    """What memories count that links lead to from the hits; None leaves links alone."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing but the legs' scores is asked for."""
        detailed = self.neighbors or self.include_neighbors or self.explain or self.fold_at is not None
        return not detailed and self.expand is None and self.boosts.off


class Question(Struct, frozen=True, kw_only=True):
    """A search whose parts are valid."""

    mode: Mode
    text: str | None
    vector: NDArray[np.float32] | None
    """float32 (dimensions,), norm 1; None for words alone"""
    terms: Sequence[tuple[str, float]]
    """index terms of the text with their weights"""
    limit: int
    min_score: float
    where: Filter | None
    ranking: Ranking

    @property
    def needs_vector(self) -> bool:
        """Whether some leg that counts looks at vectors."""
        if self.mode != "hybrid":
            return self.mode == "vector"
        weights = self.ranking.fusion.weights
        return any(weights.get(leg) for leg in LEGS if leg != "lexical")

    @property
    def is_plain(self) -> bool:
        """Whether it asks for the nearest vectors and no more."""
        return self.mode == "vector" and self.ranking.is_plain

    def with_vector(self, vector: NDArray[np.float32]) -> Question:
        """The same with the vector of its text."""
        return structs.replace(self, vector=vector)


class Found(Struct, frozen=True):
    """Hits by (score falling, id rising), as rows of the shard."""

    rows: Rows
    scores: list[float]
    beside: Rows | None = None
    """(2 · include_neighbors, hits): the rows 1 before, 1 after, 2 before, 2 after; -1 where there is none"""
    explained: list[dict[str, Any]] | None = None
    """of each hit: raw and scaled score of each leg, what was added"""
    terms: list[tuple[str, float]] | None = None
    """the terms that were looked for, those of expansion included, where explained"""


class _Pool(Struct, frozen=True):
    """Rows that are scored, in ascending order of id."""

    rows: Rows
    near: Neighborhood | None
    """the neighbours of each among the rows; None where there are none or nobody asks for them"""
    eligible: NDArray[np.bool_] | None
    """the proposed and those beside them; the others are only there to be looked at by their neighbours. None: all"""

    def found(self, scores: Scores) -> Scores:
        """The scores of those that may be hits, -1 for the others."""
        return scores if self.eligible is None else np.where(self.eligible, scores, -1.0)


class _Leg(Struct, frozen=True):
    """What one leg says of the rows of a pool."""

    raw: Scores
    scaled: Scores


def find(shard: Shard, asked: Question, *, now_us: int, thesaurus: Thesaurus | None = None) -> Found:
    """The memories that answer a question best.

    Args:
        shard: where to look.
        asked: the question.
        now_us: wall time, microseconds since 1970; what expires then or before is not found.
        thesaurus: where there is a dictionary.
    """
    return score(shard, asked, now_us=now_us, thesaurus=thesaurus).found()


def score(shard: Shard, asked: Question, *, now_us: int, thesaurus: Thesaurus | None = None) -> Scored:
    """The same, before hits are chosen; see `find`."""
    search = _Search(shard, asked, now_us, thesaurus)
    pool, legs = search.scored(search.query)
    if search.feeds_back:
        pool, legs = search.scored(search.moved(pool, legs))
    return Scored(search, pool, legs)


class Scored:
    """A search whose rows have their scores: what is found can be asked for with and without what links lend."""

    def __init__(self, search: _Search, pool: _Pool, legs: dict[str, _Leg]) -> None:
        self._search = search
        self._pool = pool
        self._legs = legs
        self._fused, self._scores = search.final(pool, legs)

    def found(self, lent: Lent | None = None) -> Found:
        """The hits, by what they are worth themselves or what links lend to them, whichever is more."""
        rows, scores = self._hits(lent)
        return self._search.told(rows, scores, lambda row: self._explained(row, lent))

    def seeds(self, most: int) -> tuple[list[int], list[float]]:
        """The rows and scores of the first hits, without what links lend."""
        rows, scores = self._hits(None)
        return rows[:most].tolist(), scores[:most]

    def _hits(self, lent: Lent | None) -> tuple[Rows, list[float]]:
        rows, scores = self._pool.rows, self._pool.found(self._scores)
        words = None if "lexical" not in self._legs else self._pool.found(self._legs["lexical"].scaled)
        if lent is not None:
            rows, scores, words = self._joined(lent, scores, words)
        chosen = self._search.chosen(rows, scores, words)
        return rows[chosen], scores[chosen].tolist()

    def _joined(self, lent: Lent, scores: Scores, words: Scores | None) -> tuple[Rows, Scores, Scores | None]:
        """The rows of the pool and those that links lead to, with the larger of both scores."""
        rows = self._search.by_id(_distinct_rows(self._pool.rows, lent.rows))
        place, places = _places(rows, self._pool.rows), _places(rows, lent.rows)
        joined = np.full(len(rows), -1.0)
        joined[place] = scores
        joined[places] = np.maximum(joined[places], lent.scores)
        if words is None:
            return rows, joined, None
        spoken = np.zeros(len(rows))
        spoken[place] = words
        return rows, joined, spoken

    def _explained(self, row: int, lent: Lent | None) -> dict[str, Any]:
        found = np.flatnonzero(self._pool.rows == row)
        told = self._search.explained(self._legs, self._fused, self._scores, int(found[0])) if len(found) else {}
        told = {"convergence": 0.0, "added": 0.0} | told
        if lent is not None and row in lent.told:
            told["graph"] = lent.told[row]
        return told


class _Search:
    """One question to one shard."""

    def __init__(self, shard: Shard, asked: Question, now_us: int, thesaurus: Thesaurus | None) -> None:
        self._shard, self._asked, self._ranking = shard, asked, asked.ranking
        self._now_us = now_us
        self._wanted = max(POOL_MIN, 4 * asked.limit)
        self._hybrid = asked.mode == "hybrid"
        self._fusion = asked.ranking.fusion if self._hybrid else FusionSettings(weights={asked.mode: 1.0})
        self._legs = [leg for leg in LEGS if self._fusion.weights.get(leg)]
        if asked.vector is None:
            self._legs = [leg for leg in self._legs if leg == "lexical"]
        self._terms = [*asked.terms, *self._related(thesaurus)]
        self._by_words = self._ranked_by_words()
        self._centre = self._centre_of_scope()
        self.query = None if asked.vector is None else asked.vector.astype(np.float64) - self._centre

    @property
    def feeds_back(self) -> bool:
        """Whether the query's vector is to be moved towards its first hits."""
        return bool(self._ranking.expansion.feedback_weight) and self._hybrid and self.query is not None

    def scored(self, query: Scores | None) -> tuple[_Pool, dict[str, _Leg]]:
        """The rows that are worth a look, and what each leg says of them."""
        pool = self._pool(query)
        legs = {}
        if "lexical" in self._legs:
            _, scores_of, ceiling = self._by_words
            raw = scores_of(pool.rows)
            legs["lexical"] = _Leg(raw, calibrate_lexical(raw, ceiling))
        if query is None or self._legs == ["lexical"]:
            return pool, legs
        similarities = self._shard.vector_scores(query.astype(np.float32), pool.rows)
        floor = self._fusion.vector_floor if self._hybrid else 0.0
        if "vector" in self._legs:
            legs["vector"] = _Leg(similarities, calibrate_vector(similarities, floor))
        if "context" in self._legs:
            blended = similarities if pool.near is None else context(similarities, pool.near)
            legs["context"] = _Leg(blended, calibrate_vector(blended, floor))
        return pool, legs

    def moved(self, pool: _Pool, legs: dict[str, _Leg]) -> Scores | None:
        """The query's vector, moved towards the first hits."""
        expansion = self._ranking.expansion
        scores = pool.found(self._fused(legs).scores)
        first = best(scores, expansion.feedback_hits)
        vectors = self._shard.vectors_of(pool.rows[first])
        assert self.query is not None
        return feedback(self.query, self._centre, vectors, scores[first], expansion.feedback_weight)

    def final(self, pool: _Pool, legs: dict[str, _Leg]) -> tuple[Fused, Scores]:
        """The legs as one score, and what neighbours and boosts make of it."""
        fused = self._fused(legs)
        scores = fused.scores
        if self._ranking.neighbors and pool.near is not None:
            scores = lend(scores, pool.near)
        return fused, self._boosted(pool.rows, scores)

    def told(self, rows: Rows, scores: list[float], explain: Callable[[int], dict[str, Any]]) -> Found:
        """Hits with all that is asked for beside them; `explain` says of a row where its score comes from."""
        explained = [explain(row) for row in rows.tolist()] if self._ranking.explain else None
        reach = self._ranking.include_neighbors
        beside = self._beside(rows, reach) if reach else None
        return Found(rows, scores, beside, explained, self._terms if explained is not None else None)

    def by_id(self, rows: Rows) -> Rows:
        """These rows in ascending order of id."""
        return self._shard.by_id(rows)

    def _ranked_by_words(self) -> tuple[Rows, Callable[[Rows], Scores], float]:
        """The best rows by words, the scores of any, and the most that a memory can have."""
        if "lexical" not in self._legs:
            return np.empty(0, np.int64), np.zeros_like, 0.0
        return self._shard.ranked(
            self._terms, len(self._asked.terms), self._wanted, now_us=self._now_us, where=self._asked.where
        )

    def _related(self, thesaurus: Thesaurus | None) -> list[tuple[str, float]]:
        expansion, text = self._ranking.expansion, self._asked.text
        if thesaurus is None or not expansion.synonym_weight or text is None or "lexical" not in self._legs:
            return []
        related = thesaurus.related(text, self._frequency, len(self._shard), expansion)
        return [(term, expansion.synonym_weight) for term in related]

    def _frequency(self, term: str) -> int:
        return int(self._shard.term_frequencies([term])[0])

    def _centre_of_scope(self) -> Scores:
        """What is subtracted from the query: nothing where only its vector counts, which stays as it was embedded."""
        if not self._hybrid or self._asked.vector is None:
            return np.zeros(0 if self._asked.vector is None else len(self._asked.vector))
        return centre(self._shard.vector_total, len(self._shard), self._fusion.centre_prior)

    def _pool(self, query: Scores | None) -> _Pool:
        rows = self._proposed(query)
        looks = ("context" in self._legs) + self._ranking.neighbors
        eligible = self._grown(rows) if looks else None
        if eligible is None:
            return _Pool(self._shard.by_id(rows), None, None)
        rows = eligible
        for _ in range(looks):  # so that each of the eligible sees all that stands beside it
            rows = _distinct_rows(rows, self._standing_beside(rows))
        rows = self._shard.by_id(rows)
        found = np.isin(rows, eligible)
        if self._asked.where is not None:
            found &= self._shard.passing(rows, self._shard.masks(self._now_us, self._asked.where))
        return _Pool(rows, self._neighborhood(rows), found)

    def _proposed(self, query: Scores | None) -> Rows:
        """The best rows of each leg."""
        proposed = [self._by_words[0]]
        if query is not None and self._legs != ["lexical"]:
            hits = self._shard.search(
                query.astype(np.float32), self._wanted, now_us=self._now_us, where=self._asked.where
            )
            proposed.append(np.array(hits.rows, np.int64))
        return _distinct_rows(*proposed)

    def _beside(self, rows: Rows, reach: int) -> Rows:
        """(2 · reach, rows): the rows 1 before, 1 after, 2 before, 2 after and so on; -1 where there is none."""
        return self._shard.neighbours(rows, now_us=self._now_us, reach=reach)

    def _standing_beside(self, rows: Rows) -> Rows:
        beside = self._beside(rows, _REACH)
        return beside[beside >= 0]

    def _grown(self, rows: Rows) -> Rows | None:
        """These rows and those beside them; None where nothing stands beside any."""
        beside = self._standing_beside(rows)
        return _distinct_rows(rows, beside) if len(beside) else None

    def _neighborhood(self, rows: Rows) -> Neighborhood:
        """Row numbers of neighbours as places in the pool; those outside are not there."""
        beside = self._beside(rows, _REACH)
        if not len(rows):
            return Neighborhood(np.empty(beside.shape, np.intp))
        order = np.argsort(rows)
        near = order[np.searchsorted(rows, beside, sorter=order).clip(max=len(rows) - 1)]
        return Neighborhood(np.where(rows[near] == beside, near, len(rows)))

    def _fused(self, legs: dict[str, _Leg]) -> Fused:
        return fuse({name: leg.scaled for name, leg in legs.items()}, self._fusion)

    def _boosted(self, rows: Rows, scores: Scores) -> Scores:
        boosts = self._ranking.boosts
        if boosts.off:
            return scores
        importance, created_us = self._shard.importances(rows), self._shard.created_us(rows)
        now_us = self._now_us - self._now_us % RECENCY_STEP_US
        return boost(scores, importance, (now_us - created_us) / 1e6, boosts)

    def chosen(self, rows: Rows, scores: Scores, words: Scores | None) -> NDArray[np.intp]:
        """The places of the hits among rows in ascending order of id; `words` are the scores of the lexical leg."""
        asked, fold_at = self._asked, self._ranking.fold_at
        guaranteed = self._fusion.guaranteed if self._hybrid else 0
        limit = asked.limit if fold_at is None else len(scores)
        zeros = self.query is not None and self._legs != ["lexical"]
        chosen = best(scores, limit, min_score=asked.min_score, words=words, guaranteed=guaranteed, zeros=zeros)
        if fold_at is None:
            return chosen
        return chosen[_distinct(self._shard.vectors_of(rows[chosen]), fold_at, asked.limit)]

    def explained(self, legs: dict[str, _Leg], fused: Fused, scores: Scores, row: int) -> dict[str, Any]:
        """Where the score of a row of the pool comes from."""
        weights = self._fusion.weights
        told: dict[str, Any] = {
            name: {
                "raw": round(float(leg.raw[row]), _DECIMALS),
                "scaled": round(float(fused.scaled[name][row]), _DECIMALS),
                "weight": round(weights.get(name, 0.0) / sum(weights.values()), _DECIMALS),
            }
            for name, leg in legs.items()
        }
        told["convergence"] = round(float(fused.bonus[row]), _DECIMALS)
        told["added"] = round(float(scores[row] - fused.scores[row]), _DECIMALS)
        return told


_REACH = len(WEIGHTS)


def _distinct_rows(*parts: Rows) -> Rows:
    """Rows, each once, in ascending order: `numpy.unique` without its hashing, which costs more for so few."""
    rows = np.concatenate(parts)
    rows.sort()
    first = np.empty(len(rows), np.bool_)
    first[:1] = True
    np.not_equal(rows[1:], rows[:-1], out=first[1:])
    return rows[first]


def _places(rows: Rows, wanted: Rows) -> NDArray[np.intp]:
    """Where each of the wanted stands among different rows, all of which are there."""
    order = np.argsort(rows)
    places: NDArray[np.intp] = order[np.searchsorted(rows, wanted, sorter=order)]
    return places


def _distinct(vectors: NDArray[np.float32], similarity: float, limit: int) -> list[int]:
    """The first `limit` rows of which none is as similar to one before it."""
    kept: list[int] = []
    for row, vector in enumerate(vectors):
        if not kept or float((vectors[kept] @ vector).max()) < similarity:
            kept.append(row)
            if len(kept) == limit:
                break
    return kept
