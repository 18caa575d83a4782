"""Storing and changing memories."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from memfast.claims import Claim
from memfast.errors import EmbeddingRequired, InvalidRequest, Rejected
from memfast.metrics import Stage, measured
from memfast.model import EMPTY_OBJECT, Create, Memory, OnConflict, Outcome, Patch, Scope, target_of
from memfast.ports import Clock, Embedder
from memfast.service.associations import Associations
from memfast.service.identifiers import Identifiers
from memfast.service.limits import Limits
from memfast.service.writer import Writer

__all__ = ["Changes", "Draft", "Edit", "Remember"]


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


class Edit(Struct, kw_only=True):
    """Changes to one memory, unchecked. `path` is where they stand in the request."""

    scope: Scope
    id: UUID
    changes: Changes
    expected_versions: frozenset[int] | None = None
    path: str = "$"


class Remember:
    """Creates and changes memories: checks, embeds, commits, then has them linked."""

    def __init__(
        self,
        writer: Writer,
        embedder: Embedder,
        associations: Associations,
        limits: Limits,
        identifiers: Identifiers,
        clock: Clock,
    ) -> None:
        self._writer = writer
        self._associations = associations
        self._embedder = embedder
        self._limits = limits
        self._identifiers = identifiers
        self._clock = clock

    async def create(
        self, scope: Scope, draft: Draft, *, actor: str | None = None, claim: Claim | None = None
    ) -> Outcome:
        """Store one memory; returns after COMMIT.

        Raises:
            Rejected: the draft is not valid or its id is in use.
            Unavailable: the store or the embedder is away; nothing was written.
        """
        outcome = (await self.create_many([(scope, draft)], actor=actor, claim=claim))[0]
        if outcome.refused is not None:
            raise outcome.refused
        return outcome

    async def create_many(
        self,
        drafts: Sequence[tuple[Scope, Draft] | Rejected],
        *,
        actor: str | None = None,
        claim: Claim | None = None,
    ) -> list[Outcome]:
        """Store memories in one transaction; each has its own outcome, in order, and a bad one fails alone.

        Args:
            drafts: drafts with their scopes, or the reason why an item could not even be read.
            actor: the id of the API key.
            claim: of the request, whose items are of one scope then.
        """
        now = self._clock.now()
        outcomes: list[Outcome | None] = [None] * len(drafts)
        creates: dict[int, Create | Patch] = {}
        for position, item in enumerate(drafts):
            try:
                if isinstance(item, Rejected):
                    raise item
                creates[position] = self._checked(*item, now, actor)
            except Rejected as refused:
                known = None if isinstance(item, Rejected) else item[1].id
                outcomes[position] = Outcome(id=known or UUID(int=0), refused=refused)
        return await self._committed(creates, outcomes, claim)

    async def update(
        self,
        scope: Scope,
        target: UUID,
        changes: Changes,
        *,
        expected_versions: frozenset[int] | None,
        actor: str | None = None,
        claim: Claim | None = None,
    ) -> Outcome:
        """Change fields of a memory; a changed text is embedded again unless a vector comes with it.

        Raises:
            NotFound: the scope has no such memory.
            PreconditionFailed: it has none of the versions expected.
        """
        edit = Edit(scope=scope, id=target, changes=changes, expected_versions=expected_versions)
        outcome = (await self.update_many([edit], actor=actor, claim=claim))[0]
        if outcome.refused is not None:
            raise outcome.refused
        return outcome

    async def update_many(
        self, edits: Sequence[Edit | Rejected], *, actor: str | None = None, claim: Claim | None = None
    ) -> list[Outcome]:
        """Change memories in one transaction; each has its own outcome, in order, and a bad one fails alone.

        Args:
            edits: what to change, or the reason why an item could not even be read.
            actor: the id of the API key.
            claim: of the request, whose items are of one scope then.
        """
        outcomes: list[Outcome | None] = [None] * len(edits)
        patches: dict[int, Create | Patch] = {}
        for position, item in enumerate(edits):
            try:
                if isinstance(item, Rejected):
                    raise item
                patches[position] = self._patch(item, actor)
            except Rejected as refused:
                known = UUID(int=0) if isinstance(item, Rejected) else item.id
                outcomes[position] = Outcome(id=known, refused=refused)
        return await self._committed(patches, outcomes, claim)

    async def _committed(
        self, changes: dict[int, Create | Patch], outcomes: list[Outcome | None], claim: Claim | None
    ) -> list[Outcome]:
        """Embed and commit changes by their positions, and fill in the outcomes that are still missing."""
        await self._embed(changes, outcomes)
        if changes:
            own = None if claim is None else claim.of(partial(_merged, changes, outcomes))
            sent = list(changes.values())
            committed = await self._writer.commit(sent, background=len(sent) > 1, claim=own)
            self._associations.noticed(sent, committed)
            return _merged(changes, outcomes, committed)
        return [outcome for outcome in outcomes if outcome is not None]

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

    async def _embed(self, changes: dict[int, Create | Patch], outcomes: list[Outcome | None]) -> None:
        """Fill in missing vectors; where this service makes none, those items are refused and leave `changes`."""
        missing = [position for position, change in changes.items() if change.vector is _NO_VECTOR]
        if not missing:
            return
        try:
            with measured(Stage.EMBED):
                vectors = await self._embedder.embed([_text(changes[position]) for position in missing])
        except EmbeddingRequired as refused:
            for position in missing:
                change = changes.pop(position)
                known = UUID(int=0) if isinstance(change, Create) and change.fresh_id else target_of(change)
                outcomes[position] = Outcome(id=known, refused=refused)
            return
        for position, vector in zip(missing, vectors, strict=True):
            changes[position] = msgspec.structs.replace(changes[position], vector=vector)

    def _patch(self, edit: Edit, actor: str | None) -> Patch:
        check, path = self._limits, edit.path
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
            value = getattr(edit.changes, name)
            if value is None:
                fields[name] = _cleared(name, f"{path}.{name}")
            elif value is not UNSET:
                fields[name] = checked(value, f"{path}.{name}")
        vector = self._patched_vector(edit.changes, f"{path}.embedding")
        if not fields and vector is None:
            raise InvalidRequest(f"{path}: names no field to change", path=path)
        return Patch(
            scope=edit.scope,
            id=edit.id,
            expected_versions=edit.expected_versions,
            actor=actor,
            vector=vector,
            **fields,
        )

    def _patched_vector(self, changes: Changes, path: str) -> NDArray[np.float32] | None:
        if changes.embedding is None:
            raise InvalidRequest(f"{path}: cannot be cleared; leave it out or send another", path=path)
        if not isinstance(changes.embedding, UnsetType):
            return self._limits.vector(changes.embedding, path)
        return _NO_VECTOR if isinstance(changes.text, str) else None


_NO_VECTOR: NDArray[np.float32] = np.empty(0, dtype=np.float32)
"""Stands in a `Create` or a `Patch` until the text is embedded."""

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


def _cleared(name: str, path: str) -> Any:
    if name not in _CLEARED:
        raise InvalidRequest(f"{path}: cannot be cleared", path=path)
    return _CLEARED[name]


def _merged(
    positions: Iterable[int], outcomes: Sequence[Outcome | None], committed: Sequence[Outcome]
) -> list[Outcome]:
    """The outcomes of all items, those that were committed at their positions among those that were refused before."""
    merged = list(outcomes)
    for position, outcome in zip(positions, committed, strict=True):
        merged[position] = outcome
    return [outcome for outcome in merged if outcome is not None]


def _text(change: Create | Patch) -> str:
    text = change.memory.text if isinstance(change, Create) else change.text
    assert isinstance(text, str)
    return text
