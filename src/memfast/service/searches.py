"""Many searches in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

import msgspec

from memfast.errors import EmbedderChanged, MemfastError, Rejected, Unavailable
from memfast.kernels import Trace
from memfast.metrics import CURRENT, Meter, trace, unread
from memfast.model import Scope
from memfast.search.encode import Form
from memfast.service.answers import Answer
from memfast.service.freshness import Demand, Freshness
from memfast.service.question import Query
from memfast.service.search import Search

__all__ = ["AT_ONCE", "BatchedSearch", "Searches"]

AT_ONCE = 4
"""Searches of one request that run at the same time."""


class BatchedSearch(NamedTuple):
    """One search of a request: of whom, for what, and how new its answer must be."""

    scope: Scope
    query: Query
    demand: Demand | None = None


class Searches:
    """Runs several searches: their texts are embedded in one batch, and equal searches are made once.

    Args:
        search: makes each of them, and their vectors beforehand.
        freshness: sees that each is new enough.
        meter: counts the stages of each.
    """

    def __init__(self, search: Search, freshness: Freshness, meter: Meter | None = None) -> None:
        self._search = search
        self._meter = meter or unread()
        self._freshness = freshness

    async def run(self, searches: Sequence[BatchedSearch | Rejected], form: Form) -> list[Answer | MemfastError]:
        """An answer for each search, or why there is none; one that fails leaves the others alone.

        Args:
            searches: what to find, or the reason why one could not even be read.
            form: how the answers are encoded.
        """
        distinct: dict[bytes, BatchedSearch] = {}
        keys: list[bytes | Rejected] = []
        for item in searches:
            if isinstance(item, Rejected):
                keys.append(item)
                continue
            key = item.scope.id.bytes + msgspec.msgpack.encode((item.query, item.demand))
            distinct[key] = item
            keys.append(key)
        away = await self._embed([item.query for item in distinct.values()])
        turns, whole = asyncio.Semaphore(AT_ONCE), trace()
        traces: list[Trace] = []

        async def search(item: BatchedSearch) -> Answer | MemfastError:
            scope, query, demand = item
            async with turns:
                laps = Trace(whole.request_id, whole.parent)
                laps.whole = whole
                CURRENT.set(laps)  # of this task alone, for each of them has stages of its own
                try:
                    found = await self._freshness.read(
                        scope.id, demand, lambda: self._search.find(scope, query, form, away)
                    )
                    return found[0]
                except MemfastError as error:
                    return error
                finally:
                    self._meter.ended(laps)
                    traces.append(laps)

        answers = await asyncio.gather(*map(search, distinct.values()))
        _add_longest(traces)
        for answer in answers:
            if isinstance(answer, EmbedderChanged):  # of all of them: the request begins anew
                raise answer
        found = dict(zip(distinct, answers, strict=True))
        return [key if isinstance(key, Rejected) else found[key] for key in keys]

    async def _embed(self, queries: Sequence[Query]) -> Unavailable | None:
        """Have every text's vector made and kept, so that each search finds its own; the error when that fails."""
        texts = [query.text for query in queries if query.text and query.embedding is None and query.mode != "lexical"]
        if len(texts) < 2:  # a single text needs no batch
            return None
        try:
            await self._search.embed(texts)
        except Rejected:  # of one text: its own search will say so
            return None
        except Unavailable as error:
            return error
        return None


def _add_longest(traces: Sequence[Trace]) -> None:
    """Add the stages of the longest search to those of the request: searches run beside each other."""
    longest = max(traces, key=lambda each: sum(max(0.0, spent_s) for spent_s in each.spent), default=None)
    if longest is None:
        return
    now_s = perf_counter()
    for stage, (begun_s, spent_s) in enumerate(zip(longest.begun, longest.spent, strict=True)):
        if spent_s >= 0:
            trace().add(stage, spent_s, now_s - begun_s - spent_s)
