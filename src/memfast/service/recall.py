"""Reading memories."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

from msgspec import Struct

from memfast.errors import NotFound
from memfast.filters import Filter, all_of, encoded, one_of
from memfast.links import EntityCount
from memfast.metrics import Stage, measured
from memfast.model import Listing, Memory, Position, Scope
from memfast.ports import Clock, MemoryStore
from memfast.search.encode import Form, encode_fragment, fragment_version, recode
from memfast.service.answers import Answer, Answers, Target, derive_key
from memfast.service.coherence import Coherence, Epochs
from memfast.service.cursors import Cursors
from memfast.service.filters import read_filter
from memfast.service.heat import Heat
from memfast.service.limits import Limits
from memfast.service.warm import Warm

__all__ = ["EntitiesPage", "Found", "ListQuery", "Page", "Recall"]


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
    skip: int = 0

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


class EntitiesPage(Struct, frozen=True):
    """A page of entities, the cursor of the next one (None on the last), and the scope's version."""

    entities: list[EntityCount]
    next_cursor: str | None
    version: int


class Recall:
    """Reads of one scope."""

    def __init__(
        self,
        store: MemoryStore,
        answers: Answers,
        warm: Warm,
        heat: Heat,
        coherence: Coherence,
        limits: Limits,
        cursors: Cursors,
        clock: Clock,
    ) -> None:
        self._store = store
        self._answers = answers
        self._warm = warm
        self._heat = heat
        self._coherence = coherence
        self._limits = limits
        self._cursors = cursors
        self._clock = clock

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

    async def entities(self, scope: Scope, *, limit: int, cursor: str | None) -> EntitiesPage:
        """One page of what the scope's memories speak of, in byte order of the names.

        Raises:
            InvalidRequest: the limit or the cursor is not valid.
        """
        self._heat.read(scope.id)
        binding = b"entities:" + scope.id.bytes
        after = None if cursor is None else self._cursors.open(cursor, str, binding=binding)
        with measured(Stage.SQL):
            page = await self._store.entities(scope, after, self._limits.page(limit, "limit"), now=self._clock.now())
        following = self._cursors.seal(page.entities[-1].entity, binding=binding) if page.has_more else None
        return EntitiesPage(page.entities, following, page.version)

    async def _stored(self, scope: Scope, target: UUID) -> tuple[Memory, int]:
        with measured(Stage.SQL):
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
        with measured(Stage.SQL):
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
            skip=query.skip,
        )
        with measured(Stage.SQL):
            page = await self._store.list(scope, listing, now=self._clock.now())
        cursor = None
        if page.has_more:
            last = page.memories[-1]
            cursor = self._cursors.seal(Position(last.created_at, last.id), binding=binding)
        return Page(page.memories, cursor, page.version, page.expires_at)

    async def count(self, scope: Scope, query: ListQuery) -> tuple[int, datetime | None]:
        """How many memories the pages of a listing have together, and when that stops being true by itself.

        Raises:
            InvalidRequest: a parameter is not valid.
        """
        where = query.where(self._limits)
        with measured(Stage.SQL):
            return await self._store.count(scope, where, now=self._clock.now())


def _earliest(memories: Sequence[Memory]) -> datetime | None:
    return min((memory.expires_at for memory in memories if memory.expires_at is not None), default=None)


def _binding(scope: Scope, where: Filter | None, *, ascending: bool) -> bytes:
    return blake2b(b"%b%d%b" % (scope.id.bytes, ascending, encoded(where)), digest_size=16).digest()
