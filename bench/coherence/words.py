"""Searches by words: what each must find, computed from the acknowledged memories alone, one after another."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from bench.coherence.model import Ask, Item, State, Wire, packed
from memfast.kernels import BM25_K1
from memfast.search.fuse import FusionSettings
from memfast.search.words import words_of

__all__ = ["Words"]

LIMIT = 100
"""More than any user has: every hit is told."""
TOLERANCE = 1e-5
"""The service adds in another order, partly in float32, and rounds to 1e-6."""
BM25_B = 0.4
_ENGLISH = words_of("english")
_SETTINGS = FusionSettings()
_WEIGHTS = {"lexical": 0.5, "vector": 0.5, "context": 0.0}


class _Found(Struct):
    results: list[Wire]
    version: int
    degraded: list[str]


@dataclass(frozen=True)
class Words(Ask):
    """A search by words alone, or with a vector of norm 1 a hybrid one, in which both count the same."""

    query: str
    vector: tuple[float, ...] | None = None

    def request(self) -> tuple[str, str, Any]:
        """See `Ask.request`."""
        body = {"user_id": self.user_id, "query": self.query, "mode": "lexical", "limit": LIMIT}
        if self.vector is not None:
            body |= {"embedding": packed(np.array(self.vector)), "weights": _WEIGHTS}
            body["mode"] = "hybrid"
        return "POST", "/v1/search", body

    def holds(self, state: State, now: datetime, status: int, version: int, body: bytes) -> bool:
        """See `Ask.holds`: the same memories, with the same scores, in the order of these."""
        if status != 200:
            return False
        found = msgspec.json.decode(body, type=_Found)
        scores = self.expected(state)
        live = {item.id: item for item in state.live(now) if self.vector is not None or scores[item.id] > 0}
        placed = [(-(hit.score or 0.0), hit.id) for hit in found.results]
        return (
            found.version == version == state.version
            and not found.degraded
            and placed == sorted(placed)
            and {hit.id for hit in found.results} == live.keys()
            and len(found.results) == len(live)
            and all(
                hit.same(self.user_id, live[hit.id], hit.score) and abs(scores[hit.id] + place) < TOLERANCE
                for hit, (place, _) in zip(found.results, placed, strict=True)
            )
        )

    def expected(self, state: State) -> dict[str, float]:
        """The score of every memory that is not deleted, expired ones included, by its id."""
        items = state.items.values()
        scores, ceiling = _bm25(self.query, items)
        shares = {target: min(1.0, score / ceiling) for target, score in scores.items()}
        if self.vector is None or not items:
            return shares
        query = np.array(self.vector) - sum(item.vector for item in items) / (len(items) + _SETTINGS.centre_prior)
        floor = _SETTINGS.vector_floor
        near = {item.id: (float(query @ item.vector) - floor) / (1 - floor) for item in items}
        return {target: 0.5 * share + 0.5 * min(1.0, max(0.0, near[target])) for target, share in shares.items()}


def _bm25(query: str, items: Collection[Item]) -> tuple[dict[str, float], float]:
    """The score of each item by its id, and that of a memory of nothing but the query's words."""
    rows = {item.id: _terms(item.text, item.tags, item.created_at.date()) for item in items}
    mean = sum(map(Counter.total, rows.values())) / max(1, len(rows))
    scores, ceiling = dict.fromkeys(rows, 0.0), 0.0
    for term, weight in _ENGLISH.of_query(query):
        holders = [target for target, counts in rows.items() if counts[term]]
        worth = math.log(1 + (len(rows) - len(holders) + 0.5) / (len(holders) + 0.5)) * weight * (BM25_K1 + 1)
        ceiling += worth
        for target in holders:
            counts = rows[target]
            damping = BM25_K1 * (1 - BM25_B + BM25_B * counts.total() / mean)
            scores[target] += worth * counts[term] / (counts[term] + damping)
    return scores, ceiling


@lru_cache(10_000)
def _terms(text: str, tags: tuple[str, ...], day: date) -> Counter[str]:
    """The terms of a memory, those of its day included, each as often as it occurs."""
    said = "\n".join((text, *tags, f"{day:%-d %B %Y %A}"))
    return Counter([*_ENGLISH.of_text(said), day.isoformat()])
