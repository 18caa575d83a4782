"""Making scopes warm before they are asked for: at the start of a worker, and on demand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from memfast.errors import MemfastError
from memfast.model import HotScope, Scope
from memfast.ports import AccessLog, MemoryStore, Shards
from memfast.service.question import Query
from memfast.service.search import Search
from memfast.service.warm import Warm

__all__ = ["Progress", "SnapshotWriter", "Warmup"]

_log = logging.getLogger("memfast.warm")


class Progress(Struct):
    """How far the warm-up of a start is: scopes and memories."""

    scopes: int = 0
    scopes_total: int = 0
    memories: int = 0
    done: bool = False


class Warmup:
    """Loads scopes, hottest first, and asks their frequent questions again."""

    def __init__(self, log: AccessLog, warm: Warm, search: Search) -> None:
        self._log = log
        self._warm = warm
        self._search = search
        self.progress = Progress()

    async def start(self, limit: int, queries: int) -> None:
        """Warm what was hottest before this worker started. Stops where memory is full."""
        try:
            hottest = await self._log.hottest(limit)
        except MemfastError as error:
            _log.info("nothing was warmed at the start: %s", error)
            self.progress.done = True
            return
        await self._each(hottest, queries, self.progress)

    async def hottest(self, limit: int, queries: int) -> Progress:
        """Warm the most read scopes.

        Raises:
            Unavailable: the store did not answer.
        """
        return await self._each(await self._log.hottest(limit), queries, Progress())

    async def named(self, namespace: str, user_ids: Sequence[str], queries: int) -> Progress:
        """Warm some users' scopes.

        Raises:
            Unavailable: the store did not answer.
        """
        return await self._each(await self._log.named(namespace, user_ids), queries, Progress())

    async def _each(self, scopes: Sequence[HotScope], queries: int, progress: Progress) -> Progress:
        progress.scopes_total = len(scopes)
        for hot in scopes:
            if not await self._warm.load(hot.scope, evict=False):
                break  # the coldest of what is held is hotter than what would come
            for query in hot.queries[:queries]:
                await self._ask(hot.scope, query.request)
            progress.scopes += 1
            progress.memories += hot.memories
        progress.done = True
        return progress

    async def _ask(self, scope: Scope, request: bytes) -> None:
        try:
            await self._search.find(scope, msgspec.msgpack.decode(request, type=Query), "json")
        except (MemfastError, msgspec.DecodeError) as error:
            _log.debug("a frequent question could not be asked again: %s", error)


class SnapshotWriter:
    """Saves scopes on disk, so that later starts map them instead of reading the database.

    Args:
        log: which scopes there are.
        store: where their memories are.
        shards: how they are saved.
    """

    def __init__(self, log: AccessLog, store: MemoryStore, shards: Shards) -> None:
        self._log = log
        self._store = store
        self._shards = shards

    async def choose(self, *, namespace: str, user_ids: Sequence[str], limit: int, unread: bool) -> list[HotScope]:
        """The named users' scopes, or the most read ones; with `unread` those never read follow."""
        if user_ids:
            return await self._log.named(namespace, user_ids)
        return await self._log.hottest(limit, unread=unread)

    async def write(self, hot: HotScope) -> int:
        """Save one scope unless it is saved at this version; returns the bytes that are on disk for it.

        Raises:
            CommandFailed: the disk is full, or the directory cannot be written.
            Unavailable: the store did not answer.
        """
        saved = await asyncio.to_thread(self._shards.restore, hot.scope)
        if saved is not None and saved.version == hot.version:
            return saved.nbytes
        snapshot = await self._store.load(hot.scope)
        shard = await asyncio.to_thread(self._shards.build, hot.scope, snapshot)
        return await asyncio.to_thread(self._shards.save, hot.scope, shard)
