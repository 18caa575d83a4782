"""Moving a database to another embedding model while it is used.

The new generation of vectors is built beside the current one, page by page. What is written meanwhile has a version
above the one that its scope has come to, and is done again. Once little is left, writers are stopped for a moment: the
rest is done, and the new generation becomes the current one in the same transaction. The old one is erased then. All
that is known of it stands in the database, so whatever ends the command, the next one goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol
from uuid import UUID

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from memfast.errors import CommandFailed, DeadlineExceeded, EmbedderUnavailable
from memfast.ports import Clock, Embedder
from memfast.resilience.retry import Retry

__all__ = ["Behind", "Generation", "Page", "Progress", "Reembed", "Reembedding", "State"]

PAGE_ROWS = 256
"""Memories that are read, embedded and written at once; for the writing, their users' writes wait some milliseconds."""

LAST_ROWS = 256
"""Memories that may be left to the moment in which writers are stopped."""

SWITCH_S = 3.0
"""How long writers may be stopped, in seconds: less than what counts as a failure of the database."""

ROUNDS_MAX = 50
"""Rounds over all users, and tries to switch, before it is said that writers are faster than the model."""

ERASED_ROWS = 1000
"""Vectors that are erased in one transaction."""

EMBED_RETRY_S = 120.0
"""How long a model that fails is asked again, in seconds."""

NO_MODEL = "client"
"""The model's name where vectors come from clients."""

State = Literal["building", "current", "retired", "aborted", "erased"]
Progress = Callable[[str, int, int], None]
"""Is told what is done, how far it is, and of how much."""


class Generation(Struct, frozen=True):
    """Vectors of one model, comparable with each other and with nothing else."""

    number: int
    model: str
    dimensions: int
    state: State

    def __str__(self) -> str:
        return f"{self.model} with {self.dimensions} dimensions"


class Behind(Struct, frozen=True):
    """A memory whose vector is missing or of before its last change."""

    scope_id: UUID
    id: UUID
    version: int
    text: str


class Page(Struct, frozen=True):
    """Memories to do, the version to which each scope comes with them, and after which scope the next page begins."""

    rows: Sequence[Behind]
    reached: dict[UUID, int]
    after: UUID


class Reembedding(Protocol):
    """What the database knows of its generations: of one connection, which alone may change them."""

    async def generations(self) -> list[Generation]:
        """All of them, oldest first."""
        ...

    async def register(self, model: str, dimensions: int, settings: bytes) -> int:
        """Begin a generation; returns its number."""
        ...

    async def change_settings(self, generation: int, settings: bytes) -> None:
        """Note how the vectors of a generation are made."""
        ...

    async def memories(self) -> int:
        """Memories of all users."""
        ...

    async def vectors(self, generation: int) -> int:
        """Vectors of a generation."""
        ...

    async def behind(self, generation: int, after: UUID, limit: int) -> Page | None:
        """The next memories to do, after a scope; None where there are none."""
        ...

    async def put(self, generation: int, page: Page, vectors: NDArray[np.float32], *, locked: bool = False) -> None:
        """Write the vectors of a page, float32 (len(page.rows), dimensions), but of memories that changed meanwhile.

        With `locked` writers are stopped already.
        """
        ...

    def stopped_writers(self, timeout_s: float) -> AbstractAsyncContextManager[None]:
        """A transaction beside which nobody writes; it is given up by the server when it takes too long.

        Raises:
            DeadlineExceeded: it took too long, or writers did not stop in time.
        """
        ...

    async def promote(self, generation: int) -> None:
        """Let a generation be the current one, within that transaction."""
        ...

    async def abort(self) -> bool:
        """Give the generation up that is built; False where there is none."""
        ...

    async def erase(self, generation: int, limit: int, erased: Callable[[int], None]) -> None:
        """Erase everything of a generation, in steps; `erased` is told the size of each."""
        ...


class _TooMuchLeft(Exception):
    """Writers were faster than expected."""


class Reembed:
    """Moves the database to `embedder`, or gives that up.

    Args:
        database: its generations.
        embedder: makes the new vectors.
        settings: how it is made, for the services.
        retry: for a model that fails now and then.
        clock: monotonic seconds.
        progress: is told how far it is.
        forget: removes copies of old vectors on the disk.
    """

    def __init__(
        self,
        database: Reembedding,
        embedder: Embedder,
        settings: bytes,
        retry: Retry,
        clock: Clock,
        progress: Progress,
        forget: Callable[[], None],
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._settings = settings
        self._retry = retry
        self._clock = clock
        self._progress = progress
        self._forget = forget

    async def run(self, *, from_text: bool) -> bool:
        """Build, switch, and erase what is not used any more; False where the database was there already.

        Args:
            from_text: whether vectors that clients gave may be replaced by those of the texts.

        Raises:
            CommandFailed: it cannot be begun, or writers were faster than the model.
            Unavailable: the database or the model is away; the next run goes on.
        """
        current, building = await self._now()
        wanted = (self._embedder.model, self._embedder.dimensions)
        moves = (current.model, current.dimensions) != wanted
        if building is not None and (building.model, building.dimensions) != wanted:
            raise CommandFailed(
                f"a move to {building} is not finished: name that model again, or take it back by "
                "`memfast reembed --rollback`"
            )
        if moves:
            await self._move(await self._begin(current, building, from_text=from_text))
        await self._clean()
        return moves

    async def roll_back(self) -> bool:
        """Give a move up that has not switched, with everything that was built; False where there is none."""
        given_up = await self._database.abort()
        await self._clean()
        return given_up

    async def _now(self) -> tuple[Generation, Generation | None]:
        found = {each.state: each for each in await self._database.generations()}
        return found["current"], found.get("building")

    async def _begin(self, current: Generation, building: Generation | None, *, from_text: bool) -> int:
        if current.model == NO_MODEL and not from_text:
            raise CommandFailed(
                f"the vectors of all {await self._database.memories()} memories were given by clients: say --from-text "
                "if they may be replaced by vectors of the texts"
            )
        await self._embedder.check()
        if building is None:
            return await self._database.register(self._embedder.model, self._embedder.dimensions, self._settings)
        await self._database.change_settings(building.number, self._settings)
        return building.number

    async def _move(self, generation: int) -> None:
        total, done = await self._database.memories(), await self._database.vectors(generation)

        def embedded(rows: int) -> None:
            nonlocal done
            done = min(total, done + rows)
            self._progress("embedding", done, total)

        for _ in range(ROUNDS_MAX):
            embedded(0)
            rows = await self._round(generation, embedded)
            if rows <= LAST_ROWS and await self._switched(generation):
                return
        raise CommandFailed(
            "memories are written faster than the model embeds them, so nothing was switched. Run it again when less "
            "is written: it goes on from here"
        )

    async def _round(self, generation: int, progress: Callable[[int], None], *, last: bool = False) -> int:
        """Do what is behind, of one scope after the other; returns how many memories that were."""
        after, rows = UUID(int=0), 0
        while (page := await self._database.behind(generation, after, PAGE_ROWS)) is not None:
            rows += len(page.rows)
            if last and rows > LAST_ROWS:
                raise _TooMuchLeft
            await self._database.put(generation, page, await self._embedded(page.rows, again=not last), locked=last)
            after = page.after
            progress(len(page.rows))
        return rows

    async def _switched(self, generation: int) -> bool:
        """Stop writers, do what is left, and switch; False where that would have taken too long."""
        try:
            async with asyncio.timeout(SWITCH_S), self._database.stopped_writers(SWITCH_S):
                await self._round(generation, lambda _rows: None, last=True)
                await self._database.promote(generation)
        except (TimeoutError, DeadlineExceeded, EmbedderUnavailable, _TooMuchLeft):
            return False
        return True

    async def _embedded(self, rows: Sequence[Behind], *, again: bool) -> NDArray[np.float32]:
        async def embed() -> NDArray[np.float32]:
            return await self._embedder.embed([row.text for row in rows])

        def passes(error: Exception) -> bool:
            return again and isinstance(error, EmbedderUnavailable) and error.failure is not None

        return await self._retry.run(embed, passes, until_s=self._clock.monotonic() + EMBED_RETRY_S)

    async def _clean(self) -> None:
        """Erase what is neither current nor built."""
        for each in await self._database.generations():
            if each.state in {"retired", "aborted"}:
                self._forget()
                total, gone = await self._database.vectors(each.number), 0

                def erased(rows: int, total: int = total) -> None:
                    nonlocal gone
                    gone += rows
                    self._progress("erasing", min(gone, total), total)

                await self._database.erase(each.number, ERASED_ROWS, erased)
