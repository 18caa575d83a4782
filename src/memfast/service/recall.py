"""Finding and reading memories."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from uuid import UUID

import msgspec
from msgspec import Struct

from memfast.errors import InvalidRequest, NotFound
from memfast.model import Listing, Memory, Position, Scope, SearchResult
from memfast.ports import Clock, Embedder, MemoryStore
from memfast.search.rank import SLACK, rank
from memfast.service.cursors import Cursors
from memfast.service.limits import Limits

__all__ = ["Found", "ListQuery", "Page", "Query", "Recall"]


class Query(Struct, kw_only=True):
    """A search as a client sends it, unchecked: a text or a vector."""

    text: str | None = None
    embedding: bytes | Sequence[float] | None = None
    limit: int = 10
    min_score: float = 0.0


class ListQuery(Struct, kw_only=True):
    """A listing as a client sends it, unchecked."""

    limit: int = 20
    cursor: str | None = None
    kind: str | None = None
    tag: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    ascending: bool = False


class Found(Struct, frozen=True):
    """Memories by id, in the order asked for, with those that are not there, and the scope's version."""

    memories: list[Memory]
    missing: list[UUID]
    version: int


class Page(Struct, frozen=True):
    """A page of memories, the cursor of the next one (None on the last), and the scope's version."""

    memories: list[Memory]
    next_cursor: str | None
    version: int


class Recall:
    """Reads of one scope."""

    def __init__(self, store: MemoryStore, embedder: Embedder, limits: Limits, cursors: Cursors, clock: Clock) -> None:
        self._store = store
        self._embedder = embedder
        self._limits = limits
        self._cursors = cursors
        self._clock = clock

    async def search(self, scope: Scope, query: Query) -> SearchResult:
        """The memories nearest to a text or a vector, exact.

        Raises:
            InvalidRequest: neither or both of text and vector, or one of them is not valid.
        """
        limit = self._limits.page(query.limit, "$.limit")
        min_score = self._limits.importance(query.min_score, "$.min_score")
        if (query.text is None) == (query.embedding is None):
            raise InvalidRequest("$: must have exactly one of query and embedding", path="$")
        if query.embedding is not None:
            vector = self._limits.vector(query.embedding, "$.embedding")
        else:
            vector = (await self._embedder.embed([self._limits.text(query.text or "", "$.query")]))[0]
        candidates = await self._store.nearest(scope, vector, limit + SLACK, now=self._clock.now())
        return SearchResult(rank(candidates, vector, limit, min_score), candidates.version, "cold")

    async def get(self, scope: Scope, target: UUID) -> Memory:
        """One memory.

        Raises:
            NotFound: the scope has none of that id; another scope's is the same as none.
        """
        found = await self._store.get(scope, [target], now=self._clock.now())
        try:
            return found[0][target]
        except KeyError:
            raise NotFound(f"the user has no memory with the id {target}") from None

    async def get_many(self, scope: Scope, ids: Sequence[UUID]) -> Found:
        """Memories by id, each once, in the order of the request."""
        self._limits.items(len(ids), "$.ids")
        wanted = list(dict.fromkeys(ids))
        memories, version = await self._store.get(scope, wanted, now=self._clock.now())
        present = [memories[target] for target in wanted if target in memories]
        return Found(present, [target for target in wanted if target not in memories], version)

    async def list(self, scope: Scope, query: ListQuery) -> Page:
        """One page of a scope, by (created_at, id).

        Raises:
            InvalidRequest: a parameter or the cursor is not valid.
        """
        binding = _binding(scope, query)
        after = None
        if query.cursor is not None:
            after = self._cursors.open(query.cursor, Position, binding=binding)
        listing = Listing(
            limit=self._limits.page(query.limit, "limit"),
            after=after,
            kind=query.kind,
            tag=query.tag,
            agent_id=query.agent_id,
            run_id=query.run_id,
            ascending=query.ascending,
        )
        page = await self._store.list(scope, listing, now=self._clock.now())
        cursor = None
        if page.has_more:
            last = page.memories[-1]
            cursor = self._cursors.seal(Position(last.created_at, last.id), binding=binding)
        return Page(page.memories, cursor, page.version)


def _binding(scope: Scope, query: ListQuery) -> bytes:
    filters = (query.kind, query.tag, query.agent_id, query.run_id, query.ascending)
    return blake2b(scope.id.bytes + msgspec.msgpack.encode(filters), digest_size=16).digest()
