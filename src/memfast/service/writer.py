"""The one way in which changes reach the store: gathered, committed, told to the copies, then acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from memfast.claims import AnsweredBeforeError, Claim
from memfast.errors import DeadlineExceeded, MemfastError, OutcomeUnknown, Stopping, Unavailable
from memfast.metrics import Meter, Stage, Work, trace, unread
from memfast.metrics.families import WRITE_RESULTS
from memfast.model import AnyChange, ForgetReceipt, Import, Outcome, Scope, target_of
from memfast.ports import Clock
from memfast.service.commits import Commits, RolledBackError
from memfast.service.groups import GroupCounters, GroupLimits, Groups, Item

__all__ = ["Writer"]

_log = logging.getLogger("memfast.writer")


class _Write(Item):
    """A caller's write. `answer` is what it waits for; `forgotten` is the scope that is to be forgotten, if any.

    `claim` is that of a forget, or of all changes; `copies` is for the receipt of a forget.
    """

    __slots__ = ("answer", "changes", "claim", "copies", "forgotten")

    def __init__(
        self,
        changes: Sequence[AnyChange],
        *,
        background: bool,
        forgotten: Scope | None = None,
        claim: Claim | None = None,
        copies: Mapping[str, int | None] = MappingProxyType({}),
    ) -> None:
        scopes = [change.scope.id for change in changes] if forgotten is None else [forgotten.id]
        alone = forgotten is not None or len(changes) > 1 or isinstance(changes[0], Import)
        super().__init__(
            list(dict.fromkeys(scopes)) if alone else scopes, len(scopes), alone=alone, background=background
        )
        self.changes = changes
        self.forgotten = forgotten
        self.claim = claim
        self.copies = copies
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def resolve(self, result: Any) -> None:
        """Answer whoever still waits; an error is raised there."""
        if self.answer.done():
            return
        if isinstance(result, BaseException):
            self.answer.set_exception(result)
        else:
            self.answer.set_result(result)


class Writer:
    """Takes writes in and runs their flushes, each in a task of its own that no caller can cancel.

    A caller that is cancelled takes its write back if it was not sent yet. After that it is told that the outcome is
    unknown, and the flush goes on.

    Args:
        commits: carries a flush out.
        clock: monotonic time for waits.
        limits: bounds of queues and flushes.
        meter: counts what becomes of the changes.
        singly_timeout_s: time for the changes of a failed flush, one by one, in seconds.
    """

    def __init__(
        self,
        commits: Commits,
        clock: Clock,
        limits: GroupLimits,
        *,
        singly_timeout_s: float,
        meter: Meter | None = None,
    ) -> None:
        self._commits = commits
        self._results_of = {result: (meter or unread()).counter("memfast_writes", result) for result in WRITE_RESULTS}
        self._singly_timeout_s = singly_timeout_s
        self._clock = clock
        self._groups: Groups[_Write] = Groups(limits)
        self._flushes: set[asyncio.Task[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None

    async def commit(
        self, changes: Sequence[AnyChange], *, background: bool = False, claim: Claim | None = None
    ) -> list[Outcome]:
        """Commit changes; see `ports.MemoryStore.apply`.

        Args:
            changes: one, which shares a transaction with those of others, or many, which have one of their own, as an
                import has.
            background: let the writes of interactive callers go first.
            claim: all changes are of one scope and of one request with an idempotency key. Many of them are written
                together or not at all.

        Raises:
            AnsweredBeforeError: the claim was answered before; nothing was written.
            QueueFull: too much waits already; nothing was written.
            Stopping: the service ends; nothing was written.
        """
        if claim is not None:
            changes = [msgspec.structs.replace(change, claim=claim) for change in changes]
        outcomes: list[Outcome] = await self._written(_Write(changes, background=background, claim=claim))
        if claim is not None and outcomes[0].before is not None:
            raise AnsweredBeforeError(outcomes[0].before)
        return outcomes

    async def forget(
        self, scope: Scope, claim: Claim | None = None, copies: Mapping[str, int | None] = MappingProxyType({})
    ) -> ForgetReceipt | None:
        """Erase a scope; see `ports.MemoryStore.forget`."""
        write = _Write((), background=False, forgotten=scope, claim=claim, copies=copies)
        receipt: ForgetReceipt | None = await self._written(write)
        return receipt

    async def drain(self, timeout_s: float) -> None:
        """Take no more writes and wait, at most `timeout_s`, for those that wait or are under way.

        What still waits then is told that nothing was written of it.
        """
        self._groups.stop()
        try:
            async with asyncio.timeout(timeout_s):
                while self._flushes:  # the end of one sends the next
                    await asyncio.wait(self._flushes, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            for write in self._groups.abandon():
                write.resolve(Stopping("the service stopped before its turn came; nothing was written"))
        if self._alarm is not None:
            self._alarm.cancel()

    def snapshot(self) -> GroupCounters:
        """Counters of queues and flushes."""
        return self._groups.snapshot()

    async def _written(self, write: _Write) -> Any:
        self._groups.offer(write, self._clock.monotonic())
        self._send()
        try:
            return await self._answered(write)
        except asyncio.CancelledError:
            if self._groups.withdraw(write):
                raise
            raise OutcomeUnknown(
                "the time of the request ran out while the write was under way; it may still happen: read it back "
                "before repeating it"
            ) from None

    async def _answered(self, write: _Write) -> Any:
        """Wait for the answer, and add the time to the caller's stages, however the wait ends."""
        try:
            return await write.answer
        finally:
            laps, ended_s = trace(), self._clock.monotonic()
            sent_s = ended_s if write.sent_s is None else write.sent_s
            laps.work = Work.WRITE
            laps.add(Stage.WAIT, sent_s - write.arrived_s, ended_s - sent_s)
            if write.sent_s is not None:
                laps.add(Stage.SQL, ended_s - sent_s)

    def _send(self) -> None:
        """Start every flush that is due, and wake up when the next one will be."""
        now_s = self._clock.monotonic()
        while flush := self._groups.next_flush(now_s):
            task = asyncio.create_task(self._run(flush))
            self._flushes.add(task)
            task.add_done_callback(self._flushes.discard)
        if self._alarm is None and (wake_at := self._groups.wake_at()) is not None:
            self._alarm = asyncio.get_running_loop().call_later(max(0.0, wake_at - now_s), self._woken)

    def _woken(self) -> None:
        self._alarm = None
        self._send()

    async def _run(self, flush: list[_Write]) -> None:
        results: list[Any] = []
        try:
            results = await self._results(flush)
        except Exception as error:  # noqa: BLE001 - a task's edge: whoever waits is told
            results = [error] * len(flush)
        finally:
            self._groups.finished(flush)
            self._send()
            lost = OutcomeUnknown("the service stopped in the middle of the write; read it back before repeating it")
            results += [lost] * (len(flush) - len(results))  # cancelled with the loop, or told already
            for write, result in zip(flush, results, strict=True):
                self._count(write, result)
                write.resolve(result)

    def _count(self, write: _Write, result: Any) -> None:
        """What became of a write, by its changes."""
        counters = self._results_of
        if isinstance(result, BaseException):
            counters[_failure(result)].add(max(1, len(write.changes)))
        elif write.forgotten is not None:
            counters["forgotten"].add()
        else:
            for outcome in result:
                counters[_end(outcome)].add()

    async def _results(self, flush: list[_Write]) -> list[Any]:
        """What each write of a flush came to: a value or an error."""
        if flush[0].forgotten is not None:
            return [await self._commits.forget(flush[0].forgotten, flush[0].claim, flush[0].copies)]
        changes = [change for write in flush for change in write.changes]
        try:
            outcomes = await self._commits.write(changes)
        except RolledBackError as failed:
            whole = flush[0].claim is not None or isinstance(failed.reason, DeadlineExceeded)
            if len(changes) == 1 or (flush[0].alone and whole):
                return [failed.reason]
            return await self._singly(flush)
        return [outcomes] if flush[0].alone else [[outcome] for outcome in outcomes]

    async def _singly(self, flush: list[_Write]) -> list[Any]:
        """Write the changes of a flush one by one: one of them cannot be written, and no other shall fail for it."""
        parts = [(write, change) for write in flush if not write.answer.done() for change in write.changes]

        def told(position: int, result: Outcome | Exception) -> None:
            write = parts[position][0]
            if not write.alone:  # at once: others may have to wait for a lock
                write.resolve(result if isinstance(result, Exception) else [result])

        changes = [change for _, change in parts]
        results = await self._commits.write_singly(changes, told, self._singly_timeout_s)
        return [_batch_result(changes, results)] if flush[0].alone else []  # those of a group are told


def _batch_result(changes: Sequence[AnyChange], results: Sequence[Outcome | Exception]) -> list[Outcome] | Exception:
    """The outcomes of a batch's changes; one error where the store was away for all of them.

    Where the fate of one is not known, that of the batch is not.
    """
    away = [result for result in results if isinstance(result, Unavailable)]
    if len(away) == len(results):
        return next((error for error in away if isinstance(error, OutcomeUnknown)), away[0])
    return [
        result if isinstance(result, Outcome) else Outcome(id=target_of(change), refused=_told_as(result))
        for change, result in zip(changes, results, strict=True)
    ]


def _end(outcome: Outcome) -> str:
    if outcome.before is not None:
        return "replayed"
    return "refused" if outcome.refused is not None or outcome.status is None else outcome.status


def _failure(error: BaseException) -> str:
    if isinstance(error, OutcomeUnknown):
        return "unknown"
    return "failed" if isinstance(error, Unavailable) or not isinstance(error, MemfastError) else "refused"


def _told_as(error: Exception) -> MemfastError:
    if isinstance(error, MemfastError):
        return error
    _log.error("a change of a batch could not be written: %s", type(error).__name__)
    return MemfastError("the service met an error of its own with this item; nothing was written of it")
