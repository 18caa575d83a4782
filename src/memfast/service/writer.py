"""The one way in which changes reach the store."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import datetime
from typing import Any, TypeVar

from memfast.errors import OutcomeUnknown, StoreUnavailable
from memfast.model import Change, ForgetReceipt, Outcome, Scope
from memfast.ports import MemoryStore
from memfast.service.coherence import Coherence

__all__ = ["Writer"]

_T = TypeVar("_T")


class Writer:
    """Runs every write in a task of its own that no caller can cancel: it commits or rolls back as a whole.

    Once it is over, however it ended, the epochs of its scopes are raised, before anybody is told.

    Args:
        store: the store of record.
        coherence: the epochs.
        pending_max: writes that may be under way at once; one more is refused.
    """

    def __init__(self, store: MemoryStore, coherence: Coherence, *, pending_max: int = 1024) -> None:
        self._store = store
        self._coherence = coherence
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
        versions = dict.fromkeys((change.scope.id for change in changes), 0)
        try:
            outcomes = await self._store.apply(changes, now=now)
            for change, outcome in zip(changes, outcomes, strict=True):
                versions[change.scope.id] = max(versions[change.scope.id], outcome.version)
            return outcomes
        finally:
            for scope_id, version in versions.items():
                self._coherence.wrote(scope_id, version)

    async def _forget(self, scope: Scope, now: datetime) -> ForgetReceipt | None:
        version = 0
        try:
            receipt = await self._store.forget(scope, now=now)
            version = receipt.version if receipt else 0
            return receipt
        finally:
            self._coherence.wrote(scope.id, version)

    async def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._stopped or len(self._pending) >= self._pending_max:
            work.close()
            reason = "the service is stopping" if self._stopped else "too many writes are under way"
            raise StoreUnavailable(f"{reason}; nothing was written")
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
