"""The lines of an export: what each kind says, how it is made of what is stored, and how it is checked coming in.

The format is described in docs/import-export.md.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Meta, Raw, Struct
from numpy.typing import NDArray

from memfast.errors import InvalidRequest
from memfast.links import DEFAULT_TYPE, Link
from memfast.model import EMPTY_OBJECT, Import, Memory, OnConflict, Past, PutLink, Scope, StoredMemory
from memfast.service.limits import Limits
from memfast.service.links import LinkDraft, checked_link

__all__ = [
    "FORMAT",
    "ErrorLine",
    "HeaderLine",
    "Line",
    "LinkLine",
    "MemoryLine",
    "Reader",
    "TrailerLine",
    "decode_line",
    "encode_record",
]

FORMAT = 1
"""Of the files that this version writes, and the only one that it reads."""

VERSION_MAX = 2**52
"""The highest version that an import may bring: as many are left for what follows."""

_Version = Annotated[int, Meta(ge=1, le=VERSION_MAX)]


class _Line(Struct, kw_only=True, gc=False, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    """A line; `type` says of which kind."""


class HeaderLine(_Line, kw_only=True, tag="header"):
    """The first line: whose vectors these are, and where they lay."""

    format: int
    memfast: str
    lineage: UUID
    namespace: str
    exported_at: datetime
    model: str
    dimensions: int
    generation: int
    user_id: str | None = None


class _Said(_Line, kw_only=True):
    """What a memory says, and whose it is."""

    user_id: str | None = None
    kind: str = "fact"
    tags: list[str] = []
    entities: list[str] = []
    importance: float = 0.5
    metadata: Raw = EMPTY_OBJECT
    agent_id: str | None = None
    run_id: str | None = None
    source: str | None = None
    expires_at: datetime | None = None
    actor: str | None = None
    embedding: bytes | None = None


class MemoryLine(_Said, kw_only=True, tag="memory"):
    """A memory that lives. Written by hand it may be no more than a text and a user."""

    text: str
    id: UUID | None = None
    version: _Version | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    event: Literal["updated", "undeleted"] | None = None
    event_at: datetime | None = None


class DeletedLine(_Line, kw_only=True, tag="deleted"):
    """A memory that was deleted, of which history still knows."""

    id: UUID
    version: _Version
    created_at: datetime
    deleted_at: datetime
    user_id: str | None = None
    actor: str | None = None


class HistoryLine(_Said, kw_only=True, tag="history"):
    """What the memory of the lines before was from `at` until `superseded_at`; without `text` it was deleted."""

    id: UUID
    version: _Version
    event: Literal["created", "updated", "deleted", "undeleted"]
    at: datetime
    superseded_at: datetime
    created_at: datetime
    updated_at: datetime
    text: str | None = None


class LinkLine(_Line, kw_only=True, tag="link"):
    """A link between two memories of the lines before, or of the user. `link_type` is its type."""

    from_id: UUID
    to_id: UUID
    user_id: str | None = None
    link_type: str = DEFAULT_TYPE
    weight: float = 1.0
    directed: bool = False
    metadata: Raw = EMPTY_OBJECT
    created_at: datetime | None = None


class TrailerLine(_Line, kw_only=True, tag="trailer"):
    """The last line of a file that is complete: how many lines lie between the header and this one."""

    lines: int
    memories: int
    deleted: int
    history: int
    users: int
    links: int = 0


class ErrorLine(_Line, kw_only=True, tag="error"):
    """The last line of an export that broke off."""

    detail: str


Line = HeaderLine | MemoryLine | DeletedLine | HistoryLine | LinkLine | TrailerLine | ErrorLine

_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
_KNOWN = "header, memory, deleted, history, link and trailer"


def decode_line(line: bytes) -> Line:
    """A line, decoded; what it says is not checked yet.

    Raises:
        InvalidRequest: it is not JSON, of an unknown kind, or not of this format.
    """
    try:
        return _decoder.decode(line)
    except msgspec.ValidationError as error:
        message, _, path = str(error).rpartition(" - at `")
        path = path.removeprefix("key` in `").rstrip("`") if message else "$"
        hint = f"; this version takes in {_KNOWN}" if path == "$.type" or "field `type`" in str(error) else ""
        raise InvalidRequest(f"{path}: {message or error}{hint}", path=path) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"$: the line is not valid JSON: {error}", path="$") from error


def encode_record(record: StoredMemory | Past | Link, user_id: str) -> Line:
    """The line of what is stored."""
    if isinstance(record, Link):
        return _link_line(record, user_id)
    memory, vector = record.memory, record.vector
    embedding = None if vector is None else vector.astype("<f4", copy=False).tobytes()
    if memory is None and isinstance(record, StoredMemory):
        return DeletedLine(
            user_id=user_id,
            id=record.id,
            version=record.version,
            created_at=record.created_at,
            deleted_at=record.updated_at,
            actor=record.actor,
        )
    own: dict[str, Any] = {"user_id": user_id, "id": record.id, "version": record.version, "actor": record.actor}
    if memory is not None:
        own |= {name: getattr(memory, name) for name in _SAID}
        if bytes(memory.metadata) == b"{}":
            own["metadata"] = EMPTY_OBJECT
    own |= {"created_at": record.created_at, "updated_at": record.updated_at, "embedding": embedding}
    if isinstance(record, StoredMemory):
        return MemoryLine(event=record.event, event_at=record.event_at, **own)
    return HistoryLine(event=record.event, at=record.at, superseded_at=record.superseded_at, **own)


def _link_line(link: Link, user_id: str) -> LinkLine:
    return LinkLine(
        user_id=user_id,
        from_id=link.from_id,
        to_id=link.to_id,
        link_type=link.type,
        weight=link.weight,
        directed=link.directed,
        metadata=EMPTY_OBJECT if bytes(link.metadata) == b"{}" else link.metadata,
        created_at=link.created_at,
    )


_SAID = ("text", "kind", "tags", "entities", "importance", "metadata", "agent_id", "run_id", "source", "expires_at")


class Reader:
    """Makes imports of lines, checked as any request is.

    Args:
        limits: the bounds.
        scope_of: a user's scope, as far as the caller's key reaches.
        on_conflict: for every memory.
        user_id: whose lines those are that name no user.
        actor: who is told to have done it; None leaves the lines' own.
        now: wall time.
    """

    def __init__(
        self,
        limits: Limits,
        scope_of: Callable[[str], Scope],
        *,
        on_conflict: OnConflict,
        user_id: str | None,
        actor: str | None,
        now: datetime,
    ) -> None:
        self._limits = limits
        self._scope_of = scope_of
        self._on_conflict = on_conflict
        self._user_id = user_id
        self._actor = actor
        self._now = now
        self._latest: tuple[str | None, Scope] | None = None
        self.vectors = True
        """Whether the lines' vectors are of the present model."""

    def memory(self, line: MemoryLine) -> Import:
        """An import of a memory, without history; its vector is None where it is to be made.

        Raises:
            Rejected: a field is not valid, or the user is not within reach.
        """
        scope = self._scope(line.user_id)
        created_at = self._time(line.created_at, "created_at") or self._now
        memory = self._memory(
            line,
            line.text,
            scope,
            target=line.id or _derived_id(scope, line),
            version=line.version or 0,
            created_at=created_at,
            updated_at=self._time(line.updated_at, "updated_at") or created_at,
        )
        row = StoredMemory(
            id=memory.id,
            version=memory.version,
            memory=memory,
            created_at=memory.created_at,
            updated_at=memory.updated_at,
            event=line.event,
            event_at=self._time(line.event_at, "event_at"),
            actor=self._who(line.actor),
            vector=self._vector(line.embedding),
        )
        return Import(scope=scope, row=row, past=[], on_conflict=self._on_conflict)

    def deleted(self, line: DeletedLine) -> Import:
        """An import of a deleted memory, without history; see `memory`."""
        row = StoredMemory(
            id=line.id,
            version=line.version,
            memory=None,
            created_at=self._limits.time(line.created_at, "$.created_at"),
            updated_at=self._limits.time(line.deleted_at, "$.deleted_at"),
            actor=self._who(line.actor),
        )
        return Import(scope=self._scope(line.user_id), row=row, past=[], on_conflict=self._on_conflict)

    def link(self, line: LinkLine) -> PutLink:
        """A link between two memories of a user; see `memory`."""
        draft = LinkDraft(
            from_id=line.from_id,
            to_id=line.to_id,
            type=line.link_type,
            weight=line.weight,
            directed=line.directed,
        )
        link = checked_link(self._limits, draft, self._time(line.created_at, "created_at") or self._now)
        link = msgspec.structs.replace(link, metadata=self._metadata(line.metadata))
        return PutLink(scope=self._scope(line.user_id), link=link, on_conflict=self._on_conflict)

    def history(self, line: HistoryLine, parent: Import) -> Past:
        """What the memory `parent` was.

        Raises:
            Rejected: a field is not valid, or the line does not belong there.
        """
        if line.id != parent.id or self._scope(line.user_id) != parent.scope:
            raise InvalidRequest("$.id: history follows the memory that it is of", path="$.id")
        if line.version >= parent.row.version:
            detail = f"$.version: must be lower than the memory's, which is {parent.row.version}"
            raise InvalidRequest(detail, path="$.version")
        if (line.event == "deleted") is not (line.text is None):
            raise InvalidRequest("$.text: is missing where event is deleted, and only there", path="$.text")
        created_at = self._limits.time(line.created_at, "$.created_at")
        updated_at = self._limits.time(line.updated_at, "$.updated_at")
        memory = vector = None
        if line.text is not None:
            vector = self._vector(line.embedding)
            memory = self._memory(
                line,
                line.text,
                parent.scope,
                target=line.id,
                version=line.version,
                created_at=created_at,
                updated_at=updated_at,
            )
        return Past(
            id=line.id,
            version=line.version,
            event=line.event,
            at=self._limits.time(line.at, "$.at"),
            superseded_at=self._limits.time(line.superseded_at, "$.superseded_at"),
            memory=memory,
            created_at=created_at,
            updated_at=updated_at,
            actor=self._who(line.actor),
            vector=vector,
        )

    def _memory(
        self,
        line: _Said,
        text: str,
        scope: Scope,
        *,
        target: UUID,
        version: int,
        created_at: datetime,
        updated_at: datetime,
    ) -> Memory:
        check = self._limits
        return Memory(
            id=target,
            user_id=scope.user_id,
            text=check.text(text, "$.text"),
            kind=check.name(line.kind, "$.kind"),
            tags=check.tags(line.tags, "$.tags") if line.tags else line.tags,
            entities=check.entities(line.entities, "$.entities") if line.entities else line.entities,
            importance=check.importance(line.importance, "$.importance"),
            metadata=self._metadata(line.metadata),
            agent_id=self._name(line.agent_id, "$.agent_id"),
            run_id=self._name(line.run_id, "$.run_id"),
            source=self._name(line.source, "$.source"),
            created_at=created_at,
            updated_at=updated_at,
            expires_at=self._time(line.expires_at, "expires_at"),
            version=version,
        )

    def _scope(self, user_id: str | None) -> Scope:
        """The scope of a line's user, which is most often that of the line before."""
        if self._latest is not None and self._latest[0] == user_id:
            return self._latest[1]
        name = self._user_id if user_id is None else user_id
        if name is None:
            raise InvalidRequest("$.user_id: is missing; name it in the line or for the import", path="$.user_id")
        scope = self._scope_of(self._limits.user_id(name, "$.user_id"))
        self._latest = user_id, scope
        return scope

    def _metadata(self, raw: Raw) -> Raw:
        if bytes(raw) == b"{}":
            return EMPTY_OBJECT
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InvalidRequest(f"$.metadata: is not valid JSON: {error}", path="$.metadata") from error
        if not isinstance(value, dict):
            raise InvalidRequest("$.metadata: must be an object", path="$.metadata")
        return self._limits.metadata(value, "$.metadata")

    def _vector(self, embedding: bytes | None) -> NDArray[np.float32] | None:
        return None if embedding is None or not self.vectors else self._limits.vector(embedding, "$.embedding")

    def _time(self, value: datetime | None, name: str) -> datetime | None:
        return None if value is None else self._limits.time(value, f"$.{name}")

    def _name(self, value: str | None, path: str) -> str | None:
        return None if value is None else self._limits.name(value, path)

    def _who(self, actor: str | None) -> str | None:
        return self._actor if self._actor is not None else self._name(actor, "$.actor")


def _derived_id(scope: Scope, line: MemoryLine) -> UUID:
    """The id of a memory that brings none: the same for the same line, so that it is not taken in twice."""
    digest = blake2b(msgspec.json.encode(line), key=scope.id.bytes, digest_size=16).digest()
    value = int.from_bytes(digest, "big") & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62
    return UUID(int=value)  # version 8: the bits are the application's own (RFC 9562, 5.8)
