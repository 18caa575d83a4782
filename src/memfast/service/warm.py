"""The warm tier: scopes held in memory, kept at the database's state by deltas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import TypeVar
from uuid import UUID

import msgspec

from memfast.errors import MemfastError
from memfast.metrics import Meter, unread
from memfast.model import Delta, Scope
from memfast.ports import Clock, MemoryStore, Shard, Shards
from memfast.service.coherence import Coherence, Epochs

__all__ = ["Warm"]

_log = logging.getLogger("memfast.warm")

_T = TypeVar("_T")

INLINE_CELLS = 5_000_000
"""Rows times dimensions up to which a search runs on the event loop: about 300 µs. A larger one takes a thread."""

INLINE_DECODED_ROWS = 300
"""Rows whose JSON a filter may read on the event loop: about 300 µs too."""

COMPLETE_MAX = 100_000
"""Shards whose epochs are remembered."""

ARRIVES_S = 0.1
"""How long a search waits for a load that is under way, in seconds."""

LOADS_MAX = 2
"""Loads that run at once in a worker."""

WAITING_LOADS_MAX = 1000
"""Loads that may wait; one more is left to a later search."""


class Warm:
    """Shards by scope, each complete for the epochs that are noted with it.

    Args:
        shards: what is held.
        store: where shards come from.
        coherence: the epochs.
        executor: for what would hold the event loop up.
        rebuilder: one thread of low priority, for rebuilds.
        dimensions: length of a vector.
        flat_limit: memories of a scope up to which every one is compared.
        clock: monotonic seconds, for admission.
        meter: counts loads, deltas and rebuilds.
    """

    def __init__(
        self,
        shards: Shards,
        store: MemoryStore,
        coherence: Coherence,
        executor: Executor,
        rebuilder: Executor,
        dimensions: int,
        flat_limit: int,
        clock: Clock,
        meter: Meter | None = None,
    ) -> None:
        self._shards = shards
        self._store = store
        self._coherence = coherence
        self._executor = executor
        self._rebuilder = rebuilder
        self._flat_limit = flat_limit
        self._dimensions = dimensions
        self._clock = clock
        self._complete: dict[UUID, Epochs] = {}
        self._updates: dict[tuple[UUID, Epochs], asyncio.Task[Shard | None]] = {}
        self._loads: dict[UUID, asyncio.Task[bool]] = {}
        self._builds: dict[tuple[UUID, Epochs], asyncio.Task[Shard]] = {}
        self._rebuilds: dict[UUID, asyncio.Task[None]] = {}
        self._loading = asyncio.Semaphore(LOADS_MAX)
        meter = meter or unread()
        self._loaded = {name: meter.counter("memfast_warm_loads", name) for name in ("held", "refused", "failed")}
        self._deltas = meter.counter("memfast_warm_deltas")
        self._rebuilt_count = meter.counter("memfast_warm_rebuilds")

    @property
    def flat_limit(self) -> int:
        """Memories of a scope up to which every one is compared."""
        return self._flat_limit

    def current(self, scope_id: UUID, epochs: Epochs) -> Shard | None:
        """The scope's shard if it is complete for these epochs."""
        shard = self._shards.get(scope_id)
        if shard is None or self._complete.get(scope_id) != epochs:
            return None
        self._coherence.served(scope_id)
        return shard

    async def shard(self, scope: Scope, epochs: Epochs) -> Shard | None:
        """The scope's shard, brought up to these epochs by one delta query if need be; None when it is not held.

        Raises:
            Unavailable: the database did not answer.
        """
        shard = self.current(scope.id, epochs)
        if shard is not None:
            return shard
        if self._shards.get(scope.id) is None:
            return None
        complete = self._complete.get(scope.id)
        if complete is None or complete.every != epochs.every:  # maybe of another life: no delta leads on from there
            self.drop(scope.id)
            self.load(scope)
            return None
        update = self._updates.get((scope.id, epochs))
        if update is None:
            update = self._updates[scope.id, epochs] = asyncio.create_task(self._catch_up(scope, epochs))
            update.add_done_callback(lambda task: self._updated(scope.id, epochs, task))
        return await asyncio.shield(update)

    async def arriving(self, scope_id: UUID, epochs: Epochs) -> Shard | None:
        """The scope's shard where it is being loaded and comes soon; else None.

        Searches that go to the database meanwhile would keep it from the load, and the scope cold.
        """
        load = self._loads.get(scope_id)
        if load is None:
            return None
        await asyncio.wait({load}, timeout=ARRIVES_S)
        return self.current(scope_id, epochs)

    def is_short(self, shard: Shard, *, decodes: bool = False) -> bool:
        """Whether a search of the shard may run on the event loop. One that may not is given to `run`.

        With `decodes` it reads the JSON of its rows.
        """
        if decodes and len(shard) > INLINE_DECODED_ROWS:
            return False
        return len(shard) * self._dimensions <= INLINE_CELLS

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run a long search in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def missed(self, scope: Scope) -> None:
        """A search or a walk found the scope cold: load it when that happens often enough."""
        if scope.id not in self._loads and self._shards.note_miss(scope.id, self._clock.monotonic()):
            self.load(scope)

    def load(self, scope: Scope, *, evict: bool = True) -> asyncio.Task[bool]:
        """Load a scope in the background; the task says whether it is held then.

        Without `evict` only free room is used.
        """
        running = self._loads.get(scope.id)
        if running is not None:
            return running
        task = asyncio.create_task(self._load(scope, evict=evict))
        if len(self._loads) >= WAITING_LOADS_MAX:
            task.cancel()
            return task
        self._loads[scope.id] = task
        task.add_done_callback(lambda _task: self._loads.pop(scope.id, None))
        return task

    async def transient(self, scope: Scope) -> Shard:
        """A shard of a scope that is not held, for one answer; those who ask at once share it.

        A load that is under way is waited for instead. Epochs must have been read before.

        Raises:
            Unavailable: the database did not answer.
        """
        load = self._loads.get(scope.id)
        if load is not None:
            epochs = self._coherence.epochs(scope.id)
            await asyncio.wait({load})
            shard = self.current(scope.id, epochs)
            if shard is not None:
                return shard
        epochs = self._coherence.epochs(scope.id)
        build = self._builds.get((scope.id, epochs))
        if build is None:
            build = self._builds[scope.id, epochs] = asyncio.create_task(self._built_alone(scope))
            build.add_done_callback(lambda task: self._built_once(scope.id, epochs, task))
        return await asyncio.shield(build)

    def wrote(self, scope_id: UUID, delta: Delta | None, after: Epochs) -> None:
        """This worker committed a change: its own shard follows without a query, if it was complete before.

        `after` are the epochs of the bump that told of the commit; `delta` is None when rows are not known in full.
        """
        before = after._replace(scope=after.scope - 1)
        shard = self._shards.get(scope_id)
        if shard is None or delta is None or self._complete.get(scope_id) != before or delta.since != shard.version:
            return
        try:
            own = msgspec.structs.replace(delta, purged_to=shard.purged_to)
            self._hold(scope_id, shard.apply(own), after)
        except Exception:  # noqa: BLE001 - the write is committed: a copy that cannot follow goes, the answer stands
            _log.exception("a shard could not follow a write and was dropped")
            self.drop(scope_id)

    def drop(self, scope_id: UUID) -> None:
        """Hold a scope no longer."""
        self._shards.drop(scope_id)
        self._complete.pop(scope_id, None)

    async def erase(self, scope_id: UUID) -> int:
        """Something of the scope was erased: what was saved of it on disk may still say it, and goes; returns files."""
        try:
            return await self.run(partial(self._shards.unsave, scope_id))
        except OSError:
            _log.warning("a snapshot could not be removed: %s", scope_id, exc_info=True)
            return 0

    def memories(self, scope_id: UUID) -> int:
        """Memories of a scope that are in memory, good or void."""
        shard = self._shards.peek(scope_id)
        return 0 if shard is None else len(shard)

    def pending(self) -> dict[str, int]:
        """What is under way, by its kind."""
        return {"load": len(self._loads), "delta": len(self._updates), "rebuild": len(self._rebuilds)}

    def held(self) -> Sequence[UUID]:
        """Scopes that are held."""
        return self._shards.held()

    async def saved(self) -> Sequence[UUID]:
        """Scopes that are saved on disk."""
        return await self.run(self._shards.saved)

    async def _catch_up(self, scope: Scope, epochs: Epochs) -> Shard | None:
        shard = self._shards.get(scope.id)
        if shard is None:
            return None
        delta = await self._store.changes_since(scope, shard.version)
        advanced = None if delta is None else _advanced(shard, delta)
        if advanced is None:
            self.drop(scope.id)
            self.load(scope)
            return None
        self._deltas.add()
        self._hold(scope.id, advanced, epochs)
        self._refresh(scope)
        return advanced

    async def _load(self, scope: Scope, *, evict: bool) -> bool:
        async with self._loading:
            epochs = self._coherence.epochs(scope.id)
            try:
                shard = await self._restored(scope) or await self._built(scope)
            except MemfastError as error:
                _log.info("a scope could not be loaded: %s", error)
                self._loaded["failed"].add()
                return False
            held = self._hold(scope.id, shard, epochs, evict=evict)
            self._loaded["held" if held else "refused"].add()
            self._refresh(scope)
            return held

    async def _built_alone(self, scope: Scope) -> Shard:
        async with self._loading:
            return await self._built(scope)

    async def _built(self, scope: Scope) -> Shard:
        snapshot = await self._store.load(scope)
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._shards.build, scope, snapshot)

    async def _restored(self, scope: Scope) -> Shard | None:
        """The shard that was saved, brought up to the database's state."""
        thread = asyncio.get_running_loop().run_in_executor
        shard = await thread(self._executor, self._shards.restore, scope)
        if shard is None:
            return None
        delta = await self._store.changes_since(scope, shard.version)
        return None if delta is None else await thread(self._executor, _advanced, shard, delta)

    def _refresh(self, scope: Scope) -> None:
        """Rebuild a shard that is worn, or too large to be scanned, in the background; one at a time."""
        shard, complete = self._shards.get(scope.id), self._complete.get(scope.id)
        if shard is None or complete is None or scope.id in self._rebuilds:
            return
        if not shard.needs_rebuild(self._flat_limit):
            return
        task = self._rebuilds[scope.id] = asyncio.create_task(self._rebuild(scope, shard, complete.every))
        task.add_done_callback(lambda done: self._rebuilt(scope.id, done))

    async def _rebuild(self, scope: Scope, shard: Shard, every: int) -> None:
        loop = asyncio.get_running_loop()
        rebuilt = await loop.run_in_executor(self._rebuilder, shard.rebuilt, self._flat_limit)
        epochs = self._coherence.epochs(scope.id)
        delta = await self._store.changes_since(scope, rebuilt.version)
        advanced = None if delta is None else _advanced(rebuilt, delta)
        if advanced is not None and epochs.every == every and self._shards.get(scope.id) is not None:
            self._hold(scope.id, advanced, epochs)
            self._rebuilt_count.add()

    def _rebuilt(self, scope_id: UUID, task: asyncio.Task[None]) -> None:
        self._rebuilds.pop(scope_id, None)
        if not task.cancelled() and task.exception() is not None:
            _log.warning("a shard could not be rebuilt; it goes on as it is", exc_info=task.exception())

    def _hold(self, scope_id: UUID, shard: Shard | None, epochs: Epochs, *, evict: bool = True) -> bool:
        """Hold a shard that is complete for these epochs, unless a newer one came first."""
        if shard is None:
            self.drop(scope_id)
            return False
        held, complete = self._shards.get(scope_id), self._complete.get(scope_id)
        if held is not None and complete is not None:
            newer = (complete.every, complete.scope) > (epochs.every, epochs.scope)
            if newer or (complete == epochs and held.version > shard.version):
                return True
        if not self._shards.put(scope_id, shard, evict=evict):
            self._complete.pop(scope_id, None)
            return False
        self._complete.pop(scope_id, None)
        if len(self._complete) >= COMPLETE_MAX:  # of a shard that is still held: one load too many
            del self._complete[next(iter(self._complete))]
        self._complete[scope_id] = epochs
        self._coherence.copied(scope_id, epochs, shard.version)
        return True

    def _built_once(self, scope_id: UUID, epochs: Epochs, task: asyncio.Task[Shard]) -> None:
        self._builds.pop((scope_id, epochs), None)
        if not task.cancelled():
            task.exception()  # seen: every asker may have gone

    def _updated(self, scope_id: UUID, epochs: Epochs, task: asyncio.Task[Shard | None]) -> None:
        self._updates.pop((scope_id, epochs), None)
        if not task.cancelled():
            task.exception()  # seen: every asker may have gone


def _advanced(shard: Shard, delta: Delta) -> Shard | None:
    """The shard at the delta's state; None where the delta does not lead on from it."""
    return None if delta.version < shard.version else shard.apply(delta)
