"""Links between memories: making and removing them, listing them, and what they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct

from memfast.claims import Claim
from memfast.errors import InvalidRequest, NotFound, Rejected
from memfast.links import DEFAULT_TYPE, DEPTH_MAX, Link, LinkKey, LinkQuery, Walk
from memfast.metrics import Stage, measured
from memfast.model import EMPTY_OBJECT, DropLink, Neighbourhood, Outcome, PutLink, Scope, Trail
from memfast.ports import Clock, Graph, LinkStore
from memfast.search.encode import Form, encode_steps, recode
from memfast.service.answers import Answer, Answers, Target, derive_key
from memfast.service.coherence import Coherence, Epochs
from memfast.service.cursors import Cursors
from memfast.service.heat import Heat
from memfast.service.limits import Limits
from memfast.service.warm import Warm
from memfast.service.writer import Writer

__all__ = ["LinkDraft", "Links", "LinksPage", "checked_link"]

_Found = TypeVar("_Found", Neighbourhood, Trail)

_WEIGHT_PLACES = 6
"""Decimal places of a weight: so many that the product of four is never too small for a double."""


class LinkDraft(Struct, kw_only=True):
    """A link as a client sends it, unchecked. `path` is where it stands in the request."""

    from_id: UUID
    to_id: UUID
    type: str = DEFAULT_TYPE
    weight: float = 1.0
    directed: bool = False
    metadata: dict[str, Any] | None = None
    path: str = "$"


class LinksPage(Struct, frozen=True):
    """A page of links and the cursor of the next one (None on the last), with the scope's version."""

    links: list[Link]
    next_cursor: str | None
    version: int


class Links:
    """What the memories of a scope have to do with each other.

    Args:
        store: lists links.
        graph: walks over them.
        writer: the way of every change.
        answers: walks that were made.
        warm: shards, which have the memories that a walk finds.
        heat: counts the reads.
        coherence: when an answer holds.
        limits: bounds on input.
        cursors: for further pages.
        clock: wall time.
    """

    def __init__(
        self,
        store: LinkStore,
        graph: Graph,
        writer: Writer,
        answers: Answers,
        warm: Warm,
        heat: Heat,
        coherence: Coherence,
        limits: Limits,
        cursors: Cursors,
        clock: Clock,
    ) -> None:
        self._store = store
        self._graph = graph
        self._writer = writer
        self._answers = answers
        self._warm = warm
        self._heat = heat
        self._coherence = coherence
        self._limits = limits
        self._cursors = cursors
        self._clock = clock

    async def put(
        self, scope: Scope, draft: LinkDraft, *, actor: str | None = None, claim: Claim | None = None
    ) -> Outcome:
        """Link two memories, or change their link; returns after COMMIT.

        Raises:
            InvalidRequest: the draft is not valid.
            NotFound: one of the memories is not there; another scope's is the same as none.
        """
        outcome = (await self.put_many(scope, [draft], actor=actor, claim=claim))[0]
        if outcome.refused is not None:
            raise outcome.refused
        return outcome

    async def put_many(
        self,
        scope: Scope,
        drafts: Sequence[LinkDraft | Rejected],
        *,
        actor: str | None = None,
        claim: Claim | None = None,
    ) -> list[Outcome]:
        """Link memories in one transaction; each link has its own outcome, in order, and a bad one fails alone.

        Args:
            scope: whose memories they are.
            drafts: links, or the reason why an item could not even be read.
            actor: the id of the API key.
            claim: of the request.
        """
        now = self._clock.now()
        outcomes: list[Outcome | None] = [None] * len(drafts)
        puts: dict[int, PutLink] = {}
        for position, draft in enumerate(drafts):
            try:
                if isinstance(draft, Rejected):
                    raise draft
                puts[position] = PutLink(scope=scope, link=checked_link(self._limits, draft, now), actor=actor)
            except Rejected as refused:
                known = UUID(int=0) if isinstance(draft, Rejected) else draft.from_id
                outcomes[position] = Outcome(id=known, refused=refused)
        if not puts:
            return [outcome for outcome in outcomes if outcome is not None]
        whole = partial(_merged, list(puts), outcomes)
        own = None if claim is None else claim.of(whole)
        return whole(await self._writer.commit(list(puts.values()), background=len(puts) > 1, claim=own))

    async def drop(
        self, scope: Scope, key: LinkKey, *, actor: str | None = None, claim: Claim | None = None
    ) -> Outcome:
        """Remove a link, named either way round if it is undirected.

        Raises:
            NotFound: there is none.
        """
        self._limits.name(key.type, "type")
        outcome = (await self._writer.commit([DropLink(scope=scope, key=key, actor=actor)], claim=claim))[0]
        if outcome.refused is not None:
            raise outcome.refused
        return outcome

    async def list(
        self, scope: Scope, *, memory_id: UUID | None, type_: str | None, limit: int, cursor: str | None
    ) -> LinksPage:
        """One page of a scope's links, or of those of a memory, in the order of their ends' ids and their type.

        Raises:
            InvalidRequest: a parameter or the cursor is not valid.
            NotFound: the scope has no such memory.
        """
        if type_ is not None:
            self._limits.name(type_, "type")
        about = msgspec.msgpack.encode((memory_id, type_))
        binding = b"links:" + scope.id.bytes + about
        query = LinkQuery(
            limit=self._limits.page(limit, "limit"),
            memory_id=memory_id,
            type=type_,
            after=None if cursor is None else self._cursors.open(cursor, LinkKey, binding=binding),
        )
        with measured(Stage.SQL):
            page = await self._store.list(scope, query, now=self._clock.now())
        if not page.found:
            raise NotFound(f"memory_id: the user has no memory with the id {memory_id}", path="memory_id")
        following = self._cursors.seal(page.links[-1].key, binding=binding) if page.has_more else None
        return LinksPage(page.links, following, page.version)

    async def related(self, scope: Scope, walk: Walk, form: Form) -> tuple[Answer, Target]:
        """The memories around one as a finished answer, and what it was kept under; see `ports.Graph.related`.

        Raises:
            InvalidRequest: a parameter is not valid.
            NotFound: the scope has no such memory.
        """
        self._check(walk)
        self._heat.read(scope.id)

        async def compute(epochs: Epochs) -> Answer:
            now = self._clock.now()
            found, results = await self._walked(scope, walk, epochs, now)
            expires_at = now if found.degraded else found.expires_at  # kept, it would name what has come back
            return Answer(recode(_encoded(found, results), form), found.version, "cold", expires_at)

        key = derive_key(scope.id, b"related", form.encode(), msgspec.msgpack.encode(walk))
        slot = self._coherence.epochs(scope.id).slot
        return await self._answers.answer("list", key, scope.id, compute), Target("list", key, scope.id, slot)

    async def _walked(
        self, scope: Scope, walk: Walk, epochs: Epochs, now: datetime
    ) -> tuple[Neighbourhood | Trail, bytes]:
        """What a walk finds, and its memories as JSON: of a shard where that has them as of the same version."""
        shard = self._warm.current(scope.id, epochs)
        if shard is None:
            self._warm.missed(scope)
        else:
            with measured(Stage.SQL):
                trail = _required(await self._graph.trail(scope, walk, now=now), walk)
            rows = shard.rows_of([id_ for id_, _, _ in trail.found]).tolist()
            if trail.version == shard.version and -1 not in rows:  # else somebody has written since
                return trail, encode_steps(shard.fragment_tables, rows, trail.found)
        with measured(Stage.SQL):
            found = _required(await self._graph.related(scope, walk, now=now), walk)
        return found, msgspec.json.encode(found.results)

    def _check(self, walk: Walk) -> None:
        if not 1 <= walk.depth <= DEPTH_MAX:
            raise InvalidRequest(f"depth: must be from 1 to {DEPTH_MAX}, it is {walk.depth}", path="depth")
        self._limits.page(walk.limit, "limit")
        if walk.type is not None:
            self._limits.name(walk.type, "type")
        self._limits.importance(walk.min_weight, "min_weight")


def checked_link(check: Limits, draft: LinkDraft, created_at: datetime) -> Link:
    """A link within its bounds, made then.

    Raises:
        InvalidRequest: a field is not valid.
    """
    path = draft.path
    if draft.from_id == draft.to_id:
        raise InvalidRequest(f"{path}.to_id: must be another memory than from_id", path=f"{path}.to_id")
    return Link(
        from_id=draft.from_id,
        to_id=draft.to_id,
        type=check.name(draft.type, f"{path}.type"),
        weight=round(check.importance(draft.weight, f"{path}.weight"), _WEIGHT_PLACES),
        directed=draft.directed,
        metadata=EMPTY_OBJECT if not draft.metadata else check.metadata(draft.metadata, f"{path}.metadata"),
        created_at=created_at,
        version=0,
    )


def _merged(
    positions: Sequence[int], outcomes: Sequence[Outcome | None], committed: Sequence[Outcome]
) -> list[Outcome]:
    """The outcomes of all items: those that were committed, at their positions among those refused before."""
    merged = list(outcomes)
    for position, outcome in zip(positions, committed, strict=True):
        merged[position] = outcome
    return [outcome for outcome in merged if outcome is not None]


def _encoded(found: Neighbourhood | Trail, results: bytes) -> bytes:
    engine, degraded = map(msgspec.json.encode, (found.engine, found.degraded))
    return b'{"results":%b,"version":%d,"engine":%b,"degraded":%b}' % (results, found.version, engine, degraded)


def _required(found: _Found | None, walk: Walk) -> _Found:
    if found is None:
        raise NotFound(f"the user has no memory with the id {walk.start}")
    return found
