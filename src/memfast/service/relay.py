"""Telling a copy of the links what happened: step by step, and whole scopes where the copy does not follow.

While there is a copy, every transaction leaves a row a scope in the outbox (`store.outbox`). The relay of any worker of
any host takes rows, applies them to the copy, then deletes them. If it dies in between, the next one applies them once
more, which changes nothing: the copy keeps each scope's version and passes over what it has. Nothing is applied to a
scope that is not where the step begins: it is loaded first, from one snapshot of PostgreSQL.

A copy bears the mark of its building: the database's life and an epoch. Each building has an epoch of its own, and is
begun by one relay at a time. Where the marks differ, because the copy is empty, of another life, or was built by
somebody else, everything is built anew: every scope is asked for, page by page, and loaded like any other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol
from uuid import UUID

from msgspec import Struct

from memfast.errors import CommandFailed, MemfastError
from memfast.ports import Clock
from memfast.ports.projection import Projection
from memfast.projection import Change, Mark, OtherMarkError, Step
from memfast.readings import Backlog, RelayStats

__all__ = ["Content", "Due", "Loading", "Outbox", "OutboxWatch", "Relay", "RelayLimits", "Standing", "Taken"]

_log = logging.getLogger("memfast.relay")

FIRST = UUID(int=0)

GATHER_S = 0.1
"""How long the relay waits for more after it was told of a step, in seconds: ten take it as long as one."""

LOOK_S = 5.0
"""Time between two counts of what waits, and two looks at the mark of the copy, in seconds."""

BACKOFF_S = 0.1
"""The longest wait after a first failure, in seconds; it doubles up to `BACKOFF_MAX_S`."""

BACKOFF_MAX_S = 5.0

PAGE_SCOPES = 200
"""Scopes that are asked for at once while a copy is built."""

STUCK_S = 60.0
"""How long a rebuilding bears failures without any progress, in seconds."""

EMPTIED_ROWS = 10_000
"""Rows that are deleted at once where there is no copy any more."""

State = Literal["off", "on", "dropped"]


class Standing(Struct, frozen=True, kw_only=True):
    """What the database says of its copy.

    `off`: there is none, nothing is written for it. `dropped`: there is to be one, but it was away for too long.
    `building`: not every scope was asked for yet.
    """

    lineage: UUID
    epoch: int
    state: State
    building: bool

    @property
    def mark(self) -> Mark:
        """The mark that the copy has to bear."""
        return Mark(self.lineage, self.epoch)


class Due(Struct, frozen=True):
    """A step to be applied, and how long ago it was written, in seconds."""

    step: Step
    age_s: float


class Taken(Struct, kw_only=True):
    """Steps that nobody else works on, those of a scope in order.

    `after` is the scope after which the next ones begin, `more` whether there may be any. `applied` and `gaps` are
    filled in by whoever took them: the steps that are done, and the scopes to be loaded.
    """

    due: Sequence[Due]
    after: UUID
    more: bool
    applied: list[Step]
    gaps: set[UUID]


class Loading(Struct):
    """A scope that is loaded and that nobody else works on; who does it fills in the `version` of what was loaded."""

    scope_id: UUID
    version: int = 0


class Content(Struct, frozen=True):
    """Everything of a scope that is copied, as of a version, in pages."""

    version: int
    pages: AsyncIterator[Sequence[Change]]


class Outbox(Protocol):
    """The steps in PostgreSQL. Every method may raise `Unavailable`."""

    async def standing(self) -> Standing:
        """What the database says of its copy."""
        ...

    async def backlog(self, limit: int) -> Backlog:
        """How much waits; at most `limit` rows are counted."""
        ...

    async def switch_on(self) -> int:
        """Begin a building: from now on every transaction leaves steps, and every scope is to be loaded. Its epoch."""
        ...

    async def switch_off(self, state: State) -> None:
        """Write steps no more."""
        ...

    async def empty(self, limit: int) -> int:
        """Delete at most `limit` rows of a copy that there is not; returns how many that were."""
        ...

    def beginning(self) -> AbstractAsyncContextManager[bool]:
        """The right to begin a copy, while the context is open; False where somebody else has it."""
        ...

    def taken(self, after: UUID) -> AbstractAsyncContextManager[Taken]:
        """The next steps of scopes after one. In the end those applied are deleted, and loads asked for at gaps."""
        ...

    def load(self, after: UUID) -> AbstractAsyncContextManager[Loading | None]:
        """The next scope after one that is to be loaded. In the end that is done, and so are steps up to its version.

        With an error it is left to be loaded.
        """
        ...

    def content(self, scope_id: UUID) -> AbstractAsyncContextManager[Content | None]:
        """A scope in one snapshot; None where there never was one."""
        ...

    async def ask_for_next_loads(self, epoch: int, limit: int) -> bool:
        """Ask for the next scopes of a building; whether there are more. False where somebody else is asking."""
        ...

    async def scopes(self) -> tuple[int, int]:
        """How many scopes there are to copy, and how many of them have not been asked for."""
        ...


class RelayLimits(Struct, frozen=True, kw_only=True):
    """Bounds of a relay.

    `outbox_rows` may wait, `batch_steps` go into one transaction of the copy, `poll_s` lie between two looks for what
    others have left, in seconds.
    """

    outbox_rows: int
    batch_steps: int
    poll_s: float


class OutboxWatch:
    """Sees that the outbox stays bounded, in every service, also where none has a copy configured.

    Args:
        outbox: the steps.
        rows_max: rows that may wait for the copy; with more it is dropped.
    """

    def __init__(self, outbox: Outbox, rows_max: int) -> None:
        self._outbox = outbox
        self._rows_max = rows_max
        self.last: Backlog | None = None

    async def look(self) -> Backlog:
        """Count what waits, and drop the copy where that is too much.

        Raises:
            Unavailable: the database did not answer.
        """
        backlog = await self._outbox.backlog(self._rows_max + 1)
        if backlog.state == "on" and backlog.pending - backlog.loads > self._rows_max:
            _log.warning(
                "the graph has taken nothing for %.0f s, and more than graph.outbox_rows = %d steps wait: nothing is "
                "kept for it any more, it will be built anew when it is back",
                backlog.oldest_s,
                self._rows_max,
            )
            await self._outbox.switch_off("dropped")
            backlog = await self._outbox.backlog(self._rows_max + 1)
        while backlog.state != "on" and await self._outbox.empty(EMPTIED_ROWS) == EMPTIED_ROWS:
            pass
        self.last = backlog
        return backlog

    async def run(self, interval_s: float) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.look()
            except MemfastError as error:
                _log.debug("the outbox could not be counted: %s", error)
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("the watch over the outbox failed")


class Relay:
    """See the module. One a worker; however many there are, a scope is worked on by one at a time.

    Args:
        outbox: the steps.
        projection: the copy.
        clock: monotonic seconds.
        random: uniform numbers from 0 to 1.
        limits: bounds.
    """

    def __init__(
        self,
        outbox: Outbox,
        projection: Projection,
        clock: Clock,
        random: Callable[[], float],
        limits: RelayLimits,
    ) -> None:
        self._outbox = outbox
        self._projection = projection
        self._clock = clock
        self._random = random
        self._limits = limits
        self._watch = OutboxWatch(outbox, limits.outbox_rows)
        self._looked_s = self._marked_s = -LOOK_S
        self._mark: Mark | None = None
        self._building = False
        self._switched_on = False
        self._after = self._load_after = FIRST
        self._told, self._to_load = asyncio.Event(), asyncio.Event()
        self._applied = self._loaded = self._retried = self._begun = 0
        self._lag_s = 0.0
        self._problems: dict[str, str] = {}

    def tell(self) -> None:
        """A transaction of this worker was committed, and may have left steps."""
        self._told.set()

    async def run(self) -> None:
        """Relay for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat("steps", self.relay, self._told))
            group.create_task(self._repeat("loads", self.load, self._to_load))

    async def relay(self) -> bool:
        """Apply the next steps; whether there may be more.

        Raises:
            Unavailable: the database or the copy did not answer.
            OtherMarkError: somebody else has begun to build the copy.
        """
        await self._look()
        mark = await self._ready()
        if mark is None:
            return False
        failure: Exception | None = None
        async with self._outbox.taken(self._after) as taken:
            try:
                await self._apply(mark, taken)
            except (MemfastError, OtherMarkError) as error:  # what was applied before it is deleted all the same
                failure = error
        if taken.gaps:
            self._to_load.set()
        if failure is not None:
            raise failure
        self._after = taken.after
        return taken.more

    async def load(self) -> bool:
        """Load the next scope that has to be, or ask for the next scopes of a building; whether there may be more.

        Raises:
            Unavailable: the database or the copy did not answer.
            OtherMarkError: somebody else has begun to build the copy.
        """
        mark = self._mark
        if mark is None:
            return False
        after, self._load_after = self._load_after, FIRST
        async with self._outbox.load(after) as loading:
            if loading is not None:
                self._load_after = loading.scope_id  # also where it fails: the others come first then
                await self._load_scope(mark, loading)
                return True
        if after != FIRST:
            return True
        if self._building:
            self._building = await self._outbox.ask_for_next_loads(mark.epoch, PAGE_SCOPES)
            return True
        return False

    async def rebuild(self, progress: Callable[[int, int], None]) -> int:
        """Build the copy anew, beside whoever else relays; returns how many scopes it has.

        Args:
            progress: is told how many scopes are done, and of how many.

        Raises:
            Unavailable: the database or the copy did not answer at the beginning.
            CommandFailed: nothing more could be done for `STUCK_S`, or somebody has switched the copy off.
        """
        await self._begin(anew=True)
        relaying = asyncio.create_task(self.run())
        try:
            return await self._built(progress)
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)

    async def _built(self, progress: Callable[[int, int], None]) -> int:
        least, since_s = -1, self._clock.monotonic()
        while True:
            backlog, (total, to_come) = await self._watch.look(), await self._outbox.scopes()
            left = min(total, backlog.loads + to_come)
            progress(total - left, total)
            if not backlog.building and not backlog.loads:
                return total
            if backlog.state != "on":
                raise CommandFailed("the graph was switched off meanwhile")
            if left != least:
                least, since_s = left, self._clock.monotonic()
            elif self._problems and self._clock.monotonic() >= since_s + STUCK_S:
                raise CommandFailed(f"nothing could be done for {STUCK_S:g} s: {next(iter(self._problems.values()))}")
            await asyncio.sleep(min(1.0, self._limits.poll_s))

    def stats(self) -> RelayStats:
        """What waits, counted in the last seconds, and what this worker did."""
        last = self._watch.last
        return RelayStats(
            state="unknown" if last is None else last.state,
            building=last is not None and (last.building or last.loads > 0),
            pending=0 if last is None else last.pending,
            oldest_s=0.0 if last is None else last.oldest_s,
            lag_s=self._lag_s,
            applied=self._applied,
            loaded=self._loaded,
            retried=self._retried,
            begun=self._begun,
            problem=next(iter(self._problems.values()), None),
        )

    async def _repeat(self, name: str, turn: Callable[[], Awaitable[bool]], wake: asyncio.Event) -> None:
        failures = 0
        while True:
            wake.clear()
            try:
                more = await turn()
                failures = 0
                self._problems.pop(name, None)
            except (MemfastError, OtherMarkError) as error:
                self._failed(name, error, str(error))
                more, failures = False, failures + 1
            except Exception as error:  # noqa: BLE001 - a task's edge: the next turn must come whatever this one met
                _log.exception("the relay to the graph failed")
                self._failed(name, error, type(error).__name__)
                more, failures = False, failures + 1
            if failures:
                longest_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** min(failures, 10))
                await asyncio.sleep(longest_s * (0.5 + 0.5 * self._random()))
            elif more:
                await asyncio.sleep(0)
            else:
                await self._rest(wake)

    async def _rest(self, wake: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._limits.poll_s):
                await wake.wait()
            await asyncio.sleep(GATHER_S)
        except TimeoutError:
            return

    def _failed(self, name: str, error: Exception, told: str) -> None:
        self._retried += 1
        self._problems[name] = told
        if isinstance(error, OtherMarkError):
            self._mark = None
        _log.debug("the relay tries again: %s", told)

    async def _look(self) -> None:
        now_s = self._clock.monotonic()
        if now_s >= self._looked_s + LOOK_S:
            await self._watch.look()
            self._looked_s = now_s

    async def _ready(self) -> Mark | None:
        """The mark that the copy bears, after it was begun where it had to be; None where there is to be no copy."""
        standing = await self._outbox.standing()
        if standing.state == "off" and self._switched_on:  # somebody has switched it off since
            self._mark = None
            return None
        self._switched_on = self._switched_on or standing.state != "off"
        now_s = self._clock.monotonic()
        if standing.state != "on" or standing.mark != self._mark:
            self._mark = None
        if self._mark is None or now_s >= self._marked_s + LOOK_S:
            found = await self._projection.mark()  # where it is away nothing is begun, and nothing written for it
            self._marked_s = now_s
            if standing.state != "on" or found != standing.mark:
                self._mark = None
                await self._begin()
                return self._mark
            self._mark = standing.mark
        self._building = standing.building
        if standing.building:
            self._to_load.set()
        return self._mark

    async def _begin(self, *, anew: bool = False) -> None:
        async with self._outbox.beginning() as mine:
            if not mine:
                return
            standing = await self._outbox.standing()
            if not anew and standing.state == "on" and await self._projection.mark() == standing.mark:
                return
            _log.warning("the graph is built anew: it is not a copy of this database as it is now")
            mark = Mark(standing.lineage, await self._outbox.switch_on())
            await self._projection.begin(mark)
            self._begun += 1
            self._mark, self._building, self._switched_on = mark, True, True
            self._after = self._load_after = FIRST
            self._to_load.set()

    async def _apply(self, mark: Mark, taken: Taken) -> None:
        due = list(taken.due)
        for start in range(0, len(due), self._limits.batch_steps):
            batch = due[start : start + self._limits.batch_steps]
            began_s = self._clock.monotonic()
            gaps = await self._applied_to(mark, [each.step for each in batch])
            taken.gaps |= gaps
            done = [each for each in batch if each.step.scope_id not in taken.gaps]
            taken.applied += [each.step for each in done]
            self._applied += len(done)
            if done:
                self._lag_s = max(each.age_s for each in done) + self._clock.monotonic() - began_s

    async def _applied_to(self, mark: Mark, steps: list[Step]) -> set[UUID]:
        """Apply steps; returns the scopes that have to be loaded: also those whose step the copy does not bear."""
        try:
            return await self._projection.apply(mark, steps)
        except (MemfastError, OtherMarkError):
            raise
        except Exception:  # noqa: BLE001 - what the copy's engine thinks of one step must not hold up all others
            _log.exception("the graph did not take some steps: their users are loaded anew")
            return {step.scope_id for step in steps}

    async def _load_scope(self, mark: Mark, loading: Loading) -> None:
        async with self._outbox.content(loading.scope_id) as content:
            if content is not None:
                await self._projection.load(mark, loading.scope_id, content.version, content.pages)
                loading.version = content.version
        self._loaded += 1
        self._told.set()
