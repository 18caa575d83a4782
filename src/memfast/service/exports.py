"""Giving everything out that a user or a namespace has, line by line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from memfast import __version__
from memfast.errors import MemfastError
from memfast.links import Link
from memfast.model import Scope, StoredMemory
from memfast.ports import Clock, Embedder, MemoryStore
from memfast.service.lines import FORMAT, ErrorLine, HeaderLine, Line, TrailerLine, encode_record
from memfast.service.streams import Streams

__all__ = ["Exports"]

_log = logging.getLogger("memfast.exports")

_SLICE_LINES = 64
"""Lines that are encoded between two turns of the event loop, and sent together."""

_USERS_PAGE = 500


class Exports:
    """Exports, each user in a snapshot of its own.

    Args:
        store: the store of record.
        embedder: whose vectors they are.
        generation: the number of these vectors in the store.
        lineage: of the database, as it is now.
        streams: bounds how many are under way.
        clock: wall time.
        retention: how far history goes back.
    """

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        generation: int,
        lineage: Callable[[], UUID],
        streams: Streams,
        clock: Clock,
        retention: timedelta,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._generation = generation
        self._lineage = lineage
        self._streams = streams
        self._clock = clock
        self._retention = retention

    async def user(self, scope: Scope) -> AsyncGenerator[bytes, None]:
        """The lines of one user, some at a time; see `namespace`."""
        async with aclosing(self._lines(_only(scope), scope.namespace, scope.user_id)) as lines:
            async for part in lines:
                yield part

    async def namespace(self, namespace: str, scope_of: Callable[[str], Scope]) -> AsyncGenerator[bytes, None]:
        """The lines of all users of a namespace, in byte order of their ids, some lines at a time.

        What fails after the first part ends the stream with an `ErrorLine` in place of the trailer.

        Raises:
            Overloaded: too many exports and imports are under way.
            Unavailable: the store is away.
        """
        async with aclosing(self._lines(self._scopes(namespace, scope_of), namespace, None)) as lines:
            async for part in lines:
                yield part

    async def _lines(
        self, scopes: AsyncIterator[Scope], namespace: str, user_id: str | None
    ) -> AsyncGenerator[bytes, None]:
        begun = False
        with self._streams.one():
            try:
                async with aclosing(self._parts(scopes, self._header(namespace, user_id))) as parts:
                    async for part in parts:
                        yield _encoder.encode_lines(part)
                        begun = True
                        await asyncio.sleep(0)
            except MemfastError as error:
                if not begun:
                    raise
                _log.warning("an export broke off: %s", error)
                yield _encoder.encode_lines([ErrorLine(detail=str(error))])

    async def _parts(self, scopes: AsyncIterator[Scope], header: HeaderLine) -> AsyncGenerator[list[Line], None]:
        """All lines, a few at a time; the header comes with what follows it, when that could be read."""
        part: list[Line] = [header]
        counts = dict.fromkeys(("memories", "deleted", "history", "links", "users"), 0)
        async for scope in scopes:
            counts["users"] += 1
            pages = self._store.export(scope, now=header.exported_at, since=header.exported_at - self._retention)
            async with aclosing(pages):
                async for page in pages:
                    for record in page:
                        if len(part) >= _SLICE_LINES:
                            yield part
                            part = []
                        counts[_kind(record)] += 1
                        part.append(encode_record(record, scope.user_id))
        lines = sum(counts.values()) - counts["users"]
        yield [*part, TrailerLine(lines=lines, **counts)]

    def _header(self, namespace: str, user_id: str | None) -> HeaderLine:
        now: datetime = self._clock.now()
        return HeaderLine(
            format=FORMAT,
            memfast=__version__,
            lineage=self._lineage(),
            namespace=namespace,
            exported_at=now,
            model=self._embedder.model,
            dimensions=self._embedder.dimensions,
            generation=self._generation,
            user_id=user_id,
        )

    async def _scopes(self, namespace: str, scope_of: Callable[[str], Scope]) -> AsyncIterator[Scope]:
        after: str | None = None
        while True:
            page = await self._store.users(namespace, after, _USERS_PAGE)
            for user in page.users:
                yield scope_of(user.user_id)
            if not page.has_more:
                return
            after = page.users[-1].user_id


_encoder = msgspec.json.Encoder()


def _kind(record: object) -> str:
    if isinstance(record, Link):
        return "links"
    if not isinstance(record, StoredMemory):
        return "history"
    return "deleted" if record.memory is None else "memories"


async def _only(scope: Scope) -> AsyncIterator[Scope]:
    yield scope
