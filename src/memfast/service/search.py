"""Finding memories, in the tier that answers soonest: finished bytes, the user's shard, PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from time import perf_counter
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from memfast.errors import EmbedderUnavailable, StillReading, Unavailable
from memfast.filters import reads_json
from memfast.links import Reached, Spread
from memfast.metrics import Stage, Work, trace
from memfast.model import Scope
from memfast.ports import Clock, LinkStore, MemoryStore, Shard
from memfast.search.encode import (
    Form,
    encode_detailed,
    encode_fragment,
    encode_rows,
    encode_search,
    recode,
)
from memfast.search.expand import Thesaurus
from memfast.search.hybrid import RECENCY_STEP_US, Found, Question, Scored, find, score
from memfast.search.lent import SEEDS, LendSettings, lent
from memfast.search.rank import SLACK, rank
from memfast.service.answers import Answer, Answers, Target, Tier, derive_key
from memfast.service.coherence import Coherence, Epochs
from memfast.service.embeddings import CachedEmbedder
from memfast.service.heat import Heat
from memfast.service.question import Query, Questions, digest
from memfast.service.warm import Warm

__all__ = ["Search", "earliest"]

_T = TypeVar("_T")

_FAR_US = 86_400_000_000
"""A day: no answer is kept that long anyway."""

INLINE_TERMS = 64
"""Words of a query that is answered on the event loop; a page of text takes a thread."""


class _Run(Protocol):
    """Does work on the event loop, or beside it."""

    def __call__(self, work: Callable[[], _T]) -> Awaitable[_T]: ...


class Search:
    """Searches of one user's memories.

    Args:
        store: what answers when nothing else does.
        links: what leads on from hits.
        embedder: makes vectors of texts.
        answers: finished bytes.
        warm: shards.
        heat: counts what is asked.
        coherence: the epochs.
        questions: checks what clients send.
        thesaurus: related words, where there is a dictionary.
        clock: wall time.
        leg_timeout_s: how long a cold search by words may take to read the user's memories, and any to follow links.
        embeds_far: whether the vector of a query has the same bound: a model in the process is only slow at its start.
    """

    def __init__(
        self,
        store: MemoryStore,
        links: LinkStore,
        embedder: CachedEmbedder,
        answers: Answers,
        warm: Warm,
        heat: Heat,
        coherence: Coherence,
        questions: Questions,
        thesaurus: Thesaurus | None,
        clock: Clock,
        leg_timeout_s: float,
        *,
        embeds_far: bool,
    ) -> None:
        self._store = store
        self._links = links
        self._embedder = embedder
        self._answers = answers
        self._warm = warm
        self._heat = heat
        self._coherence = coherence
        self._questions = questions
        self._thesaurus = thesaurus
        self._clock = clock
        self._leg_timeout_s = leg_timeout_s
        self._vector_timeout_s = leg_timeout_s if embeds_far else None

    async def find(
        self, scope: Scope, query: Query, form: Form, away: Unavailable | None = None
    ) -> tuple[Answer, Target]:
        """The finished answer of a search, and what it was kept under.

        With `away` the embedder is not asked: it has failed with this already.

        Raises:
            InvalidRequest: a part of the query is not valid.
            EmbeddingRequired: it needs a vector, and this service makes none.
            Unavailable: the store or, where nothing goes without it, the embedder is away.
        """
        laps = trace()
        laps.work = Work.SEARCH
        asked = self._questions.check(query)
        key = derive_key(scope.id, b"search", form.encode(), digest(asked))
        epochs = self._coherence.epochs(scope.id)
        target = Target("search", key, scope.id, epochs.slot)
        if asked.text is None:
            self._heat.read(scope.id)
        else:
            self._heat.asked(scope.id, key, msgspec.msgpack.encode(query))
        laps.lap(Stage.DECODE)
        answer = self._answers.look(*target)
        laps.lap(Stage.CACHE)
        if answer is None and asked.ranking.expand is not None:
            compute = partial(self._search_links, scope, asked, form, away)
            answer = await self._answers.answer("search", key, scope.id, compute, needs_store=False)
            laps.lap(Stage.WAIT)
        if answer is None:
            shard = self._warm.current(scope.id, epochs)
            if shard is None:
                shard = await self._shard(scope, epochs)
            laps.lap(Stage.WARM)
            if shard is not None:
                asked, degraded = await self._embedded(asked, away)
                answer = await self._search_shard(scope, shard, asked, form, "warm", degraded)
                self._answers.keep("search", key, scope.id, epochs, answer)
                laps.lap(Stage.CACHE)
        if answer is None:
            self._warm.missed(scope)

            async def compute_cold(_epochs: Epochs) -> Answer:
                return await self._search_cold(scope, asked, form, away)

            answer = await self._answers.answer("search", key, scope.id, compute_cold)
            laps.lap(Stage.WAIT)
        return answer, target

    async def embed(self, texts: Sequence[str]) -> None:
        """Have the vectors of queries made and kept.

        Raises:
            Unavailable: the embedder is away, or takes too long.
        """
        async with self._in_time():
            await self._embedder.embed(texts)

    async def _shard(self, scope: Scope, epochs: Epochs) -> Shard | None:
        """The scope's shard if it is in memory, or will be soon."""
        shard = await self._warm.shard(scope, epochs)
        return await self._warm.arriving(scope.id, epochs) if shard is None else shard

    async def _search_links(
        self, scope: Scope, asked: Question, form: Form, away: Unavailable | None, epochs: Epochs
    ) -> Answer:
        """A search that looks at links too: they are in the store alone, so that equal ones are made once."""
        shard = await self._shard(scope, epochs)
        trace().lap(Stage.WARM)
        if shard is None:
            self._warm.missed(scope)
            return await self._search_cold(scope, asked, form, away)
        asked, degraded = await self._embedded(asked, away)
        return await self._search_shard(scope, shard, asked, form, "warm", degraded)

    async def _search_cold(self, scope: Scope, asked: Question, form: Form, away: Unavailable | None) -> Answer:
        if asked.is_plain:
            return await self._search_store(scope, (await self._embedded(asked, away))[0], form)
        shard, embedded = await asyncio.gather(
            self._read(scope), self._embedded(asked, away), return_exceptions=True
        )  # both have a bound
        trace().start()  # each has told its time
        if isinstance(shard, BaseException):
            raise shard
        if isinstance(embedded, BaseException):
            raise embedded
        asked, degraded = embedded
        if shard is None:
            return await self._search_without_words(scope, asked, form)
        return await self._search_shard(scope, shard, asked, form, "cold", degraded)

    async def _read(self, scope: Scope) -> Shard | None:
        """A shard for one answer; None where that takes too long: the next search has it."""
        began = perf_counter()
        try:
            async with asyncio.timeout(self._leg_timeout_s):
                return await self._warm.transient(scope)
        except TimeoutError:
            self._warm.load(scope)
            return None
        finally:
            trace().add(Stage.WARM, perf_counter() - began)

    async def _search_without_words(self, scope: Scope, asked: Question, form: Form) -> Answer:
        """The nearest vectors of a user with so many memories that reading them takes long; the answer is not kept."""
        if asked.vector is None:
            raise StillReading(
                "the user has so many memories that a search by words waits until they are in memory: try again"
            )
        words = () if asked.mode == "vector" and asked.ranking.expand is not None else ("lexical",)
        links = () if asked.ranking.expand is None else ("graph",)
        answer = await self._search_store(scope, asked, form, degraded=words + links)
        return answer._replace(expires_at=self._clock.now())

    async def _search_shard(
        self, scope: Scope, shard: Shard, asked: Question, form: Form, tier: Tier, degraded: Sequence[str]
    ) -> Answer:
        """The answer of a shard to a question that has its vector; `degraded` are legs that it goes without."""
        laps = trace()
        laps.start()
        laps.degraded = degraded
        now = self._clock.now()
        now_us = int(now.timestamp() * 1e6)

        def work() -> bytes:
            if asked.is_plain:
                assert asked.vector is not None
                hits = shard.search(
                    asked.vector, asked.limit, now_us=now_us, where=asked.where, min_score=asked.min_score
                )
                laps.lap(Stage.RANK)
                return encode_rows(hits.blocks, hits.rows, hits.scores, shard.version)
            found = find(shard, asked, now_us=now_us, thesaurus=self._thesaurus)
            laps.lap(Stage.RANK)
            return _encoded(shard, asked, found, degraded)

        keep = not degraded
        short = len(asked.terms) <= INLINE_TERMS and self._warm.is_short(shard, decodes=reads_json(asked.where))
        if asked.ranking.expand is not None:
            run = _at_once if short else self._warm.run
            body, keep = await self._expanded(scope, shard, asked, asked.ranking.expand, now, degraded, run)
        else:
            body = work() if short else await self._warm.run(work)
        body = recode(body, form)
        laps.lap(Stage.ENCODE)
        expires_at = _expiry(shard, now, now_us)
        if asked.ranking.boosts.recency_factor != 1:
            step = now + timedelta(microseconds=RECENCY_STEP_US - now_us % RECENCY_STEP_US)
            expires_at = step if expires_at is None else min(step, expires_at)
        return Answer(body, shard.version, tier, expires_at if keep else now)

    async def _expanded(
        self,
        scope: Scope,
        shard: Shard,
        asked: Question,
        settings: LendSettings,
        now: datetime,
        degraded: Sequence[str],
        run: _Run,
    ) -> tuple[bytes, bool]:
        """The body of an answer whose hits lend to what links lead to, and whether it may be kept."""
        now_us, laps = int(now.timestamp() * 1e6), trace()

        def begin() -> tuple[Scored, Spread]:
            scored = score(shard, asked, now_us=now_us, thesaurus=self._thesaurus)
            seeds = zip(*scored.seeds(SEEDS), strict=True)
            starts = [(shard.id_of(row), worth) for row, worth in seeds if worth > 0]
            return scored, Spread(starts=starts, depth=settings.depth)

        scored, spread = await run(begin)
        laps.lap(Stage.RANK)
        reached, version = await self._reached(scope, spread, shard.version, now)
        laps.lap(Stage.SQL)

        def end() -> bytes:
            if reached is None:
                laps.degraded = (*degraded, "graph")
            lending = None if reached is None else lent(shard, reached, settings, shard.masks(now_us, asked.where))
            found = scored.found(lending)
            laps.lap(Stage.RANK)
            return _encoded(shard, asked, found, laps.degraded)

        return await run(end), not degraded and version == shard.version

    async def _reached(
        self, scope: Scope, spread: Spread, version: int, now: datetime
    ) -> tuple[Sequence[Reached] | None, int]:
        """What the graph leg says, and its version; None where it fails, is late, or is behind the other legs."""
        if not spread.starts:
            return [], version
        try:
            async with asyncio.timeout(self._leg_timeout_s):
                reached, reached_version = await self._links.spread(scope, spread, now=now)
        except (TimeoutError, Unavailable):
            return None, 0
        return (reached, reached_version) if reached_version >= version else (None, 0)

    async def _search_store(self, scope: Scope, asked: Question, form: Form, degraded: Sequence[str] = ()) -> Answer:
        vector = asked.vector
        assert vector is not None
        wanted, laps = asked.limit + SLACK, trace()
        laps.start()
        laps.degraded = degraded
        candidates = await self._store.nearest(scope, vector, wanted, now=self._clock.now(), where=asked.where)
        laps.lap(Stage.SQL)
        hits = rank(candidates, vector, asked.limit, asked.min_score)
        laps.lap(Stage.RANK)
        fragments, scores = [encode_fragment(hit.memory) for hit in hits], [hit.score for hit in hits]
        body = (
            encode_detailed(fragments, scores, candidates.version, degraded=degraded)
            if degraded
            else encode_search(fragments, scores, candidates.version)
        )
        expires_at = earliest([hit.memory.expires_at for hit in hits])
        body = recode(body, form)
        laps.lap(Stage.ENCODE)
        return Answer(body, candidates.version, "cold", expires_at)

    async def _embedded(self, asked: Question, away: Unavailable | None) -> tuple[Question, Sequence[str]]:
        """The question with its vector where it needs one, and the legs that had to be left out.

        An embedder that is away costs a hybrid search its vectors, and a search by vectors alone everything.
        """
        if asked.vector is not None or not asked.needs_vector:
            return asked, ()
        began = perf_counter()
        try:
            vector = await self._vector(asked.text or "", away)
        except Unavailable:
            if asked.mode != "hybrid":
                raise
            return asked, ("vector",)
        finally:
            trace().add(Stage.EMBED, perf_counter() - began)
        return asked.with_vector(vector), ()

    async def _vector(self, text: str, away: Unavailable | None) -> NDArray[np.float32]:
        held = None if away is None else self._embedder.held(text)
        if held is not None:
            return held
        if away is not None:
            raise away
        if self._vector_timeout_s is None:
            return await self._embedder.vector(text)
        async with self._in_time():
            return await self._embedder.vector(text)

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """The bound on making a vector, as the embedder's error."""
        try:
            async with asyncio.timeout(self._vector_timeout_s):
                yield
        except TimeoutError:
            reason = f"the embedder made no vector of the query within {self._vector_timeout_s:g} s"
            raise EmbedderUnavailable(reason) from None


async def _at_once(work: Callable[[], _T]) -> _T:
    return work()


def _encoded(shard: Shard, asked: Question, found: Found, degraded: Sequence[str]) -> bytes:
    if found.explained is None and found.beside is None and not degraded:
        return encode_rows(shard.fragment_tables, found.rows.tolist(), found.scores, shard.version)
    beside = None if found.beside is None else [_beside(shard, rows) for rows in found.beside.T.tolist()]
    about = None if found.explained is None else {"mode": asked.mode, "terms": dict(found.terms or ())}
    return encode_detailed(
        [shard.fragment(row) for row in found.rows.tolist()],
        found.scores,
        shard.version,
        explained=found.explained,
        beside=beside,
        about=about,
        degraded=degraded,
    )


def _beside(shard: Shard, rows: Sequence[int]) -> list[tuple[int, memoryview]]:
    """Distances and fragments of the rows beside a hit, in their order; given are 1 before, 1 after and so on."""
    placed = [((place // 2 + 1) * (-1, 1)[place % 2], row) for place, row in enumerate(rows) if row >= 0]
    return [(distance, shard.fragment(row)) for distance, row in sorted(placed)]


def _expiry(shard: Shard, now: datetime, now_us: int) -> datetime | None:
    """No answer of the shard changes by itself before."""
    left_us = shard.next_expiry_after(now_us) - now_us
    return None if left_us > _FAR_US else now + timedelta(microseconds=max(0, left_us))


def earliest(times: Sequence[datetime | None]) -> datetime | None:
    """The first of those times that are known."""
    return min((time for time in times if time is not None), default=None)
