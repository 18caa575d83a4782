"""Several writers and readers of one user at once: what a read may show lies between two acknowledgements."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from bench.coherence.driver import Asked, Checker, Stale, together
from bench.coherence.fleet import Answer
from bench.coherence.model import Ask, Delete, Item, List, Operation, Patch, Put, Search, State
from bench.coherence.plan import TAGS, VECTORS, VOCABULARY
from bench.coherence.words import Words

__all__ = ["History"]


@dataclass(frozen=True)
class _Read:
    """An answer, the highest version acknowledged before it began, and how many writes had begun when it ended."""

    ask: Ask
    answer: Answer
    least: int
    begun: int


class History:
    """One user under many hands.

    The version that an answer names is judged twice: it is not below the highest that was acknowledged before the read
    began, and the content is the one that all writes up to it, in the order of their versions, have made. Memories
    do not expire here, and every write takes one version.
    """

    def __init__(self, checker: Checker, seed: int) -> None:
        self._checker = checker
        self._chance = random.Random(f"history {seed}")
        self._user_id = f"history-{seed}"
        self._begun: list[Operation] = []
        self._number: dict[int, int] = {}
        self._written: dict[int, Operation] = {}
        self._reads: list[_Read] = []
        self._acknowledged = 0
        self._asks: tuple[Ask, ...] = (
            *(Search(self._user_id, tuple(VECTORS[row].astype(float)), 10) for row in (0, 9, 18)),
            Words(self._user_id, " ".join(VOCABULARY[:2])),
            Words(self._user_id, VOCABULARY[2], tuple(VECTORS[9].astype(float))),
            List(self._user_id),
            List(self._user_id, limit=4, tag=TAGS[0]),
        )

    async def run(self, *, writers: int, readers: int, writes: int) -> int:
        """Write and read; returns the number of reads that were judged.

        Args:
            writers: writers on each worker.
            readers: readers on each worker.
            writes: of each writer.

        Raises:
            Stale: a read showed what it must not.
        """
        done = asyncio.Event()
        async with together() as outer:
            for number, worker in enumerate(self._checker.workers):
                for reader in range(readers):
                    outer.create_task(self._read(worker, done, random.Random(f"{number} {reader}")))
            async with together() as inner:
                for worker in self._checker.workers:
                    for _ in range(writers):
                        inner.create_task(self._write(worker, writes))
            done.set()
        self._judge()
        return len(self._reads)

    async def _write(self, worker: Asked, writes: int) -> None:
        own: list[str] = []
        for _ in range(writes):
            operation = self._next(own)
            self._number[id(operation)] = len(self._begun)
            self._begun.append(operation)
            answer = await worker.ask(*operation.request())
            if answer.status >= 300 or answer.version in self._written:
                raise Stale(f"{operation} was answered with {answer.status}, version {answer.version}")
            self._written[answer.version] = operation
            self._acknowledged = max(self._acknowledged, answer.version)

    def _next(self, own: list[str]) -> Operation:
        vector = self._chance.choice(VECTORS)
        draw = self._chance.random()
        text = f"text {draw} {self._chance.choice(VOCABULARY)}"
        if not own or (draw < 0.4 and len(own) < 6):
            own.append(str(UUID(int=self._chance.getrandbits(128))))
            tags = tuple(tag for tag in TAGS if self._chance.random() < 0.5)
            created_at = datetime.now(UTC) - timedelta(seconds=self._chance.randint(1, 60))
            return Put(self._user_id, Item(own[-1], text, vector, created_at, tags))
        target = self._chance.choice(own)
        if draw < 0.6:
            own.remove(target)
            return Delete(self._user_id, target)
        return Patch(self._user_id, target, (("text", text), ("vector", vector)))

    async def _read(self, worker: Asked, done: asyncio.Event, chance: random.Random) -> None:
        while not done.is_set():
            ask, least = chance.choice(self._asks), self._acknowledged
            answer = await worker.ask(*ask.request())
            self._reads.append(_Read(ask, answer, least, len(self._begun)))
            self._checker.count(ask, answer)

    def _judge(self) -> None:
        now, state = datetime.now(UTC), State(self._user_id)
        states, latest = {0: state}, {0: -1}
        for version in sorted(self._written):
            if version != state.version + 1:
                raise Stale(f"no write was acknowledged with version {state.version + 1}, but one with {version}")
            operation = self._written[version]
            state, _ = operation.applied(state, now)
            states[version] = state
            latest[version] = max(latest[version - 1], self._number[id(operation)])
        for read in self._reads:
            self._judge_one(read, states, latest, now)

    def _judge_one(self, read: _Read, states: dict[int, State], latest: dict[int, int], now: datetime) -> None:
        answer = read.answer
        if answer.version < read.least:
            said = f"with {answer.status} version {answer.version}"
            raise Stale(f"{read.ask} showed {said} after {read.least} was acknowledged: {answer.body[:300]!r}")
        if answer.version not in states or latest[answer.version] >= read.begun:
            raise Stale(f"{read.ask} showed version {answer.version}, of which some write had not begun")
        if not read.ask.holds(states[answer.version], now, answer.status, answer.version, answer.body):
            raise Stale(f"{read.ask} showed {answer.body[:2000]!r}, which is not version {answer.version}")
