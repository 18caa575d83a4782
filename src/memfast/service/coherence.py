"""When a copy of a user's memories may still be believed.

Every scope has a slot in memory that all workers of the host share: a counter, its **epoch**, raised once after each
commit and before the acknowledgement. A copy remembers the epoch that was read before its snapshot, and is good while
the slot still shows it. What slots cannot see (a dead worker's late commit, another host, a person with psql) the
**trust** check finds: twice a second it compares the versions of the scopes that were served from copies with the
database's, and raises the slot of each that moved on. Scopes with copies that nobody asked for take turns. Where
several hosts write (`cluster`) that is not enough: copies of a scope are believed for `TRUST_S` after they were
confirmed, and whoever wants one later has them confirmed first.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable
from itertools import islice
from typing import NamedTuple, Protocol
from uuid import UUID

from msgspec import structs

from memfast.errors import MemfastError, Unavailable
from memfast.model import DatabaseFacts
from memfast.ports import Clock, Ledger
from memfast.service.tokens import Token

__all__ = ["Coherence", "Epochs", "Slots"]

_log = logging.getLogger("memfast.coherence")

TRUST_S = 1.0
"""How long after the start of a matching check copies are believed, in seconds."""

SILENT_CHECKS = 2
"""So many checks in a row that the database did not answer are its silence; one alone is a busy machine."""

SERVED_MAX = 50_000
"""Scopes that one check covers. Of any beyond, the copies are dropped instead of checked."""

IDLE_MAX = 500
"""Scopes with copies that nobody asked for lately which one check covers besides, each in its turn."""

KNOWN_MAX = 200_000
"""Scopes whose version is remembered."""


class Slots(Protocol):
    """The shared counters: `kernels.SlotTable`. Slot 0 is the global epoch."""

    def epoch(self, index: int) -> int:
        """The counter now."""
        ...

    def bump(self, index: int) -> int:
        """Raise the counter by one, atomically; returns the new value."""
        ...

    def index_of(self, scope_id: bytes) -> int:
        """The slot of a scope: never 0. Scopes may share one; that costs a needless miss and nothing else."""
        ...


class Epochs(NamedTuple):
    """What a copy must remember, read before its snapshot."""

    slot: int
    scope: int
    every: int


class Coherence:
    """The slots, the versions this worker knows, and the trust in both.

    Args:
        slots: the counters.
        ledger: versions and facts as they are in the database.
        facts: the facts when this worker started.
        clock: monotonic seconds.
        listen: is told the facts of every check.
        cluster: whether other hosts write too.
    """

    def __init__(
        self,
        slots: Slots,
        ledger: Ledger,
        facts: DatabaseFacts,
        clock: Clock,
        listen: Callable[[DatabaseFacts], None],
        *,
        cluster: bool = False,
    ) -> None:
        self.slots = slots
        self._ledger = ledger
        self._clock = clock
        self._known: dict[UUID, int] = {}
        self._copied: dict[UUID, tuple[Epochs, int]] = {}
        self._served: set[UUID] = set()
        self._touched: set[bytes] = set()
        self._started = clock.monotonic()
        self._trusted_until = self._started + TRUST_S
        self._unanswered = 0
        self._confirmed: dict[bytes, float] = {}
        self._round: _Round | None = None
        self._turn = asyncio.Lock()
        self._listen = listen
        self.cluster = cluster
        self.facts = facts

    def epochs(self, scope_id: UUID) -> Epochs:
        """The epochs of a scope now. Read them before the snapshot whose copy they are to guard."""
        slot = self.slots.index_of(scope_id.bytes)
        return Epochs(slot, self.slots.epoch(slot), self.slots.epoch(0))

    def current(self, slot: int) -> tuple[int, int]:
        """The epoch of a slot and the global one."""
        return self.slots.epoch(slot), self.slots.epoch(0)

    def holds(self, epochs: Epochs) -> bool:
        """Whether nothing was written since these epochs were read."""
        return self.slots.epoch(epochs.slot) == epochs.scope and self.slots.epoch(0) == epochs.every

    def floor(self, scope_id: UUID, epochs: Epochs) -> int:
        """The version that every copy of the scope which is good for these epochs has at least; -1 without copies."""
        copied = self._copied.get(scope_id)
        return copied[1] if copied is not None and copied[0] == epochs else -1

    def trusts(self, scope: bytes) -> bool:
        """Whether copies of a scope, given by the 16 bytes of its id, may be used without being confirmed."""
        if not self.cluster:
            return True
        return self._clock.monotonic() < self._confirmed.get(scope, -math.inf) + TRUST_S

    def allows(self, scope: bytes, epochs: Epochs, token: Token | None) -> bool:
        """Whether a copy that is good for these epochs may be used as it is by a read with this token."""
        if not self.trusts(scope):
            return False
        if token is None:
            return True
        return token.lineage == self.facts.lineage and token.version <= self.floor(UUID(bytes=scope), epochs)

    def unconfirmed_s(self, scope: bytes) -> float:
        """Seconds since copies of a scope were confirmed, or more."""
        return self._clock.monotonic() - self._confirmed.get(scope, self._started)

    async def confirm(self, scope_id: UUID) -> int:
        """The scope's version in the database, read after this was called; copies that are older are void then.

        Whoever calls while a statement is under way shares the next one.

        Raises:
            Unavailable: the database did not answer.
        """
        if self._round is None:
            asked = {scope_id}
            self._round = _Round(asked, asyncio.create_task(self._ask(asked)))
            self._round.answer.add_done_callback(_seen)
        else:
            self._round.asked.add(scope_id)
        return (await asyncio.shield(self._round.answer)).get(scope_id, 0)

    async def _ask(self, asked: set[UUID]) -> dict[UUID, int]:
        async with self._turn:
            self._round = None
            return await self._look(asked)

    def wrote(self, scope_id: UUID, version: int) -> Epochs:
        """A write to the scope was committed (or may have been): every copy made before is void from now on."""
        slot = self.slots.index_of(scope_id.bytes)
        self.learned(scope_id, version)
        return Epochs(slot, self.slots.bump(slot), self.slots.epoch(0))

    def learned(self, scope_id: UUID, version: int) -> None:
        """A snapshot or a commit showed the scope's version."""
        known = self._known
        if version > known.get(scope_id, -1):
            if len(known) >= KNOWN_MAX and scope_id not in known:
                del known[next(iter(known))]
            known[scope_id] = version

    def copied(self, scope_id: UUID, epochs: Epochs, version: int) -> None:
        """A copy of the scope at this version was kept, good for these epochs.

        The oldest such copy is what a check compares: a newer one tells nothing about the others.
        """
        self.learned(scope_id, version)
        if self._copied.get(scope_id) == (epochs, version):  # one more answer of the same state
            return
        before = self._copied.pop(scope_id, None)
        if before is None or epochs > before[0]:
            before = epochs, version
        elif epochs == before[0]:
            before = epochs, min(version, before[1])
        if len(self._copied) >= KNOWN_MAX:
            forgotten = next(iter(self._copied))
            del self._copied[forgotten]
            self.slots.bump(self.slots.index_of(forgotten.bytes))  # a copy that is not compared must not be used
        self._copied[scope_id] = before

    def served(self, scope_id: UUID) -> None:
        """The scope was answered from a copy: the next check covers it."""
        self._served.add(scope_id)

    def touched(self, scope: bytes) -> None:
        """As `served`, for the 16 bytes of a scope's id: the hash of a UUID is computed in Python."""
        self._touched.add(scope)

    async def begin_era(self) -> None:
        """Void every copy of everybody: in this host and in Redis from now on, in other hosts with their next check.

        Raises:
            Unavailable: the database did not answer; copies are as they were.
        """
        async with self._turn:
            era = await self._ledger.begin_era()
            self.facts = structs.replace(self.facts, era=era)
            self.drop_everything()
        self._listen(self.facts)

    async def raise_version(self, scope_id: UUID) -> None:
        """Void every copy of a scope, as a write does that changes nothing.

        Raises:
            Unavailable: the database did not answer; if it may have been asked, copies are void all the same.
        """
        try:
            version = await self._ledger.raise_version(scope_id)
        except Unavailable as error:
            if error.begun:
                self.wrote(scope_id, 0)
            raise
        self.wrote(scope_id, version)

    def drop_everything(self) -> None:
        """Void every copy in every worker of the host."""
        self.slots.bump(0)
        self._known.clear()
        self._copied.clear()

    def stale_for_s(self) -> float:
        """Seconds since copies stopped being confirmed; 0 while they are, or the database has not been found silent."""
        if self._unanswered < SILENT_CHECKS:
            return 0.0
        return max(0.0, self._clock.monotonic() - self._trusted_until)

    async def check(self) -> None:
        """Compare what was served with the database, once.

        Raises:
            Unavailable: the database did not answer; trust is not renewed.
        """
        async with self._turn:
            await self._check()

    async def _check(self) -> None:
        started = self._clock.monotonic()
        touched, self._touched = self._touched, set()
        served, self._served = list(self._served.union(UUID(bytes=scope) for scope in touched)), set()
        asked = [*served[:SERVED_MAX], *self._idle(set(served))]
        try:
            await self._look(asked)
        except Exception:  # whatever it was, nothing was confirmed, and the next check must ask for the same
            self._unanswered += 1
            self._served.update(served)
            raise
        self._unanswered = 0
        for scope_id in served[SERVED_MAX:]:
            self.slots.bump(self.slots.index_of(scope_id.bytes))
        self._trusted_until = started + TRUST_S

    async def _look(self, asked: Collection[UUID]) -> dict[UUID, int]:
        """Versions in the database, by scope, with copies that are older made void; scopes without a row are left out.

        One at a time: what an earlier statement read must not come after what a later one did.
        """
        started = self._clock.monotonic()
        known = {scope_id: self._known.get(scope_id, -1) for scope_id in asked}
        facts, versions = await self._ledger.versions(list(known))
        shown = dict(versions)
        if facts.wal < self.facts.wal or any(shown.get(scope_id, 0) < version for scope_id, version in known.items()):
            facts = await self._went_back(facts)
        elif facts.lineage != self.facts.lineage:
            _log.warning("the database has begun a new life: every copy is dropped")
            self.drop_everything()
        elif facts.era != self.facts.era:
            _log.info("somebody has every copy dropped")
            self.drop_everything()
        self._compare(versions)
        if self.cluster:
            self._confirm(known, started)
        self.facts = facts
        self._listen(facts)
        return shown

    def _confirm(self, scope_ids: Iterable[UUID], at: float) -> None:
        confirmed = self._confirmed
        for scope_id in scope_ids:
            scope = scope_id.bytes
            confirmed.pop(scope, None)
            if len(confirmed) >= KNOWN_MAX:
                del confirmed[next(iter(confirmed))]
            confirmed[scope] = at

    async def _went_back(self, facts: DatabaseFacts) -> DatabaseFacts:
        """The database shows an older state than was seen: it was restored under the running service."""
        _log.warning("the database has gone back in time (it was restored or replaced): every copy is dropped")
        self.drop_everything()
        await self._ledger.begin_life(facts.lineage)
        return (await self._ledger.versions([]))[0]

    async def watch(self, interval_s: float) -> None:
        """Check for ever; after one that took as long as the interval the next follows at once."""
        pause_s = interval_s
        while True:
            await asyncio.sleep(pause_s)
            began = self._clock.monotonic()
            try:
                await self.check()
            except MemfastError as error:
                _log.debug("copies could not be confirmed: %s", error)
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("the watch over the database failed")
            pause_s = max(0.0, interval_s - (self._clock.monotonic() - began))

    def _idle(self, served: set[UUID]) -> list[UUID]:
        """Scopes that were not served and have copies, those first that waited longest; what is void is left out."""
        idle = []
        for scope_id in list(islice(self._copied, IDLE_MAX)):
            copied = self._copied.pop(scope_id)
            if scope_id in served:
                self._copied[scope_id] = copied
            elif self.holds(copied[0]):
                self._copied[scope_id] = copied
                idle.append(scope_id)
        return idle

    def _compare(self, versions: Iterable[tuple[UUID, int]]) -> None:
        for scope_id, version in versions:
            copied = self._copied.get(scope_id)
            if copied is not None and version > copied[1] and self.holds(copied[0]):
                self.wrote(scope_id, version)


class _Round(NamedTuple):
    """A statement that has not begun: the scopes that it will ask for, and what will be their versions."""

    asked: set[UUID]
    answer: asyncio.Task[dict[UUID, int]]


def _seen(answer: asyncio.Task[dict[UUID, int]]) -> None:
    """Every asker may have gone: a failure that nobody waits for is nobody's."""
    if not answer.cancelled():
        answer.exception()
