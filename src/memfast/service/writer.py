"""The one way in which changes reach the store."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from memfast.errors import OutcomeUnknown, StoreUnavailable, Unavailable
from memfast.model import Change, Create, Delta, ForgetReceipt, Memory, Outcome, Patch, Scope
from memfast.ports import MemoryStore
from memfast.service.coherence import Coherence
from memfast.service.warm import Warm

__all__ = ["Writer"]

_T = TypeVar("_T")


class Writer:
    """Runs every write in a task of its own that no caller can cancel: it commits or rolls back as a whole.

    Once it is over, however it ended, the epochs of its scopes are raised, before anybody is told.

    Args:
        store: the store of record.
        coherence: the epochs.
        warm: shards, of which this worker's own follow its commits.
        dimensions: length of a vector.
        pending_max: writes that may be under way at once; one more is refused.
    """

    def __init__(
        self, store: MemoryStore, coherence: Coherence, warm: Warm, dimensions: int, *, pending_max: int = 1024
    ) -> None:
        self._store = store
        self._coherence = coherence
        self._warm = warm
        self._dimensions = dimensions
        self._pending_max = pending_max
        self._pending: set[asyncio.Task[Any]] = set()
        self._stopped = False

    async def commit(self, changes: Sequence[Change], *, now: datetime) -> list[Outcome]:
        """Commit changes; see `ports.MemoryStore.apply`."""
        return await self._run(self._commit(changes, now))

    async def forget(self, scope: Scope, *, now: datetime) -> ForgetReceipt | None:
        """Erase a scope; see `ports.MemoryStore.forget`."""
        return await self._run(self._forget(scope, now))

    async def drain(self, timeout_s: float) -> None:
        """Take no more writes and wait, at most `timeout_s`, for those under way."""
        self._stopped = True
        if self._pending:
            await asyncio.wait(self._pending, timeout=timeout_s)

    async def _commit(self, changes: Sequence[Change], now: datetime) -> list[Outcome]:
        deltas: dict[UUID, Delta | None] = dict.fromkeys((change.scope.id for change in changes), None)
        try:
            outcomes = await self._store.apply(changes, now=now)
            deltas = {scope_id: _delta(scope_id, changes, outcomes, self._dimensions) for scope_id in deltas}
        except Unavailable as error:
            if not error.begun:  # nothing happened: copies stay good, which is what reads live on meanwhile
                deltas.clear()
            raise
        else:
            return outcomes
        finally:
            for scope_id, delta in deltas.items():
                epochs = self._coherence.wrote(scope_id, 0 if delta is None else delta.version)
                self._warm.wrote(scope_id, delta, epochs)
            for scope_id, delta in deltas.items():  # after the last bump: what fails here must not cost one
                if delta is not None and delta.deleted:
                    await self._warm.erase(scope_id)

    async def _forget(self, scope: Scope, now: datetime) -> ForgetReceipt | None:
        begun = True
        try:
            return await self._store.forget(scope, now=now)
        except Unavailable as error:
            begun = error.begun
            raise
        finally:
            if begun:
                self._coherence.wrote(scope.id, 0)
                self._warm.drop(scope.id)
                await self._warm.erase(scope.id)

    async def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._stopped or len(self._pending) >= self._pending_max:
            work.close()
            reason = "the service is stopping" if self._stopped else "too many writes are under way"
            raise StoreUnavailable(f"{reason}; nothing was written", begun=False)
        task = asyncio.create_task(work)
        self._pending.add(task)
        task.add_done_callback(self._finished)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
            raise OutcomeUnknown(
                "the time of the request ran out while the write was under way; it may still happen: read it back "
                "before repeating it"
            ) from None

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._pending.discard(task)
        if not task.cancelled():
            task.exception()  # seen: the caller may have gone


def _delta(scope_id: UUID, changes: Sequence[Change], outcomes: Sequence[Outcome], dimensions: int) -> Delta | None:
    """What a commit did to one scope, or None where a row's vector is not known here."""
    own = [pair for pair in zip(changes, outcomes, strict=True) if pair[0].scope.id == scope_id]
    version = own[0][1].scope_version
    live: dict[UUID, tuple[Memory, NDArray[np.float32]]] = {}
    deleted: dict[UUID, int] = {}
    for change, outcome in own:
        if outcome.status == "deleted":
            live.pop(outcome.id, None)
            deleted[outcome.id] = outcome.version
        elif outcome.status in {"created", "updated"} and outcome.memory is not None:
            vector = change.vector if isinstance(change, Create | Patch) else None
            if vector is None:
                return None
            deleted.pop(outcome.id, None)
            live[outcome.id] = (outcome.memory, vector)
    if not live and not deleted:
        return None
    vectors = np.empty((len(live), dimensions), dtype=np.float32)
    for row, (_, vector) in enumerate(live.values()):
        vectors[row] = vector
    return Delta(
        since=version - len(own),
        version=version,
        purged_to=0,
        memories=[memory for memory, _ in live.values()],
        vectors=vectors,
        deleted=list(deleted.items()),
    )
