"""Finding and reading memories."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from memfast.errors import InvalidRequest, NotFound
from memfast.filters import Filter, TagsMode, all_of, encoded, one_of, reads_json
from memfast.model import Listing, Memory, Position, Scope
from memfast.ports import Clock, MemoryStore, Shard
from memfast.search.encode import Form, encode_fragment, encode_rows, encode_search, fragment_version, recode
from memfast.search.rank import SLACK, rank
from memfast.service.answers import Answer, Answers, Target, derive_key
from memfast.service.coherence import Coherence, Epochs
from memfast.service.cursors import Cursors
from memfast.service.embeddings import CachedEmbedder
from memfast.service.filters import narrowing, read_filter
from memfast.service.heat import Heat
from memfast.service.limits import Limits
from memfast.service.warm import Warm

__all__ = ["Found", "ListQuery", "Page", "Query", "Recall"]


class Query(Struct, kw_only=True):
    """A search as a client sends it, unchecked: a text or a vector."""

    text: str | None = None
    embedding: bytes | Sequence[float] | None = None
    limit: int = 10
    min_score: float = 0.0
    filter: dict[str, Any] | None = None
    tags: Sequence[str] = ()
    tags_mode: TagsMode = "any"


class _Checked(Struct, frozen=True):
    """A search whose parts are valid: by text, or by vector."""

    text: str | None
    vector: NDArray[np.float32] | None
    limit: int
    min_score: float
    where: Filter | None

    def digest(self) -> bytes:
        """What the answer depends on, besides the scope and the form."""
        by_text = self.text is not None
        asked = self.text.encode() if self.text is not None else b"" if self.vector is None else self.vector.tobytes()
        where = encoded(self.where)
        return struct.pack("<Id?I", self.limit, self.min_score, by_text, len(where)) + where + asked


class ListQuery(Struct, kw_only=True):
    """A listing as a client sends it, unchecked."""

    limit: int = 20
    cursor: str | None = None
    kind: str | None = None
    tag: str | None = None
    entity: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    filter: dict[str, Any] | None = None
    ascending: bool = False

    def where(self, limits: Limits) -> Filter | None:
        """What is listed: memories that meet every parameter."""
        named = {
            "kind": self.kind,
            "tags": self.tag,
            "entities": self.entity,
            "agent_id": self.agent_id,
            "run_id": self.run_id,
        }
        parts = [one_of(field, [value]) for field, value in named.items() if value is not None]
        if self.filter is not None:
            parts.append(read_filter(self.filter, limits, "filter"))
        return all_of(parts) if parts else None


class Found(Struct, frozen=True):
    """Memories by id, in the order asked for, with those that are not there, and the scope's version."""

    memories: list[Memory]
    missing: list[UUID]
    version: int
    expires_at: datetime | None


class Page(Struct, frozen=True):
    """A page of memories, the cursor of the next one (None on the last), and the scope's version.

    `expires_at` is when the page stops being true by itself.
    """

    memories: list[Memory]
    next_cursor: str | None
    version: int
    expires_at: datetime | None


class Recall:
    """Reads of one scope."""

    def __init__(
        self,
        store: MemoryStore,
        embedder: CachedEmbedder,
        answers: Answers,
        warm: Warm,
        heat: Heat,
        coherence: Coherence,
        limits: Limits,
        cursors: Cursors,
        clock: Clock,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._answers = answers
        self._warm = warm
        self._heat = heat
        self._coherence = coherence
        self._limits = limits
        self._cursors = cursors
        self._clock = clock

    async def search(self, scope: Scope, query: Query, form: Form) -> tuple[Answer, Target]:
        """The finished answer of a search by text or vector, exact, and what it was kept under.

        Raises:
            InvalidRequest: neither or both of text and vector, or one of them is not valid.
        """
        asked = self._checked(query)
        key = derive_key(scope.id, b"search", form.encode(), asked.digest())
        epochs = self._coherence.epochs(scope.id)
        target = Target("search", key, scope.id, epochs.slot)
        if asked.text is None:
            self._heat.read(scope.id)
        else:
            self._heat.asked(scope.id, key, msgspec.msgpack.encode(query))
        answer = self._answers.look(*target)
        if answer is None:
            shard = self._warm.current(scope.id, epochs)
            if shard is None:
                shard = await self._warm.shard(scope, epochs)
            if shard is not None:
                vector = asked.vector if asked.vector is not None else await self._vector(asked)
                answer = await self._search_shard(shard, vector, asked, form)
                self._answers.keep("search", key, scope.id, epochs, answer)
        if answer is None:
            self._warm.missed(scope)

            async def compute(_epochs: Epochs) -> Answer:
                return await self._search_store(scope, await self._vector(asked), asked, form)

            answer = await self._answers.answer("search", key, scope.id, compute)
        return answer, target

    async def _vector(self, asked: _Checked) -> NDArray[np.float32]:
        if asked.vector is not None:
            return asked.vector
        return await self._embedder.vector(asked.text or "")

    async def _search_shard(self, shard: Shard, vector: NDArray[np.float32], asked: _Checked, form: Form) -> Answer:
        now = self._clock.now()
        now_us = int(now.timestamp() * 1e6)

        def work() -> bytes:
            hits = shard.search(vector, asked.limit, now_us=now_us, where=asked.where, min_score=asked.min_score)
            return encode_rows(hits.blocks, hits.rows, hits.scores, shard.version)

        body = work() if self._warm.is_short(shard, decodes=reads_json(asked.where)) else await self._warm.run(work)
        return Answer(recode(body, form), shard.version, "warm", _expiry(shard, now, now_us))

    async def _search_store(self, scope: Scope, vector: NDArray[np.float32], asked: _Checked, form: Form) -> Answer:
        wanted = asked.limit + SLACK
        candidates = await self._store.nearest(scope, vector, wanted, now=self._clock.now(), where=asked.where)
        hits = rank(candidates, vector, asked.limit, asked.min_score)
        body = encode_search(
            [encode_fragment(hit.memory) for hit in hits], [hit.score for hit in hits], candidates.version
        )
        return Answer(recode(body, form), candidates.version, "cold", _earliest([hit.memory for hit in hits]))

    def _checked(self, query: Query) -> _Checked:
        limit = self._limits.page(query.limit, "$.limit")
        min_score = self._limits.importance(query.min_score, "$.min_score")
        if (query.text is None) == (query.embedding is None):
            raise InvalidRequest("$: must have exactly one of query and embedding", path="$")
        where = narrowing(query.filter, query.tags, query.tags_mode, self._limits)
        if query.embedding is not None:
            return _Checked(None, self._limits.vector(query.embedding, "$.embedding"), limit, min_score, where)
        text = self._limits.text(query.text or "", "$.query")
        return _Checked(text, None, limit, min_score, where)

    async def get(self, scope: Scope, target: UUID, form: Form) -> tuple[Answer, Target]:
        """One memory as a finished answer, whose version is the memory's, and what it was kept under.

        Raises:
            NotFound: the scope has none of that id; another scope's is the same as none.
        """
        self._heat.read(scope.id)
        key = derive_key(scope.id, b"get", form.encode(), target.bytes)
        epochs = self._coherence.epochs(scope.id)
        shard = self._warm.current(scope.id, epochs)
        if shard is not None:
            fragment = shard.get(target, now_us=int(self._clock.now().timestamp() * 1e6))
            if fragment is None:
                raise NotFound(f"the user has no memory with the id {target}")
            body = recode(fragment + b"}", form)
            answer = Answer(body, fragment_version(fragment), "warm", None, shard.version)
        else:

            async def compute(_epochs: Epochs) -> Answer:
                memory, version = await self._stored(scope, target)
                body = recode(encode_fragment(memory) + b"}", form)
                return Answer(body, memory.version, "cold", memory.expires_at, version)

            answer = await self._answers.answer("get", key, scope.id, compute)
        return answer, Target("get", key, scope.id, epochs.slot)

    async def _stored(self, scope: Scope, target: UUID) -> tuple[Memory, int]:
        memories, version = await self._store.get(scope, [target], now=self._clock.now())
        try:
            return memories[target], version
        except KeyError:
            raise NotFound(f"the user has no memory with the id {target}") from None

    async def get_many(self, scope: Scope, ids: Sequence[UUID]) -> Found:
        """Memories by id, each once, in the order of the request."""
        self._limits.items(len(ids), "$.ids")
        self._heat.read(scope.id)
        wanted = list(dict.fromkeys(ids))
        memories, version = await self._store.get(scope, wanted, now=self._clock.now())
        present = [memories[target] for target in wanted if target in memories]
        missing = [target for target in wanted if target not in memories]
        return Found(present, missing, version, _earliest(present))

    async def list(self, scope: Scope, query: ListQuery) -> Page:
        """One page of a scope, by (created_at, id).

        Raises:
            InvalidRequest: a parameter or the cursor is not valid.
        """
        self._heat.read(scope.id)
        where = query.where(self._limits)
        binding = _binding(scope, where, ascending=query.ascending)
        after = None
        if query.cursor is not None:
            after = self._cursors.open(query.cursor, Position, binding=binding)
        listing = Listing(
            limit=self._limits.page(query.limit, "limit"),
            after=after,
            where=where,
            ascending=query.ascending,
        )
        page = await self._store.list(scope, listing, now=self._clock.now())
        cursor = None
        if page.has_more:
            last = page.memories[-1]
            cursor = self._cursors.seal(Position(last.created_at, last.id), binding=binding)
        return Page(page.memories, cursor, page.version, page.expires_at)


def _expiry(shard: Shard, now: datetime, now_us: int) -> datetime | None:
    """No answer of the shard changes by itself before."""
    left_us = shard.next_expiry_after(now_us) - now_us
    return None if left_us > _FAR_US else now + timedelta(microseconds=max(0, left_us))


_FAR_US = 86_400_000_000
"""A day: no answer is kept that long anyway."""


def _earliest(memories: Sequence[Memory]) -> datetime | None:
    return min((memory.expires_at for memory in memories if memory.expires_at is not None), default=None)


def _binding(scope: Scope, where: Filter | None, *, ascending: bool) -> bytes:
    return blake2b(b"%b%d%b" % (scope.id.bytes, ascending, encoded(where)), digest_size=16).digest()
