"""Taking a stream of lines in, step by step: each step is a transaction, and what is held is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from memfast.errors import (
    DeadlineExceeded,
    EmbeddingRequired,
    InvalidRequest,
    MemfastError,
    PayloadTooLarge,
    Rejected,
    Unavailable,
)
from memfast.model import AnyChange, Import, OnConflict, Outcome, PutLink, Scope
from memfast.ports import Clock, Embedder
from memfast.resilience.turns import Turns
from memfast.service.limits import Limits
from memfast.service.lines import (
    FORMAT,
    DeletedLine,
    HeaderLine,
    HistoryLine,
    LinkLine,
    MemoryLine,
    Reader,
    TrailerLine,
    decode_line,
)
from memfast.service.mem0 import is_mem0, read_mem0
from memfast.service.streams import SentLine, Streams, split_lines
from memfast.service.writer import Writer

__all__ = ["ImportOptions", "ImportReport", "Imports", "LineError"]

STEP_MEMORIES = 1000
"""Memories of one transaction, and events of history: so many of each at most."""

STEP_BYTES = 4 * 1024 * 1024
"""Bytes of lines after which a transaction is sent, however few rows they are. Two are held at a time."""

SLICE_LINES = 64
"""Lines that are read at a stretch: about a millisecond, which is what others wait."""

ERRORS_KEPT = 100
"""Errors that a report names; the rest is counted."""


class ImportOptions(Struct, frozen=True, kw_only=True):
    """How lines are to be taken in.

    Attributes:
        on_error: go on after a line that cannot be taken in, or leave out what follows.
        on_conflict: what happens to a memory whose id the user has, with other content.
        form: whose lines they are; auto = as the first one looks.
        user_id: whose lines those are that name no user.
        part: the lines are a part of a file, so that no trailer is missed.
        actor: who is told to have done it; None leaves what the lines say.
    """

    on_error: Literal["continue", "stop"] = "continue"
    on_conflict: OnConflict = "error"
    form: Literal["auto", "memfast", "mem0"] = "auto"
    user_id: str | None = None
    part: bool = False
    actor: str | None = None


class LineError(Struct, frozen=True):
    """Why a line was not taken in. Lines are counted from 1."""

    line: int
    error: MemfastError


class ImportReport(Struct, kw_only=True):
    """What became of the lines.

    `complete` is None where no trailer was to be expected. `stopped_at` is the line after which the rest was left out.
    """

    lines: int = 0
    created: int = 0
    updated: int = 0
    duplicate: int = 0
    history: int = 0
    links: int = 0
    skipped: int = 0
    errors: int = 0
    embedded: int = 0
    complete: bool | None = None
    stopped_at: int | None = None
    first_errors: list[LineError] = []


class Imports:
    """Imports, each step of them a transaction of its own in the background.

    Args:
        writer: the way of every change.
        embedder: for memories that bring no vector, or one of another model.
        limits: the bounds on lines.
        streams: bounds how many are under way.
        clock: wall time.
        step_timeout_s: time for embedding and writing one step.
    """

    def __init__(
        self,
        writer: Writer,
        embedder: Embedder,
        limits: Limits,
        streams: Streams,
        clock: Clock,
        *,
        step_timeout_s: float,
    ) -> None:
        self._writer = writer
        self._embedder = embedder
        self._limits = limits
        self._streams = streams
        self._clock = clock
        self._step_timeout_s = step_timeout_s

    async def take_in(
        self, chunks: AsyncIterator[bytes], scope_of: Callable[[str], Scope], options: ImportOptions
    ) -> ImportReport:
        """Take in the lines of a stream.

        Args:
            chunks: the stream, in parts of any size.
            scope_of: a user's scope as far as the caller's key reaches; raises where it does not.
            options: how.

        Raises:
            Overloaded: too many imports and exports are under way.
            Unavailable: the store or the embedder is away; the detail says up to which line all is dealt with.
        """
        reader = Reader(
            self._limits,
            scope_of,
            on_conflict=options.on_conflict,
            user_id=options.user_id,
            actor=options.actor,
            now=self._clock.now(),
        )
        turns = Turns()
        with self._streams.one():
            run = _Run(
                reader,
                options,
                self._embedder,
                self._commit,
                self._clock,
                line_bytes=self._limits.config.line_bytes,
                step_timeout_s=self._step_timeout_s,
            )
            try:
                async for batch in split_lines(chunks, self._limits.config.line_bytes):
                    for start in range(0, len(batch), SLICE_LINES):
                        for line in batch[start : start + SLICE_LINES]:
                            await run.take(line)
                        await turns.give()
                return await run.finish()
            except Unavailable as error:
                raise _told_how_far(error, run.done_to) from error
            finally:
                await run.abandon()

    async def _commit(self, imports: Sequence[AnyChange]) -> list[Outcome]:
        return await self._writer.commit(imports, background=True)


class _Unit(Struct):
    """An import that waits for its step, and the line that it comes from.

    `again` = the memory was sent before, and only further history of it follows. `past_taken` is known then.
    """

    line: int
    change: Import
    again: bool = False
    past_taken: bool = False


class _Run:
    """One import under way: the step that is being filled, and the one that is being written."""

    def __init__(
        self,
        reader: Reader,
        options: ImportOptions,
        embedder: Embedder,
        commit: Callable[[Sequence[AnyChange]], Awaitable[list[Outcome]]],
        clock: Clock,
        *,
        line_bytes: int,
        step_timeout_s: float,
    ) -> None:
        self.done_to = 0
        self._reader = reader
        self._options = options
        self._embedder = embedder
        self._commit = commit
        self._clock = clock
        self._line_bytes = line_bytes
        self._step_timeout_s = step_timeout_s
        self._report = ImportReport(first_errors=[])
        self._form = options.form
        self._units: list[_Unit] = []
        self._links: list[tuple[int, PutLink]] = []
        self._keys: set[tuple[UUID, UUID]] = set()
        self._events = self._bytes = 0
        self._parent: _Unit | None = None
        self._skipping = False
        self._sending: asyncio.Task[None] | None = None
        self._headed = False
        self._since_header = 0

    async def take(self, line: SentLine) -> None:
        """Take in one line; what is wrong with it is noted."""
        report, text = self._report, line.text
        report.lines = line.number
        if text is not None and (not text or text.isspace()):
            return
        self._since_header += 1
        if report.stopped_at is not None:
            report.skipped += 1
            return
        try:
            if text is None:
                raise PayloadTooLarge(f"$: the line is longer than {self._line_bytes} bytes", path="$")
            await self._take(line.number, text)
        except Rejected as error:
            self._skipping = True
            self._refuse(line.number, error)

    async def finish(self) -> ImportReport:
        """Write what is left; what became of all."""
        await self._flush()
        await self._settle()
        await self._flush_links()
        report = self._report
        if self._headed and not self._options.part:
            report.complete = report.complete or False
        report.first_errors.sort(key=lambda error: error.line)
        return report

    async def abandon(self) -> None:
        """Wait for the step that is being written, if any; nobody wants to know more."""
        if self._sending is not None:
            await asyncio.wait([self._sending])
            if not self._sending.cancelled():
                self._sending.exception()  # seen

    async def _take(self, number: int, text: bytes) -> None:
        if self._form == "auto":
            self._form = "mem0" if is_mem0(text) else "memfast"
        line = read_mem0(text) if self._form == "mem0" else decode_line(text)
        if isinstance(line, MemoryLine):
            await self._add(number, self._reader.memory(line), len(text))
        elif isinstance(line, HistoryLine):
            await self._add_past(number, line, len(text))
        elif isinstance(line, DeletedLine):
            await self._add(number, self._reader.deleted(line), len(text))
        elif isinstance(line, LinkLine):
            await self._add_link(number, self._reader.link(line), len(text))
        elif isinstance(line, HeaderLine):
            self._begin(number, line)
        elif isinstance(line, TrailerLine):
            self._report.complete = line.lines == self._since_header - 1
        else:
            raise InvalidRequest(f"$: the export broke off here: {line.detail}", path="$")

    def _begin(self, number: int, line: HeaderLine) -> None:
        if line.format != FORMAT:
            self._report.stopped_at = number
            detail = f"$.format: is {line.format}, this version reads format {FORMAT}; nothing that follows is taken in"
            raise InvalidRequest(detail, path="$.format")
        self._headed, self._since_header, self._report.complete = True, 0, None
        own = (self._embedder.model, self._embedder.dimensions)
        self._reader.vectors = (line.model, line.dimensions) == own

    async def _add(self, number: int, change: Import, size: int) -> None:
        memory, key = change.row.memory, (change.scope.id, change.id)
        if memory is not None and memory.expires_at is not None and memory.expires_at <= self._clock.now():
            self._report.skipped += 1
            self._parent, self._skipping = None, True
            return
        if self._links:
            await self._flush_links()
        if key in self._keys or self._full():
            await self._flush()
        self._append(_Unit(number, change), key, size)

    async def _add_link(self, number: int, change: PutLink, size: int) -> None:
        self._parent, self._skipping = None, False
        if self._units:  # its memories may be among them
            await self._flush()
        if len(self._links) >= STEP_MEMORIES or self._bytes >= STEP_BYTES:
            await self._flush_links()
        self._links.append((number, change))
        self._bytes += size

    async def _flush_links(self) -> None:
        """Write the links that wait, once the memories before them are written."""
        await self._settle()
        links, self._links, self._bytes = self._links, [], 0
        stopped_at = self._report.stopped_at
        if stopped_at is not None and links and links[0][0] > stopped_at:
            self._report.skipped += len(links)
            return
        if not links:
            return
        try:
            async with asyncio.timeout(self._step_timeout_s):
                outcomes = await self._commit([change for _, change in links])
        except TimeoutError as error:
            raise DeadlineExceeded(f"{len(links)} links were not written within {self._step_timeout_s:g} s") from error
        for (line, _), outcome in zip(links, outcomes, strict=True):
            if outcome.refused is not None:
                self._refuse(line, outcome.refused)
            else:
                self._report.links += 1
        self.done_to = max(self.done_to, links[-1][0])

    async def _add_past(self, number: int, line: HistoryLine, size: int) -> None:
        parent = self._parent
        if parent is None or parent.change.id != line.id:
            if not self._skipping:
                raise InvalidRequest("$.id: history follows the memory that it is of", path="$.id")
            self._report.skipped += 1
            return
        past = self._reader.history(line, parent.change)
        if self._events >= STEP_MEMORIES or self._bytes >= STEP_BYTES:  # a step full of memories takes their history
            await self._flush()
            await self._settle()
        if not self._units:  # the memory itself is written
            if not parent.past_taken:
                self._report.skipped += 1
                return
            change = msgspec.structs.replace(parent.change, past=[])
            again = _Unit(number, change, again=True, past_taken=True)
            parent = self._append(again, (change.scope.id, change.id), 0)
        parent.change.past.append(past)
        self._events += 1
        self._bytes += size

    def _append(self, unit: _Unit, key: tuple[UUID, UUID], size: int) -> _Unit:
        self._units.append(unit)
        self._keys.add(key)
        self._bytes += size
        self._parent, self._skipping = unit, False
        return unit

    def _full(self) -> bool:
        return max(len(self._units), self._events) >= STEP_MEMORIES or self._bytes >= STEP_BYTES

    async def _flush(self) -> None:
        """Send the step that was filled, once the one before is written."""
        await self._settle()
        units, self._units = self._units, []
        self._keys.clear()
        self._events = self._bytes = 0
        if not units:
            return
        stopped_at = self._report.stopped_at
        if stopped_at is not None and units[0].line > stopped_at:
            self._report.skipped += sum(len(unit.change.past) + (not unit.again) for unit in units)
            return
        self._sending = asyncio.create_task(self._send(units, self._report.lines))

    async def _settle(self) -> None:
        if self._sending is not None:
            await asyncio.shield(self._sending)
            self._sending = None

    async def _send(self, units: list[_Unit], through: int) -> None:
        """Embed what has no vector and write a step, within the time of one."""
        try:
            async with asyncio.timeout(self._step_timeout_s):
                units = await self._embed(units)
                outcomes = await self._commit([unit.change for unit in units]) if units else []
        except TimeoutError as error:
            detail = f"{len(units)} memories were not embedded and written within {self._step_timeout_s:g} s"
            raise DeadlineExceeded(detail) from error
        for unit, outcome in zip(units, outcomes, strict=True):
            self._count(unit, outcome)
        self.done_to = max(self.done_to, through - 1)

    async def _embed(self, units: list[_Unit]) -> list[_Unit]:
        """The units with their vectors; where this service makes none, those without are refused."""
        missing = [unit for unit in units if unit.change.row.memory is not None and unit.change.row.vector is None]
        if not missing:
            return units
        texts = [unit.change.row.memory.text for unit in missing if unit.change.row.memory is not None]
        try:
            vectors = await self._embedder.embed(texts)
        except EmbeddingRequired as refused:
            for unit in missing:
                self._report.skipped += len(unit.change.past)
                self._refuse(unit.line, refused)
            return [unit for unit in units if unit.change.row.vector is not None or unit.change.row.memory is None]
        for unit, vector in zip(missing, vectors, strict=True):
            row = msgspec.structs.replace(unit.change.row, vector=vector)
            unit.change = msgspec.structs.replace(unit.change, row=row)
        self._report.embedded += len(missing)
        return units

    def _count(self, unit: _Unit, outcome: Outcome) -> None:
        report, past = self._report, len(unit.change.past)
        if outcome.past_taken:
            report.history += past
        else:
            report.skipped += past
        unit.past_taken = outcome.past_taken
        if unit.again:
            return
        if outcome.refused is not None:
            self._refuse(unit.line, outcome.refused)
        elif outcome.status == "created":
            report.created += 1
        elif outcome.status == "updated":
            report.updated += 1
        else:
            report.duplicate += 1

    def _refuse(self, line: int, error: MemfastError) -> None:
        report = self._report
        report.errors += 1
        if len(report.first_errors) < ERRORS_KEPT:
            report.first_errors.append(LineError(line, error))
        if self._options.on_error == "stop":
            report.stopped_at = min(line, report.stopped_at or line)


def _told_how_far(error: Unavailable, line: int) -> Unavailable:
    """The same error, which says from where on to send again."""
    detail = f"{error}; everything up to line {line} is dealt with"
    return type(error)(detail, retry_after_s=error.retry_after_s, begun=error.begun)
