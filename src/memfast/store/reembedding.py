"""Generations of vectors in PostgreSQL: `service.reembed.Reembedding`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from memfast.errors import CommandFailed
from memfast.service.reembed import Behind, Generation, Page
from memfast.store.pool import translated
from memfast.store.queries import REEMBED, WRITE

__all__ = ["PostgresReembedding", "read_generations"]

_PAGE_SCOPES = 200
"""Scopes of one page: so many rows are locked when it is written."""

_FIRST = UUID(int=0)


async def read_generations(connection: Any) -> list[tuple[Generation, int]]:
    """Every generation, oldest first, with the number of its vectors."""
    async with translated():
        generations = [Generation(*row) for row in await connection.fetch(REEMBED.generations)]
        return [(each, await connection.fetchval(REEMBED.vectors, each.number)) for each in generations]


class PostgresReembedding:
    """Over one connection, with which the right to change generations is lost."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @classmethod
    async def claimed(cls, connection: Any) -> PostgresReembedding:
        """The right to change generations.

        Raises:
            CommandFailed: somebody else has it.
        """
        async with translated():
            if not await connection.fetchval(REEMBED.claim):
                raise CommandFailed("another `memfast reembed` works on this database")
        return cls(connection)

    async def generations(self) -> list[Generation]:
        """See `Reembedding.generations`."""
        async with translated():
            return [Generation(*row) for row in await self._connection.fetch(REEMBED.generations)]

    async def register(self, model: str, dimensions: int, settings: bytes) -> int:
        """See `Reembedding.register`."""
        return int(await self._value(REEMBED.register, model, dimensions, settings))

    async def change_settings(self, generation: int, settings: bytes) -> None:
        """See `Reembedding.change_settings`."""
        await self._value(REEMBED.change_settings, generation, settings)

    async def memories(self) -> int:
        """See `Reembedding.memories`."""
        return int(await self._value(REEMBED.memories))

    async def vectors(self, generation: int) -> int:
        """See `Reembedding.vectors`."""
        return int(await self._value(REEMBED.vectors, generation))

    async def behind(self, generation: int, after: UUID, limit: int) -> Page | None:
        """See `Reembedding.behind`."""
        async with translated():
            records = await self._connection.fetch(REEMBED.behind, generation, after, _PAGE_SCOPES, limit)
        if not records:
            return None
        rows = [Behind(each["scope_id"], each["id"], each["version"], each["text"]) for each in records if each["id"]]
        reached = {each["scope_id"]: each["scope_version"] for each in records}
        last = records[-1]
        if len(records) < limit:
            return Page(rows, reached, last["scope_id"])
        if last["id"] is not None:
            reached[last["scope_id"]] = last["version"]  # it may have more
        return Page(rows, reached, UUID(int=last["scope_id"].int - 1))

    async def put(self, generation: int, page: Page, vectors: NDArray[np.float32], *, locked: bool = False) -> None:
        """See `Reembedding.put`."""
        rows = [
            (row.scope_id, row.id, row.version, generation, vector)
            for row, vector in zip(page.rows, vectors, strict=True)
        ]
        progress = [(scope_id, generation, version) for scope_id, version in page.reached.items()]
        async with translated(), self._connection.transaction():
            if not locked:
                await self._connection.executemany(WRITE.lock_scope, [(scope_id,) for scope_id in page.reached])
            if rows:
                await self._connection.executemany(REEMBED.put_vector, rows)
            await self._connection.executemany(REEMBED.note_progress, progress)

    @asynccontextmanager
    async def stopped_writers(self, timeout_s: float) -> AsyncIterator[None]:
        """See `Reembedding.stopped_writers`."""
        async with translated(), self._connection.transaction():
            await self._connection.execute(REEMBED.bound, f"{int(timeout_s * 1000)}ms")
            await self._connection.execute(REEMBED.stop_writers)
            yield

    async def promote(self, generation: int) -> None:
        """See `Reembedding.promote`."""
        await self._value(REEMBED.retire)
        if await self._value(REEMBED.promote, generation) is None:
            raise CommandFailed("the generation was given up meanwhile")

    async def abort(self) -> bool:
        """See `Reembedding.abort`."""
        return await self._value(REEMBED.abort) is not None

    async def erase(self, generation: int, limit: int, erased: Callable[[int], None]) -> None:
        """See `Reembedding.erase`."""
        while await self._value(REEMBED.leftovers, generation):
            await self._erase(REEMBED.erase_vectors, (generation, _FIRST, _FIRST), limit, erased)
            await self._erase(REEMBED.erase_history_vectors, (generation, _FIRST, _FIRST, 0), limit, lambda _rows: None)
        await self._value(REEMBED.erase_progress, generation)
        await self._value(REEMBED.erased, generation)
        await self._value(REEMBED.withdrawn, generation)

    async def _erase(self, statement: str, first: tuple[Any, ...], limit: int, erased: Callable[[int], None]) -> None:
        key = first
        async with translated():
            while rows := await self._connection.fetch(statement, *key, limit):
                key = (first[0], *rows[-1])
                erased(len(rows))

    async def _value(self, statement: str, *arguments: Any) -> Any:
        async with translated():
            return await self._connection.fetchval(statement, *arguments)
