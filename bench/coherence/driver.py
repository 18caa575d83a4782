"""Writes, and after each acknowledgement reads on every worker, compared with the model."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from bench.coherence.fleet import Answer
from bench.coherence.model import Ask, Operation, Search, State
from bench.coherence.plan import Plan
from bench.coherence.words import Words

__all__ = ["Asked", "Checker", "Stale", "Tally", "Truth", "drive", "shown", "timed", "together"]

TRUST_S = 1.0
"""What nobody of the service told it of must be seen after this time and one query."""

PATIENCE_S = 8.0
"""When the test gives up waiting for that: the machine may be busy with other things."""

_POLL_S = 0.02


class Stale(AssertionError):
    """An answer that no acknowledged state gives."""


class Asked(Protocol):
    """A worker, as the checker needs it."""

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """One request."""
        ...


class Truth(Protocol):
    """The database itself, beside the service."""

    async def settle(self, user_id: str) -> int:
        """The user's version, once no transaction of a dead worker can change it any more."""
        ...

    async def touch(self, user_id: str, target: str, text: str) -> None:
        """Change a memory's text as the service would, by plain SQL, in one transaction."""
        ...


@dataclass
class Tally:
    """What was done and seen, reads and searches by the tier that answered.

    `late_s` are the times until plain SQL was seen everywhere.
    """

    reads: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    searches: Counter[str] = field(default_factory=Counter)
    by_words: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    lost: int = 0
    late_s: list[float] = field(default_factory=list)

    @property
    def checked(self) -> int:
        """Reads that were compared with the model."""
        return self.reads.total()


class Checker:
    """Asks workers, and compares what they answer with a state."""

    def __init__(self, workers: Sequence[Asked], tally: Tally) -> None:
        self.workers = workers
        self.tally = tally

    async def everywhere(self, state: State, asks: Sequence[Ask], rounds: int) -> None:
        """Ask every worker everything, several times over, at once.

        Raises:
            Stale: an answer was not that of the state.
        """
        async with together() as group:
            for worker in self.workers:
                group.create_task(self._ask_all(worker, state, [*asks] * rounds))

    async def _ask_all(self, worker: Asked, state: State, asks: Sequence[Ask]) -> None:
        right: dict[Ask, tuple[bytes, datetime]] = {}
        for ask in asks:
            first, answer, last = await timed(worker, ask)
            self.count(ask, answer)
            known = right.get(ask)
            if known is not None and known[0] == answer.body and len(state.turns(known[1], last)) == 2:
                continue
            if not shown(ask, state, answer, first, last):
                raise Stale(told(worker, ask, state, answer))
            if answer.status == 200:
                right[ask] = (answer.body, last)

    def count(self, ask: Ask, answer: Answer) -> None:
        """Count a read that is compared."""
        self.tally.reads[answer.tier or "none"] += 1
        if isinstance(ask, Search):
            self.tally.searches[answer.tier] += 1
        elif isinstance(ask, Words):
            self.tally.by_words[answer.tier] += 1

    async def becomes(self, old: State, new: State, asks: Sequence[Ask]) -> float:
        """Ask until every worker shows the new state in everything; returns the seconds that took.

        Raises:
            Stale: an answer was neither of the old nor of the new state, or the old one was shown for too long.
        """
        began = time.monotonic()
        while True:
            seen = await asyncio.gather(*(self._either(worker, old, new, asks) for worker in self.workers))
            took_s = time.monotonic() - began
            if all(seen):
                return took_s
            if took_s > PATIENCE_S:
                raise Stale(f"{old.user_id}: after {took_s:.1f} s a worker still shows version {old.version}")
            await asyncio.sleep(_POLL_S)

    async def _either(self, worker: Asked, old: State, new: State, asks: Sequence[Ask]) -> bool:
        fresh = True
        for ask in asks:
            first, answer, last = await timed(worker, ask)
            self.count(ask, answer)
            if not shown(ask, new, answer, first, last):
                if not shown(ask, old, answer, first, last):
                    raise Stale(told(worker, ask, new, answer))
                fresh = False
        return fresh


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose first failure comes out as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


async def timed(worker: Asked, ask: Ask) -> tuple[datetime, Answer, datetime]:
    """An answer, and the moments around it. A worker that dies meanwhile is asked again."""
    while True:
        first = datetime.now(UTC)
        try:
            answer = await worker.ask(*ask.request())
        except ConnectionError:
            await asyncio.sleep(_POLL_S)
            continue
        return first, answer, datetime.now(UTC)


def shown(ask: Ask, state: State, answer: Answer, first: datetime, last: datetime) -> bool:
    """Whether an answer is that of the state at some moment between two."""
    return any(ask.holds(state, now, answer.status, answer.version, answer.body) for now in state.turns(first, last))


def told(worker: Asked, ask: Ask, state: State, answer: Answer) -> str:
    """What is wrong, for a person."""
    return (
        f"worker {getattr(worker, 'pid', '?')} answered {ask} from {answer.tier or 'nowhere'} with {answer.status}, "
        f"version {answer.version}, where the state has version {state.version} and {sorted(state.items)}:\n"
        f"{answer.body[:2000].decode('utf-8', 'replace')}"
    )


@dataclass
class _Owner:
    """The one writer of a user, and its reader on every worker."""

    plan: Plan
    checker: Checker
    truth: Truth
    chance: random.Random
    rounds: int
    sql_share: float

    async def run(self, enough: Any) -> None:
        state = self.plan.begin()
        while not enough():
            if self.chance.random() < self.sql_share and state.items:
                state = await self._beside(state)
            else:
                state = await self._through(state)
            if self.plan.over:
                state = self.plan.begin()

    async def _through(self, state: State) -> State:
        now = datetime.now(UTC)
        operation = self.plan.write(state, now)
        after, status = operation.applied(state, now)
        asks = _union(self.plan.asks(state), self.plan.asks(after))
        worker = self.chance.choice(self.checker.workers)
        try:
            answer = await worker.ask(*operation.request())
        except ConnectionError:
            return await self._unknown(state, after, operation, asks)
        _acknowledged(operation, after, status, answer)
        self.checker.tally.writes[type(operation).__name__] += 1
        await self.checker.everywhere(after, asks, self.rounds)
        return after

    async def _unknown(self, before: State, after: State, operation: Operation, asks: list[Ask]) -> State:
        """The worker died in the middle: the database knows what became of the write."""
        self.checker.tally.lost += 1
        version = await self.truth.settle(before.user_id)
        if version not in {before.version, after.version}:
            raise Stale(f"{operation} left version {version}, not {before.version} or {after.version}")
        state = after if version == after.version else before
        await self.checker.becomes(before, state, asks)
        await self.checker.everywhere(state, asks, self.rounds)
        return state

    async def _beside(self, state: State) -> State:
        """A person with psql."""
        far = datetime.now(UTC) + timedelta(minutes=1)
        targets = sorted(item.id for item in state.items.values() if item.live(far))
        if not targets:
            return state
        asks = self.plan.asks(state)
        await self.checker.everywhere(state, asks, 1)
        target = self.chance.choice(targets)
        text = f"by hand {state.version + 1}"
        after = state.touched(target, text)
        await self.truth.touch(state.user_id, target, text)
        self.checker.tally.late_s.append(await self.checker.becomes(state, after, asks))
        await self.checker.everywhere(after, asks, self.rounds)
        return after


def _union(*groups: list[Ask]) -> list[Ask]:
    return list(dict.fromkeys(ask for group in groups for ask in group))


def _acknowledged(operation: Operation, after: State, status: int, answer: Answer) -> None:
    if answer.status != status:
        raise Stale(f"{operation} was answered with {answer.status}, not {status}: {answer.body[:500]!r}")
    if status < 300 and answer.version != after.version:
        raise Stale(f"{operation} was answered with version {answer.version}, not {after.version}")


async def drive(
    checker: Checker,
    truth: Truth,
    *,
    seed: int,
    owners: int,
    reads: int,
    rounds: int = 3,
    sql_share: float = 0.01,
    lifetime: int = 60,
    disturb: Any = None,
) -> None:
    """Write and read until so many reads were compared.

    Args:
        checker: compares, and counts.
        truth: the database.
        seed: of everything that is drawn.
        owners: users that are written and read at once.
        reads: comparisons after which to stop.
        rounds: how often each read is repeated after a write.
        sql_share: of the writes, those by plain SQL.
        lifetime: writes until a user is forgotten.
        disturb: a coroutine function that does harm meanwhile; the end waits for it.

    Raises:
        Stale: an answer was not that of the acknowledged state.
    """

    def enough() -> bool:
        return checker.tally.checked >= reads and (harm is None or harm.done())

    harm = None if disturb is None else asyncio.create_task(disturb())
    try:
        async with together() as group:
            for number in range(owners):
                plan = Plan(f"{seed}/{number}", f"owner-{seed}-{number}", lifetime=lifetime)
                chance = random.Random(f"{seed}/{number}/choices")
                owner = _Owner(plan, checker, truth, chance, rounds, sql_share)
                group.create_task(owner.run(enough))
        if harm is not None:
            await harm
    finally:
        if harm is not None:
            harm.cancel()
