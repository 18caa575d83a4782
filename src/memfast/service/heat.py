"""Which scopes are read, and by which questions: counted in memory, written in the background."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from typing import Any
from uuid import UUID

from memfast.errors import MemfastError
from memfast.model import AskedQuery, ScopeReads
from memfast.ports import AccessLog, Clock

__all__ = ["Heat"]

_log = logging.getLogger("memfast.heat")

SCOPES_MAX = 10_000
"""Scopes that are counted between two writes; reads of any more are not counted."""

QUERIES_MAX = 50
"""Questions that are counted of a scope between two writes."""

REQUESTS_MAX = 20_000
"""Questions whose wording is remembered, by the keys of their answers."""

REQUEST_BYTES_MAX = 8192
"""A longer question is counted as a read and not asked again."""

AGAIN_MAX = 10_000
"""Answers whose repetitions are counted between two writes."""

FLUSH_S = 10.0
"""Time between two writes, in seconds."""

FLUSH_SCOPES = 500
"""Scopes in one write."""


class Heat:
    """Counts reads. Nothing here ever runs a statement on the way of a read.

    Args:
        log: where counts go.
        clock: wall time for the rows.
    """

    def __init__(self, log: AccessLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._reads: Counter[UUID] = Counter()
        self._queries: dict[UUID, Counter[bytes]] = {}
        self._requests: OrderedDict[bytes, tuple[UUID, bytes]] = OrderedDict()
        self._again: dict[bytes, list[Any]] = {}

    def read(self, scope_id: UUID, key: bytes | None = None, times: int = 1) -> None:
        """The scope was read, by the question of an answer's key if there is one."""
        before = self._reads.get(scope_id, 0)
        if not before and len(self._reads) >= SCOPES_MAX:
            return
        self._reads[scope_id] = before + times
        if key is not None and key in self._requests:
            queries = self._queries.get(scope_id)
            if queries is None:
                queries = self._queries[scope_id] = Counter()
            if key in queries or len(queries) < QUERIES_MAX:
                queries[key] += times

    def again(self, key: bytes, scope: bytes) -> None:
        """A kept answer of the scope (its id's 16 bytes) was given again: `read`, for a tenth of its time."""
        counted = self._again.get(key)
        if counted is not None:
            counted[1] += 1
        elif len(self._again) < AGAIN_MAX:
            self._again[key] = [scope, 1]

    def asked(self, scope_id: UUID, key: bytes, request: bytes) -> None:
        """The scope was searched; `request` is the question in a form that can be asked again."""
        if key not in self._requests and len(request) <= REQUEST_BYTES_MAX:
            if len(self._requests) >= REQUESTS_MAX:
                self._requests.popitem(last=False)
            self._requests[key] = scope_id, request
        self.read(scope_id, key)

    def scopes(self) -> set[UUID]:
        """Scopes of which questions are remembered."""
        return {scope_id for scope_id, _ in self._requests.values()}

    def questions(self, scope_id: UUID) -> int:
        """Questions of a scope that are remembered."""
        return sum(owner == scope_id for owner, _ in self._requests.values())

    def forget(self, scope_id: UUID) -> int:
        """Remember no question of a scope and count none of its reads; returns how many questions that were."""
        own = [key for key, (owner, _) in self._requests.items() if owner == scope_id]
        for key in own:
            del self._requests[key]
        for key in [key for key, (owner, _) in self._again.items() if owner == scope_id.bytes]:
            del self._again[key]
        self._reads.pop(scope_id, None)
        self._queries.pop(scope_id, None)
        return len(own)

    async def flush(self) -> None:
        """Write what was counted.

        Raises:
            Unavailable: the store did not answer; what was counted is lost, which costs nothing but warmth.
        """
        again, self._again = self._again, {}
        for number, (key, (scope, times)) in enumerate(again.items()):
            self.read(UUID(bytes=scope), key, times)
            if number % FLUSH_SCOPES == 0:
                await asyncio.sleep(0)  # readers need not wait for all of it
        reads, queries = self._reads, self._queries
        self._reads, self._queries = Counter(), {}
        items = [
            ScopeReads(
                scope_id=scope_id,
                reads=count,
                queries=[
                    AskedQuery(self._requests[key][1], n)
                    for key, n in queries.get(scope_id, Counter()).items()
                    if key in self._requests
                ],
            )
            for scope_id, count in reads.items()
        ]
        for start in range(0, len(items), FLUSH_SCOPES):
            await self._log.record(items[start : start + FLUSH_SCOPES], now=self._clock.now())

    async def watch(self) -> None:
        """Flush for ever."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except MemfastError as error:
                _log.debug("access statistics could not be written: %s", error)
            except Exception:  # noqa: BLE001 - a task's edge: statistics must not end because one write failed
                _log.exception("access statistics could not be written")
