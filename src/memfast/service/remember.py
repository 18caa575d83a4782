"""Storing and changing memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from memfast.errors import EmbeddingRequired, InvalidRequest, Rejected
from memfast.model import EMPTY_OBJECT, Create, Memory, OnConflict, Outcome, Patch, Scope
from memfast.ports import Clock, Embedder
from memfast.service.identifiers import Identifiers
from memfast.service.limits import Limits
from memfast.service.writer import Writer

__all__ = ["Changes", "Draft", "Remember"]


class Draft(Struct, kw_only=True):
    """A memory as a client sends it, unchecked. `path` is where it stands in the request."""

    text: str
    id: UUID | None = None
    kind: str = "fact"
    tags: Sequence[str] = ()
    entities: Sequence[str] = ()
    importance: float = 0.5
    metadata: dict[str, Any] | None = None
    agent_id: str | None = None
    run_id: str | None = None
    source: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    embedding: bytes | Sequence[float] | None = None
    on_conflict: OnConflict = "error"
    dedupe: bool = False
    path: str = "$"


class Changes(Struct, kw_only=True):
    """Fields to change, unchecked: UNSET leaves a field alone, None clears it."""

    text: str | UnsetType | None = UNSET
    kind: str | UnsetType | None = UNSET
    tags: list[str] | UnsetType | None = UNSET
    entities: list[str] | UnsetType | None = UNSET
    importance: float | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET
    agent_id: str | UnsetType | None = UNSET
    run_id: str | UnsetType | None = UNSET
    source: str | UnsetType | None = UNSET
    expires_at: datetime | UnsetType | None = UNSET
    embedding: bytes | list[float] | UnsetType | None = UNSET


class Remember:
    """Creates and changes memories: checks, embeds, then commits."""

    def __init__(
        self, writer: Writer, embedder: Embedder, limits: Limits, identifiers: Identifiers, clock: Clock
    ) -> None:
        self._writer = writer
        self._embedder = embedder
        self._limits = limits
        self._identifiers = identifiers
        self._clock = clock

    async def create(self, scope: Scope, draft: Draft, *, actor: str | None = None) -> Outcome:
        """Store one memory; returns after COMMIT.

        Raises:
            Rejected: the draft is not valid or its id is in use.
            Unavailable: the store or the embedder is away; nothing was written.
        """
        outcome = (await self.create_many([(scope, draft)], actor=actor))[0]
        if outcome.refused is not None:
            raise outcome.refused
        return outcome

    async def create_many(
        self, drafts: Sequence[tuple[Scope, Draft] | Rejected], *, actor: str | None = None
    ) -> list[Outcome]:
        """Store memories in one transaction; each has its own outcome, in order, and a bad one fails alone.

        Args:
            drafts: drafts with their scopes, or the reason why an item could not even be read.
            actor: the id of the API key.
        """
        now = self._clock.now()
        outcomes: list[Outcome | None] = [None] * len(drafts)
        creates: dict[int, Create] = {}
        for position, item in enumerate(drafts):
            try:
                if isinstance(item, Rejected):
                    raise item
                creates[position] = self._checked(*item, now, actor)
            except Rejected as refused:
                known = None if isinstance(item, Rejected) else item[1].id
                outcomes[position] = Outcome(id=known or UUID(int=0), refused=refused)
        await self._embed(creates, outcomes)
        if creates:
            committed = await self._writer.commit(list(creates.values()), background=len(creates) > 1)
            for position, outcome in zip(creates, committed, strict=True):
                outcomes[position] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    async def update(
        self,
        scope: Scope,
        target: UUID,
        changes: Changes,
        *,
        expected_versions: frozenset[int] | None,
        actor: str | None = None,
    ) -> Outcome:
        """Change fields of a memory; a changed text is embedded again unless a vector comes with it.

        Raises:
            NotFound: the scope has no such memory.
            PreconditionFailed: it has none of the versions expected.
        """
        fields = await self._fields(changes)
        patch = Patch(scope=scope, id=target, expected_versions=expected_versions, actor=actor, **fields)
        outcome = (await self._writer.commit([patch]))[0]
        if outcome.refused is not None:
            raise outcome.refused
        return outcome

    def _checked(self, scope: Scope, draft: Draft, now: datetime, actor: str | None) -> Create:
        check, path = self._limits, draft.path
        created_at = now if draft.created_at is None else check.time(draft.created_at, f"{path}.created_at")
        expires_at = None if draft.expires_at is None else check.time(draft.expires_at, f"{path}.expires_at")
        if expires_at is not None and expires_at <= now:
            raise InvalidRequest(f"{path}.expires_at: lies in the past", path=f"{path}.expires_at")
        memory = Memory(
            id=draft.id or self._identifiers.next(),
            user_id=scope.user_id,
            text=check.text(draft.text, f"{path}.text"),
            kind=check.name(draft.kind, f"{path}.kind"),
            tags=check.tags(draft.tags, f"{path}.tags"),
            entities=check.entities(draft.entities, f"{path}.entities"),
            importance=check.importance(draft.importance, f"{path}.importance"),
            metadata=EMPTY_OBJECT if not draft.metadata else check.metadata(draft.metadata, f"{path}.metadata"),
            agent_id=self._optional(draft.agent_id, f"{path}.agent_id"),
            run_id=self._optional(draft.run_id, f"{path}.run_id"),
            source=self._optional(draft.source, f"{path}.source"),
            created_at=created_at,
            updated_at=now,
            expires_at=expires_at,
            version=0,
        )
        vector = _NO_VECTOR if draft.embedding is None else check.vector(draft.embedding, f"{path}.embedding")
        return Create(
            scope=scope,
            memory=memory,
            vector=vector,
            on_conflict=draft.on_conflict,
            fresh_id=draft.id is None,
            dedupe=draft.dedupe,
            actor=actor,
        )

    def _optional(self, value: str | None, path: str) -> str | None:
        return None if value is None else self._limits.name(value, path)

    async def _embed(self, creates: dict[int, Create], outcomes: list[Outcome | None]) -> None:
        """Fill in missing vectors; where this service makes none, those items are refused and leave `creates`."""
        missing = [position for position, create in creates.items() if create.vector is _NO_VECTOR]
        if not missing:
            return
        try:
            vectors = await self._embedder.embed([creates[position].memory.text for position in missing])
        except EmbeddingRequired as refused:
            for position in missing:
                create = creates.pop(position)
                target = UUID(int=0) if create.fresh_id else create.memory.id
                outcomes[position] = Outcome(id=target, refused=refused)
            return
        for position, vector in zip(missing, vectors, strict=True):
            creates[position] = msgspec.structs.replace(creates[position], vector=vector)

    async def _fields(self, changes: Changes) -> dict[str, Any]:
        """The fields of a `Patch`, checked."""
        check = self._limits
        checks: dict[str, Callable[[Any, str], Any]] = {
            "text": check.text,
            "kind": check.name,
            "tags": check.tags,
            "entities": check.entities,
            "importance": check.importance,
            "metadata": check.metadata,
            "agent_id": check.name,
            "run_id": check.name,
            "source": check.name,
            "expires_at": check.time,
        }
        fields: dict[str, Any] = {}
        for name, checked in checks.items():
            value = getattr(changes, name)
            if value is None:
                fields[name] = _cleared(name)
            elif value is not UNSET:
                fields[name] = checked(value, f"$.{name}")
        vector = await self._patched_vector(changes)
        if not fields and vector is None:
            raise InvalidRequest("$: names no field to change", path="$")
        return fields | {"vector": vector}

    async def _patched_vector(self, changes: Changes) -> NDArray[np.float32] | None:
        if changes.embedding is None:
            raise InvalidRequest("$.embedding: cannot be cleared; leave it out or send another", path="$.embedding")
        if not isinstance(changes.embedding, UnsetType):
            return self._limits.vector(changes.embedding, "$.embedding")
        if isinstance(changes.text, str):
            vectors = await self._embedder.embed([self._limits.text(changes.text, "$.text")])
            return np.asarray(vectors[0])
        return None


_NO_VECTOR: NDArray[np.float32] = np.empty(0, dtype=np.float32)
"""Stands in a `Create` until the text is embedded."""

_CLEARED: dict[str, Any] = {
    "kind": "fact",
    "tags": [],
    "entities": [],
    "importance": 0.5,
    "metadata": EMPTY_OBJECT,
    "agent_id": None,
    "run_id": None,
    "source": None,
    "expires_at": None,
}


def _cleared(name: str) -> Any:
    if name not in _CLEARED:
        raise InvalidRequest(f"$.{name}: cannot be cleared", path=f"$.{name}")
    return _CLEARED[name]
