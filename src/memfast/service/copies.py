"""What a worker keeps of a user beside the store, and the end of it when the user is forgotten.

A forgotten user's copies are void at once, in every worker. The worker that forgot erases its own before it answers;
the others, and those of other hosts, find out what was forgotten by asking the store.
"""

from __future__ import annotations

import asyncio
import logging
from uuid import UUID

from msgspec import Struct

from memfast.errors import MemfastError
from memfast.ports import MemoryStore
from memfast.ports.projection import Projection
from memfast.service.answers import Answers
from memfast.service.coherence import Coherence
from memfast.service.heat import Heat
from memfast.service.shared import SharedAnswers
from memfast.service.warm import Warm

__all__ = ["Copies", "Kept"]

_log = logging.getLogger("memfast.copies")

WATCH_S = 10.0
"""Time between two questions for what was forgotten elsewhere, in seconds."""

ASKED_MAX = 5000
"""Scopes in one question."""


class Kept(Struct, frozen=True, kw_only=True):
    """What there is, or was erased, of one scope in one worker.

    `answers` are finished answers, `memories` those of the shard in memory, `questions` frequent ones whose wording is
    remembered, `snapshots` files, `redis` answers there: None without it, or where it could not be asked. `graph` are
    memories and links in another engine, which erases them once it is told: None likewise.
    """

    answers: int
    memories: int
    questions: int
    snapshots: int
    redis: int | None = None
    graph: int | None = None


class Copies:
    """Every copy of this worker.

    Args:
        store: knows what was forgotten.
        answers: finished answers.
        warm: shards and their files.
        heat: frequent questions.
        coherence: the scopes' slots.
        shared: answers in a shared cache, where there is one.
        projection: the copy of the links in another engine, where there is one.
    """

    def __init__(
        self,
        store: MemoryStore,
        answers: Answers,
        warm: Warm,
        heat: Heat,
        coherence: Coherence,
        shared: SharedAnswers | None,
        projection: Projection | None = None,
    ) -> None:
        self._store = store
        self._answers = answers
        self._warm = warm
        self._heat = heat
        self._coherence = coherence
        self._shared = shared
        self._projection = projection

    async def kept(self, scope_id: UUID) -> Kept:
        """What there is of a scope."""
        saved = await self._warm.saved()
        return Kept(
            answers=self._answers.held(self._coherence.epochs(scope_id).slot),
            memories=self._warm.memories(scope_id),
            questions=self._heat.questions(scope_id),
            snapshots=saved.count(scope_id),
            graph=await self._copied(scope_id),
        )

    async def erase(self, scope_id: UUID) -> Kept:
        """Erase everything of a scope; its epoch must have been raised."""
        memories = self._warm.memories(scope_id)
        self._warm.drop(scope_id)
        answers = self._answers.forget(self._coherence.epochs(scope_id).slot)
        questions = self._heat.forget(scope_id)
        return Kept(
            answers=answers,
            memories=memories,
            questions=questions,
            snapshots=await self._warm.erase(scope_id),
            redis=await self.erase_shared(scope_id),
        )

    async def erase_shared(self, scope_id: UUID) -> int | None:
        """Erase the answers of a scope in Redis: none of them is good without the database's word."""
        return None if self._shared is None else await self._shared.erase(scope_id)

    async def _copied(self, scope_id: UUID) -> int | None:
        if self._projection is None:
            return None
        try:
            return sum(await self._projection.counts(scope_id))
        except MemfastError as error:
            _log.debug("the graph could not be asked what it has of a user: %s", error)
            return None

    async def look(self) -> None:
        """Erase, once, what is kept of scopes that were forgotten elsewhere.

        Raises:
            Unavailable: the store did not answer.
        """
        scopes = list({*self._warm.held(), *self._heat.scopes(), *await self._warm.saved()})
        for start in range(0, len(scopes), ASKED_MAX):
            for scope_id in await self._store.forgotten(scopes[start : start + ASKED_MAX]):
                self._warm.drop(scope_id)
                self._heat.forget(scope_id)
                self._answers.forget(self._coherence.epochs(scope_id).slot)
                await self._warm.erase(scope_id)

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                await self.look()
            except MemfastError as error:
                _log.debug("what was forgotten elsewhere could not be asked: %s", error)
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("copies of what was forgotten elsewhere could not be erased")
