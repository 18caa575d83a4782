"""What time takes away: memories that have expired, history beyond its retention, idempotency keys that lapsed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from uuid import UUID

from memfast.errors import MemfastError
from memfast.model import Delete, Scope
from memfast.ports import Clock, Sweeper
from memfast.service.background import Background
from memfast.service.writer import Writer

__all__ = ["Sweeps"]

_log = logging.getLogger("memfast.sweeps")

STEP_ROWS = 100
"""Rows of one transaction: about a millisecond of the event loop, and no writer of the same user waits long."""


class Sweeps:
    """Finds what is due, scope by scope, and leaves the work to the background.

    Every worker of every host runs this; the database lets one of them begin each sweep. Were it two, the second
    would find nothing left to do.

    Args:
        sweeper: finds what is due, and erases history.
        writer: the way of every change.
        background: does the work.
        clock: wall time.
        retention: how long history keeps what was replaced or deleted.
    """

    def __init__(
        self, sweeper: Sweeper, writer: Writer, background: Background, clock: Clock, retention: timedelta
    ) -> None:
        self._sweeper = sweeper
        self._writer = writer
        self._background = background
        self._clock = clock
        self._retention = retention

    async def watch(self, expiry_interval_s: float, erase_interval_s: float) -> None:
        """Sweep for ever; keys that lapsed as often as old history."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat("expiry", expiry_interval_s, self.expire))
            group.create_task(self._repeat("history", erase_interval_s, self.erase))
            group.create_task(self._repeat("keys", erase_interval_s, self.erase_keys))

    async def expire(self) -> None:
        """Hand every scope with expired memories to the background, which deletes them like any others.

        Raises:
            Unavailable: the store did not answer.
        """
        after: UUID | None = None
        while True:
            due, after = await self._sweeper.expiring(after, now=self._clock.now())
            for scope in due:
                await self._background.put("remove expired memories", partial(self._expire_scope, scope))
            if after is None:
                return
            await self._sweeper.claim("expiry", now=self._clock.now(), unless_within=timedelta())

    async def erase(self) -> None:
        """Hand every scope with history or tombstones beyond the retention to the background.

        Raises:
            Unavailable: the store did not answer.
        """
        after: UUID | None = None
        while True:
            due, after = await self._sweeper.outdated(after, before=self._clock.now() - self._retention)
            for scope in due:
                await self._background.put("erase old history", partial(self._erase_scope, scope.id))
            if after is None:
                return
            await self._sweeper.claim("history", now=self._clock.now(), unless_within=timedelta())

    async def erase_keys(self) -> None:
        """Hand every scope with idempotency keys that are taken no longer to the background.

        Raises:
            Unavailable: the store did not answer.
        """
        after: UUID | None = None
        while True:
            due, after = await self._sweeper.lapsed(after, now=self._clock.now())
            for scope in due:
                await self._background.put("erase lapsed keys", partial(self._erase_lapsed, scope.id))
            if after is None:
                return
            await self._sweeper.claim("keys", now=self._clock.now(), unless_within=timedelta())

    async def _repeat(self, name: str, interval_s: float, sweep: Callable[[], Awaitable[None]]) -> None:
        half = timedelta(seconds=interval_s / 2)  # workers do not wake at one moment: each round is begun once
        while True:
            await asyncio.sleep(interval_s)
            try:
                if await self._sweeper.claim(name, now=self._clock.now(), unless_within=half):
                    await sweep()
            except MemfastError as error:
                _log.debug("the sweep %s could not be made: %s", name, error)
            except Exception:  # noqa: BLE001 - a task's edge: the next round must come whatever this one met
                _log.exception("the sweep %s failed", name)

    async def _expire_scope(self, scope: Scope) -> None:
        while not self._background.stopping:  # what is left is found by the next sweep
            now = self._clock.now()
            ids = await self._sweeper.expired(scope.id, now=now, limit=STEP_ROWS)
            if not ids:
                return
            changes = [Delete(scope=scope, id=target, expired=True) for target in ids]
            outcomes = await self._writer.commit(changes, background=True)
            if len(ids) < STEP_ROWS or all(outcome.refused is not None for outcome in outcomes):
                return

    async def _erase_scope(self, scope_id: UUID) -> None:
        before = self._clock.now() - self._retention
        while not self._background.stopping:
            if await self._sweeper.erase(scope_id, before=before, limit=STEP_ROWS) < STEP_ROWS:
                return

    async def _erase_lapsed(self, scope_id: UUID) -> None:
        while not self._background.stopping:
            if await self._sweeper.erase_keys(scope_id, now=self._clock.now(), limit=STEP_ROWS) < STEP_ROWS:
                return
