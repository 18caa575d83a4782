"""What happened to memories, and bringing back those that were deleted."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import msgspec
from msgspec import Struct

from memfast.claims import Claim
from memfast.errors import EmbeddingRequired, NotFound
from memfast.metrics import Stage, measured
from memfast.model import HistoryEvent, Outcome, Scope, Undelete
from memfast.ports import Clock, Embedder, MemoryStore
from memfast.service.cursors import Cursors
from memfast.service.limits import Limits
from memfast.service.writer import Writer

__all__ = ["EventsPage", "History"]


class EventsPage(Struct, frozen=True):
    """A page of events and the cursor of the next one (None on the last), with the scope's version."""

    events: list[HistoryEvent]
    next_cursor: str | None
    version: int


class History:
    """The past of a scope's memories.

    Args:
        store: the store of record.
        writer: the way of every change.
        embedder: for memories whose vector was made by another model.
        limits: bounds on pages.
        cursors: for further pages.
        clock: wall time.
        retention: how long what was replaced or deleted can be reached.
    """

    def __init__(
        self,
        store: MemoryStore,
        writer: Writer,
        embedder: Embedder,
        limits: Limits,
        cursors: Cursors,
        clock: Clock,
        retention: timedelta,
    ) -> None:
        self._store = store
        self._writer = writer
        self._embedder = embedder
        self._limits = limits
        self._cursors = cursors
        self._clock = clock
        self._retention = retention

    async def events(self, scope: Scope, target: UUID, *, limit: int, cursor: str | None) -> EventsPage:
        """One page of what happened to a memory, oldest first, also to one that was deleted, within the retention.

        Raises:
            InvalidRequest: the limit or the cursor is not valid.
            NotFound: nothing is known of that id; another scope's is the same as none.
        """
        binding = b"history:" + scope.id.bytes + target.bytes
        after = 0 if cursor is None else self._cursors.open(cursor, int, binding=binding)
        limit = self._limits.page(limit, "limit")
        since = self._clock.now() - self._retention
        with measured(Stage.SQL):
            page = await self._store.history(scope, target, after=after, limit=limit, since=since)
        if not page.events and after == 0:
            raise NotFound(f"the user has no memory with the id {target}, and history none either")
        following = self._cursors.seal(page.events[-1].version, binding=binding) if page.has_more else None
        return EventsPage(page.events, following, page.version)

    async def undelete(
        self,
        scope: Scope,
        target: UUID,
        *,
        expected_versions: frozenset[int] | None,
        actor: str | None = None,
        claim: Claim | None = None,
    ) -> Outcome:
        """Bring back a memory with its id, its fields, its times and its vector, under a new version.

        `expected_versions` are those of the deletion.

        Raises:
            NotFound: there is nothing to bring back: it never was, was purged, has expired, or history has let it go.
            Conflict: it lives.
            PreconditionFailed: it was deleted under another version.
        """
        now = self._clock.now()
        change = Undelete(
            scope=scope, id=target, since=now - self._retention, expected_versions=expected_versions, actor=actor
        )
        outcome = (await self._writer.commit([change], claim=claim))[0]
        if isinstance(outcome.refused, EmbeddingRequired) and outcome.memory is not None:
            text = outcome.memory.text
            vector = (await self._embedder.embed([text]))[0]
            change = msgspec.structs.replace(change, vector=vector, text=text)
            outcome = (await self._writer.commit([change], claim=claim))[0]
        if outcome.refused is not None:
            raise outcome.refused
        return outcome
