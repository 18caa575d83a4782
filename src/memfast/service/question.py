"""Searches as clients send them, and what becomes of them once they are checked."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from memfast.errors import InvalidRequest
from memfast.filters import TagsMode, encoded
from memfast.links import DEPTH_MAX
from memfast.search.expand import ExpansionSettings
from memfast.search.fuse import BoostSettings, FusionSettings
from memfast.search.hybrid import LEGS, Mode, Question, Ranking
from memfast.search.lent import LendSettings
from memfast.search.words import Words
from memfast.service.filters import narrowing
from memfast.service.limits import Limits

__all__ = ["Boosts", "Expand", "Expansion", "Query", "Questions", "digest"]


class Boosts(Struct, kw_only=True, frozen=True):
    """What counts besides the match; None takes the service's setting."""

    similarity: float | None = None
    importance: float | None = None
    recency: float | None = None
    recency_window_s: float | None = None


class Expansion(Struct, kw_only=True, frozen=True):
    """How far a query is widened; None takes the service's setting."""

    synonyms: float | None = None
    feedback: float | None = None


class Expand(Struct, kw_only=True, frozen=True):
    """How far links are followed from the hits, and what counts that they lead to."""

    depth: int = 1
    weight: float = 0.5


class Query(Struct, kw_only=True, omit_defaults=True):
    """A search as a client sends it, unchecked: a text, a vector or both."""

    text: str | None = None
    embedding: bytes | Sequence[float] | None = None
    limit: int = 10
    min_score: float = 0.0
    filter: dict[str, Any] | None = None
    tags: Sequence[str] = ()
    tags_mode: TagsMode = "any"
    mode: Mode | None = None
    fusion: Literal["convex", "rrf"] | None = None
    weights: dict[str, float] | None = None
    convergence: float | None = None
    neighbors: bool | None = None
    include_neighbors: int = 0
    fold_duplicates: bool = False
    boosts: Boosts | None = None
    expansion: Expansion | None = None
    expand: Expand | None = None
    explain: bool = False


_PLAIN = Query()
_RANKED = (
    "fusion",
    "weights",
    "convergence",
    "neighbors",
    "include_neighbors",
    "fold_duplicates",
    "boosts",
    "expansion",
    "expand",
)
"""Fields that say how to rank."""


class Questions:
    """Checks searches.

    Args:
        ranking: how a search is ranked that does not say otherwise.
        fold_at: cosine from which memories are duplicates, where a search folds them.
        words: makes index terms.
        limits: bounds of everything else.
        embeds: whether the service makes vectors of texts.
        expands: whether there is a dictionary of related words.
    """

    def __init__(
        self, ranking: Ranking, fold_at: float, words: Words, limits: Limits, *, embeds: bool, expands: bool
    ) -> None:
        self._ranking = ranking
        self._fold_at = fold_at
        self._words = words
        self._limits = limits
        self._embeds = embeds
        self._expands = expands

    def check(self, query: Query) -> Question:
        """The search with every part valid.

        Raises:
            InvalidRequest: a part is not valid, or it lacks what its mode needs.
        """
        mode = self._mode(query)
        limit = self._limits.page(query.limit, "$.limit")
        min_score = self._limits.importance(query.min_score, "$.min_score")
        text = None if query.text is None else self._limits.text(query.text, "$.query")
        vector = None if query.embedding is None else self._limits.vector(query.embedding, "$.embedding")
        terms = self._words.of_query(text) if text is not None and mode != "vector" else []
        return Question(
            mode=mode,
            text=text,
            vector=vector,
            terms=terms,
            limit=limit,
            min_score=min_score,
            where=narrowing(query.filter, query.tags, query.tags_mode, self._limits),
            ranking=self._ranked(query),
        )

    def _mode(self, query: Query) -> Mode:
        """The mode that is asked for, or the best that is possible with what is given."""
        if query.text is None and query.embedding is None:
            raise InvalidRequest("$: must have a query, an embedding or both", path="$")
        if query.mode is None:
            if query.text is None:
                return "vector"
            return "hybrid" if self._embeds or query.embedding is not None else "lexical"
        if query.text is None and query.mode != "vector":
            raise InvalidRequest(f"$.query: is needed for mode {query.mode}", path="$.query")
        if query.mode == "lexical" and query.embedding is not None:
            raise InvalidRequest("$.embedding: mode lexical looks at words alone; leave it out", path="$.embedding")
        if query.mode == "vector" and query.text is not None and query.embedding is not None:
            raise InvalidRequest("$: mode vector takes a query or an embedding, not both", path="$")
        return query.mode

    def _ranked(self, query: Query) -> Ranking:
        if all(getattr(query, name) == getattr(_PLAIN, name) for name in _RANKED):
            return msgspec.structs.replace(self._ranking, explain=True) if query.explain else self._ranking
        ranking = self._ranking
        if not 0 <= query.include_neighbors <= 2:
            raise InvalidRequest("$.include_neighbors: must be from 0 to 2", path="$.include_neighbors")
        return Ranking(
            fusion=self._fusion(query),
            boosts=_boosts(query.boosts, ranking.boosts),
            expansion=self._expansion(query.expansion),
            neighbors=ranking.neighbors if query.neighbors is None else query.neighbors,
            include_neighbors=query.include_neighbors,
            fold_at=self._fold_at if query.fold_duplicates else None,
            explain=query.explain,
            expand=self._lending(query.expand),
        )

    def _fusion(self, query: Query) -> FusionSettings:
        changes: dict[str, Any] = {}
        if query.fusion is not None:
            changes["method"] = query.fusion
        if query.convergence is not None:
            changes["convergence"] = query.convergence
        if query.weights is not None:
            for leg, weight in query.weights.items():
                if leg not in LEGS:
                    raise InvalidRequest(
                        f"$.weights.{leg}: is no leg; choose of {', '.join(LEGS)}", path=f"$.weights.{leg}"
                    )
                self._limits.importance(weight, f"$.weights.{leg}")
            weights = self._ranking.fusion.weights | query.weights
            if not any(weights.values()):
                raise InvalidRequest("$.weights: leave no leg with a weight", path="$.weights")
            changes["weights"] = weights
        return msgspec.structs.replace(self._ranking.fusion, **changes)

    def _lending(self, asked: Expand | None) -> LendSettings | None:
        """None where links would add nothing."""
        if asked is None:
            return None
        if not 1 <= asked.depth <= DEPTH_MAX:
            raise InvalidRequest(f"$.expand.depth: must be from 1 to {DEPTH_MAX}", path="$.expand.depth")
        weight = self._limits.importance(asked.weight, "$.expand.weight")
        return LendSettings(depth=asked.depth, weight=weight) if weight else None

    def _expansion(self, asked: Expansion | None) -> ExpansionSettings:
        settings = self._ranking.expansion
        if asked is None:
            return settings
        if asked.synonyms and not self._expands:
            raise InvalidRequest(
                "$.expansion.synonyms: this service has no dictionary; its operator can set search.wordnet_dir",
                path="$.expansion.synonyms",
            )
        changes: dict[str, float] = {}
        if asked.synonyms is not None:
            changes["synonym_weight"] = asked.synonyms
        if asked.feedback is not None:
            changes["feedback_weight"] = asked.feedback
        return msgspec.structs.replace(settings, **changes)


def digest(question: Question) -> bytes:
    """What the answer depends on, besides the scope, the form and the service's settings, which every key holds."""
    where = encoded(question.where)
    ranking = msgspec.msgpack.encode(question.ranking)
    head = struct.pack(
        "<IdBIIB",
        question.limit,
        question.min_score,
        _MODES.index(question.mode),
        len(where),
        len(ranking),
        question.vector is not None,
    )
    vector = b"" if question.vector is None else question.vector.tobytes()
    text = b"" if question.text is None else question.text.encode()
    return b"".join((head, where, ranking, vector, text))


_MODES: tuple[Mode, ...] = ("vector", "lexical", "hybrid")


def _boosts(asked: Boosts | None, settings: BoostSettings) -> BoostSettings:
    if asked is None:
        return settings
    names = {
        "similarity": "similarity_weight",
        "importance": "importance_weight",
        "recency": "recency_factor",
        "recency_window_s": "recency_window_s",
    }
    changes = {names[name]: value for name in names if (value := getattr(asked, name)) is not None}
    return msgspec.structs.replace(settings, **changes)
