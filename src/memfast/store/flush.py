"""What a set of changes does to the rows of one scope: decided here without a database, carried out by `writes`.

The scope's row is locked while this runs, so the rows as they were read are the rows as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from memfast.claims import Kept
from memfast.errors import Conflict, EmbeddingRequired, NotFound, PreconditionFailed
from memfast.links import Link, LinkKey
from memfast.model import Change, Create, Delete, DropLink, Memory, Outcome, Patch, PutLink, Undelete, target_of
from memfast.store.linking import Linking
from memfast.store.texts import normalise

__all__ = ["Content", "Flush", "Row", "plan"]


class Row(Struct, frozen=True, kw_only=True):
    """A row of `memories`: `memory` is None for a tombstone. `stored` is False for one that this flush makes.

    `vector` is the vector to write, None where the stored one stays. `event` is what made the row, unless that was a
    create or, by `deleted_at`, a delete; `event_at` is when, unless `updated_at` says it.
    """

    memory: Memory | None
    version: int
    stored: bool
    vector: NDArray[np.float32] | None = None
    deleted_at: datetime | None = None
    event: Literal["updated", "undeleted"] | None = None
    event_at: datetime | None = None
    actor: str | None = None

    def live(self, now: datetime) -> bool:
        """Whether readers see it: neither deleted nor expired."""
        return self.memory is not None and (self.memory.expires_at is None or self.memory.expires_at > now)


class Content(Struct, frozen=True):
    """What a tombstone hides: the memory as it was, and its vector; `stored` = that lies where it always did."""

    memory: Memory
    vector: NDArray[np.float32] | None
    stored: bool = False


class Flush(Struct, frozen=True, kw_only=True):
    """What is to be written.

    Attributes:
        rows: rows as they are in the end, by id.
        outcomes: one per change.
        count_delta: how many more memories the scope counts.
        passed: rows that came and went, by id, in order: only history knows them.
        erased: ids whose history is erased first.
        purged: those among them whose stored row does not enter history.
        links: what becomes of links.
    """

    rows: dict[UUID, Row]
    outcomes: list[Outcome]
    count_delta: int
    passed: dict[UUID, list[Row]]
    erased: set[UUID]
    purged: set[UUID]
    links: Linking


def plan(
    changes: Sequence[Change],
    existing: Mapping[UUID, Row],
    deleted: Mapping[UUID, Content] | None = None,
    *,
    first_version: int,
    now: datetime,
    before: Mapping[int, Kept] | None = None,
    links: Mapping[LinkKey, Link] | None = None,
) -> Flush:
    """Apply changes of one scope in order, each seeing those before it.

    Args:
        changes: changes of one scope; the i-th takes version `first_version + i`.
        existing: the stored row of every id that has one and that a change speaks of, and every row with a text that
            a change asks for.
        deleted: what the stored tombstones hide that a change wants back.
        first_version: the version of the first change.
        now: wall time of the flush.
        before: what changes were answered before, by position: they take their version and do nothing.
        links: the stored links that changes speak of, either way round.
    """
    planning = _Plan(existing, deleted or {}, links or {}, now)
    answered = {first_version + position: kept for position, kept in (before or {}).items()}
    outcomes = [
        msgspec.structs.replace(planning.apply(change, version), scope_version=version)
        if version not in answered
        else Outcome(id=target_of(change), scope_version=version, before=answered[version])
        for version, change in enumerate(changes, first_version)
    ]
    delta = sum(
        (row.memory is not None) - (key in existing and existing[key].memory is not None)
        for key, row in planning.rows.items()
    )
    return Flush(
        rows=planning.rows,
        outcomes=outcomes,
        count_delta=delta,
        passed=planning.passed,
        erased=planning.erased,
        purged=planning.purged,
        links=planning.links,
    )


class _Plan:
    """The rows of one scope while changes are applied to them."""

    def __init__(
        self,
        existing: Mapping[UUID, Row],
        deleted: Mapping[UUID, Content],
        links: Mapping[LinkKey, Link],
        now: datetime,
    ) -> None:
        self.rows: dict[UUID, Row] = {}
        self.passed: dict[UUID, list[Row]] = {}
        self.erased: set[UUID] = set()
        self.purged: set[UUID] = set()
        self.links = Linking(links)
        self._existing = existing
        self._deleted = dict(deleted)
        self._now = now
        self._saying: dict[str, set[UUID]] | None = None

    def apply(self, change: Change, version: int) -> Outcome:
        """Make a change, or say why not."""
        if isinstance(change, Create):
            return self._create(change, version)
        if isinstance(change, PutLink | DropLink):
            return self._link(change, version)
        row = self._row(change.id)
        if row is None:
            return _missing(change.id)
        if isinstance(change, Patch):
            return self._patch(change, row, version)
        if isinstance(change, Undelete):
            return self._undelete(change, row, version)
        return self._delete(change, row, version)

    def _create(self, change: Create, version: int) -> Outcome:
        same = self._saying_same(change.memory.text) if change.dedupe else None
        if same is not None:
            return Outcome(id=same.id, status="duplicate", version=same.version, memory=same)
        target = change.memory.id
        row = self._row(target)
        if row is None or row.memory is None or not row.live(self._now):
            if row is not None and row.memory is not None:  # expired, and with it its links
                self.links.sever(target)
            memory = msgspec.structs.replace(change.memory, version=version)
            self._put(memory, change.vector, change.actor)
            return Outcome(id=target, status="created", version=version, memory=memory)
        if change.on_conflict == "ignore":
            return Outcome(id=target, status="duplicate", version=row.version, memory=row.memory)
        if change.on_conflict == "update":
            memory = msgspec.structs.replace(change.memory, created_at=row.memory.created_at, version=version)
            self._put(memory, change.vector, change.actor, event="updated")
            return Outcome(id=target, status="updated", version=version, memory=memory)
        detail = f"$.id: the user has a memory with the id {target}; send on_conflict: update or ignore, or another id"
        return Outcome(id=target, refused=Conflict(detail, path="$.id"))

    def _patch(self, change: Patch, row: Row, version: int) -> Outcome:
        if row.memory is None or not row.live(self._now):
            return _missing(change.id)
        if not _expected(change, row):
            return _other_version(change, row)
        memory = change.applied_to(row.memory, now=self._now, version=version)
        vector = change.vector if change.vector is not None else row.vector
        self._put(memory, vector, change.actor, event="updated")
        return Outcome(id=change.id, status="updated", version=version, memory=memory)

    def _delete(self, change: Delete, row: Row, version: int) -> Outcome:
        if change.expired and (row.memory is None or row.live(self._now)):
            return _missing(change.id)
        if row.memory is not None and not _expected(change, row):
            return _other_version(change, row)
        if change.purge:
            self._purge(change.id, row)
        if row.memory is None:  # deleted before: the same answer, also where If-Match names what was deleted then
            return Outcome(id=change.id, status="deleted", version=row.version)
        if not change.purge:
            self._deleted[change.id] = Content(row.memory, row.vector, stored=row.vector is None)
        self.links.sever(change.id)
        after = Row(memory=None, version=version, stored=row.stored, deleted_at=self._now, actor=change.actor)
        self._replace(change.id, after, passing=not change.purge)
        return Outcome(id=change.id, status="deleted", version=version)

    def _link(self, change: PutLink | DropLink, version: int) -> Outcome:
        if isinstance(change, DropLink):
            dropped = self.links.drop(change.key, automatic=change.automatic)
            if dropped is None:
                return _no_link(change)
            return Outcome(id=target_of(change), status="deleted", version=version, link=dropped)
        for name in ("from_id", "to_id"):
            end = getattr(change.link, name)
            row = self._row(end)
            if row is None or not row.live(self._now):
                return _no_end(end, name, change)
        if change.on_conflict != "update" and (before := self.links.like(change.link)):
            return _kept_link(change, before)
        link, status = self.links.put(msgspec.structs.replace(change.link, version=version))
        return Outcome(id=target_of(change), status=status, version=version, link=link)

    def _purge(self, target: UUID, row: Row) -> None:
        self.passed.pop(target, None)
        self._deleted.pop(target, None)
        self.erased.add(target)
        if row.memory is not None or target in self.rows:
            self.purged.add(target)

    def _undelete(self, change: Undelete, row: Row, version: int) -> Outcome:
        if row.live(self._now):
            return Outcome(id=change.id, refused=Conflict(f"the memory {change.id} is not deleted"))
        content = self._deleted.get(change.id)
        if content is None or row.deleted_at is None or row.deleted_at <= change.since:
            return _unrestorable(change.id)
        if content.memory.expires_at is not None and content.memory.expires_at <= self._now:
            return _unrestorable(change.id)
        if not _expected(change, row):
            return _other_version(change, row)
        vector = content.vector
        if vector is None and not content.stored:
            vector = change.vector if change.text == content.memory.text else None
            if vector is None:
                detail = f"the vector of the memory {change.id} was made by another model"
                return Outcome(id=change.id, memory=content.memory, refused=EmbeddingRequired(detail))
        memory = msgspec.structs.replace(content.memory, version=version)
        self._put(memory, vector, change.actor, event="undeleted", event_at=self._now)
        return Outcome(id=change.id, status="updated", version=version, memory=memory)

    def _row(self, target: UUID) -> Row | None:
        return self.rows.get(target, self._existing.get(target))

    def _put(
        self,
        memory: Memory,
        vector: NDArray[np.float32] | None,
        actor: str | None,
        *,
        event: Literal["updated", "undeleted"] | None = None,
        event_at: datetime | None = None,
    ) -> None:
        before = self._row(memory.id)
        stored = before is not None and before.stored
        after = Row(
            memory=memory,
            version=memory.version,
            stored=stored,
            vector=vector,
            event=event,
            event_at=event_at,
            actor=actor,
        )
        self._replace(memory.id, after)

    def _replace(self, target: UUID, after: Row, *, passing: bool = True) -> None:
        """Put a row in the place of another, which enters history unless it is not `passing`."""
        if self._saying is not None:
            self._note_text(target, self._row(target), after)
        before = self.rows.get(target)
        if before is not None and passing:
            self.passed.setdefault(target, []).append(before)
        self.rows[target] = after

    def _saying_same(self, text: str) -> Memory | None:
        """The live memory with the same text as far as is known here; of several that with the lowest id."""
        if self._saying is None:
            self._saying = {}
            for target, row in {**self._existing, **self.rows}.items():
                self._note_text(target, None, row)
        found = (self._row(target) for target in self._saying.get(normalise(text), ()))
        live = (row.memory for row in found if row is not None and row.memory is not None and row.live(self._now))
        return min(live, key=lambda memory: memory.id, default=None)

    def _note_text(self, target: UUID, before: Row | None, after: Row) -> None:
        assert self._saying is not None
        if before is not None and before.memory is not None:
            self._saying.get(normalise(before.memory.text), set()).discard(target)
        if after.memory is not None:
            self._saying.setdefault(normalise(after.memory.text), set()).add(target)


def _expected(change: Patch | Delete | Undelete, row: Row) -> bool:
    return change.expected_versions is None or row.version in change.expected_versions


def _missing(target: UUID) -> Outcome:
    return Outcome(id=target, refused=NotFound(f"the user has no memory with the id {target}"))


def _no_end(end: UUID, name: str, change: PutLink) -> Outcome:
    refused = NotFound(f"$.{name}: the user has no memory with the id {end}", path=f"$.{name}")
    return Outcome(id=target_of(change), refused=refused)


def _kept_link(change: PutLink, before: list[Link]) -> Outcome:
    if change.on_conflict == "ignore" or any(each.says_as(change.link) for each in before):
        return Outcome(id=target_of(change), status="duplicate", version=before[0].version, link=before[0])
    link = change.link
    detail = (
        f"$.from_id: the memories {link.from_id} and {link.to_id} have another link of the type {link.type}; "
        "import with on_conflict update or ignore"
    )
    return Outcome(id=target_of(change), refused=Conflict(detail, path="$.from_id"))


def _no_link(change: DropLink) -> Outcome:
    key = change.key
    detail = f"the user has no link of the type {key.type} from the memory {key.from_id} to {key.to_id}"
    return Outcome(id=target_of(change), refused=NotFound(detail))


def _unrestorable(target: UUID) -> Outcome:
    detail = f"the memory {target} cannot be restored: it was purged, it has expired, or history keeps it no longer"
    return Outcome(id=target, refused=NotFound(detail))


def _other_version(change: Patch | Delete | Undelete, row: Row) -> Outcome:
    asked = " or ".join(str(version) for version in sorted(change.expected_versions or ())) or "nothing that can match"
    detail = (
        f"version {asked} is asked for, the memory {change.id} has version {row.version}; "
        "get it again and repeat the change"
    )
    return Outcome(id=change.id, refused=PreconditionFailed(detail))
