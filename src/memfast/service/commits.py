"""One flush: the transaction, then the epochs of its scopes and this worker's own shards, before anybody is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from memfast.claims import Claim
from memfast.errors import DeadlineExceeded, OutcomeUnknown, Unavailable
from memfast.model import AnyChange, Create, Delta, ForgetReceipt, Memory, Outcome, Patch, Scope
from memfast.ports import Clock, MemoryStore
from memfast.service.coherence import Coherence
from memfast.service.warm import Warm

__all__ = ["Commits", "RolledBackError"]

SINGLY_AT_ONCE = 2
"""Transactions at once when the changes of a failed flush are written one by one."""

_LATE = DeadlineExceeded("its turn did not come in time after a transaction had failed; nothing was written")


class RolledBackError(Exception):
    """A transaction was rolled back for a reason that one of its changes alone may be: they may fare better apart."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Commits:
    """Carries flushes out. Once a transaction is over, however it ended, the epochs of its scopes are raised.

    Args:
        store: the store of record.
        coherence: the epochs.
        warm: shards, of which this worker's own follow its commits.
        dimensions: length of a vector.
        clock: wall time for what is stored.
        tell: is called after each transaction, however it ended, and must not raise.
    """

    def __init__(
        self,
        store: MemoryStore,
        coherence: Coherence,
        warm: Warm,
        dimensions: int,
        clock: Clock,
        tell: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._coherence = coherence
        self._warm = warm
        self._dimensions = dimensions
        self._clock = clock
        self._tell = tell or (lambda: None)

    async def write(self, changes: Sequence[AnyChange]) -> list[Outcome]:
        """Commit changes in one transaction; see `ports.MemoryStore.apply`.

        Raises:
            RolledBackError: nothing was written, and one of the changes may be the reason.
            Unavailable: the reason is the store.
        """
        deltas: dict[UUID, Delta | None] = dict.fromkeys(change.scope.id for change in changes)
        try:
            outcomes = await self._apply(changes)
            deltas = _deltas(changes, outcomes, self._dimensions)
        except Unavailable as error:
            if not error.begun:  # nothing happened: copies stay good, which is what reads live on meanwhile
                deltas.clear()
            raise
        finally:
            for scope_id, delta in deltas.items():
                epochs = self._coherence.wrote(scope_id, 0 if delta is None else delta.version)
                self._warm.wrote(scope_id, delta, epochs)
            self._tell()
        deleted = {
            change.scope.id
            for change, outcome in zip(changes, outcomes, strict=True)
            if outcome.status == "deleted" and outcome.link is None
        }
        for scope_id in deleted:  # after the last bump: what fails here must not cost one
            await self._warm.erase(scope_id)
        return outcomes

    async def write_singly(
        self, changes: Sequence[AnyChange], told: Callable[[int, Outcome | Exception], None], timeout_s: float
    ) -> list[Outcome | Exception]:
        """Commit changes each in a transaction of its own, those of one scope in order.

        Args:
            changes: what could not be written together.
            told: is given the position of each change with its outcome, or why it has none, as soon as that is known.
            timeout_s: changes whose turn has not come by then are told that nothing was written of them.

        Returns:
            What `told` was given, in the order of the changes.
        """
        results: list[Outcome | Exception] = [_LATE] * len(changes)
        scopes: dict[UUID, list[int]] = {}
        for position, change in enumerate(changes):
            scopes.setdefault(change.scope.id, []).append(position)
        lanes = iter(scopes.values())
        until_s = self._clock.monotonic() + timeout_s
        stop: Unavailable | None = None

        async def work() -> None:
            nonlocal stop
            for position in (position for lane in lanes for position in lane):
                if stop is None and self._clock.monotonic() >= until_s:
                    stop = _LATE
                result = stop or await self._written(changes[position])
                if isinstance(result, Unavailable) and not isinstance(result, DeadlineExceeded | OutcomeUnknown):
                    stop = result  # the store is away: no need to ask it for each of the others
                results[position] = result
                told(position, result)

        async with asyncio.TaskGroup() as group:
            for _ in range(SINGLY_AT_ONCE):
                group.create_task(work())
        return results

    async def forget(self, scope: Scope, claim: Claim | None, copies: Mapping[str, int | None]) -> ForgetReceipt | None:
        """Erase a scope; see `ports.MemoryStore.forget`."""
        begun = True
        try:
            return await self._store.forget(scope, now=self._clock.now(), claim=claim, copies=copies)
        except Unavailable as error:
            begun = error.begun
            raise
        finally:
            self._tell()
            if begun:
                self._coherence.wrote(scope.id, 0)
                self._warm.drop(scope.id)
                await self._warm.erase(scope.id)

    async def _apply(self, changes: Sequence[AnyChange]) -> list[Outcome]:
        try:
            return await self._store.apply(changes, now=self._clock.now())
        except DeadlineExceeded as error:  # maybe for a lock of one user that somebody holds
            raise RolledBackError(error) from error
        except Unavailable:
            raise
        except Exception as error:
            raise RolledBackError(error) from error

    async def _written(self, change: AnyChange) -> Outcome | Exception:
        try:
            return (await self.write([change]))[0]
        except RolledBackError as failed:
            return failed.reason
        except Unavailable as error:
            return error


def _deltas(changes: Sequence[AnyChange], outcomes: Sequence[Outcome], dimensions: int) -> dict[UUID, Delta | None]:
    """What a commit did to each scope, None where a row's vector is not known here."""
    scopes: dict[UUID, list[tuple[AnyChange, Outcome]]] = {}
    for pair in zip(changes, outcomes, strict=True):
        scopes.setdefault(pair[0].scope.id, []).append(pair)
    return {scope_id: _delta(own, dimensions) for scope_id, own in scopes.items()}


def _delta(own: list[tuple[AnyChange, Outcome]], dimensions: int) -> Delta | None:
    version = own[-1][1].scope_version
    live: dict[UUID, tuple[Memory, NDArray[np.float32]]] = {}
    deleted: dict[UUID, int] = {}
    linked = False
    for change, outcome in own:
        if outcome.link is not None:
            linked = True  # the version has risen, and nothing else of what a shard holds has changed
        elif outcome.status == "deleted":
            live.pop(outcome.id, None)
            deleted[outcome.id] = outcome.version
        elif outcome.status in {"created", "updated"} and outcome.memory is not None:
            vector = change.vector if isinstance(change, Create | Patch) else None
            if vector is None:
                return None
            deleted.pop(outcome.id, None)
            live[outcome.id] = (outcome.memory, vector)
    if not live and not deleted and not linked:
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
