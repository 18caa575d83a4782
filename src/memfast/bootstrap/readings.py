"""What a worker's parts say of themselves, written to its row of the metrics once a second.

What happens with a request is counted where it happens. What can be read any time, and what parts count for themselves
anyway, is read here: a part that is new needs its definition in `metrics.families` and a few lines below.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import chain
from typing import NamedTuple

from memfast.bootstrap.ground import Ground
from memfast.bootstrap.services import Services
from memfast.kernels import Counter
from memfast.metrics import Board, Meter, Mirror, Operation
from memfast.metrics.families import BREAKER_STATES, MODES
from memfast.resilience.memory import open_files, resident_bytes

__all__ = ["INTERVAL_S", "open_meter", "written"]

_log = logging.getLogger("memfast.metrics")

INTERVAL_S = 1.0
"""Time between readings, in seconds."""


class Reading(NamedTuple):
    """The value of a series: of a counter since its keeper was made, of a gauge now."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


@contextmanager
def open_meter(site: Ground, operations: Sequence[Operation]) -> Iterator[Meter]:
    """What a worker counts with, for as long as it lives."""
    meter = Meter(Board.open(site.metrics), operations)
    try:
        yield meter
    finally:
        meter.close()


@asynccontextmanager
async def written(services: Services, meter: Meter) -> AsyncIterator[None]:
    """Write what the services say of themselves every second, and a last time at the end."""
    readings = _Readings(services, meter)
    watch = asyncio.create_task(readings.watch())
    try:
        yield
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
        readings.write()


class _Readings:
    """The series of one worker's services. Those that follow them count on from where these ended."""

    def __init__(self, services: Services, meter: Meter) -> None:
        self._services = services
        self._meter = meter
        self._mirrors: dict[tuple[str, tuple[str, ...]], Mirror] = {}
        self._gauges: dict[tuple[str, tuple[str, ...]], Counter] = {}
        self._sizes = meter.cell_mirrors("memfast_flush_changes")
        self._waits = meter.cell_mirrors("memfast_write_wait_seconds")

    async def watch(self) -> None:
        """Write for ever."""
        while True:
            try:
                self.write()
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("the metrics could not be written")
            await asyncio.sleep(INTERVAL_S)

    def write(self) -> None:
        """Write everything once, with a sign of life."""
        services, meter = self._services, self._meter
        for reading in chain.from_iterable(read(services) for read in _COUNTERS):
            mirror = self._mirrors.get((reading.name, reading.labels))
            if mirror is None:
                mirror = meter.mirror(reading.name, *reading.labels)
                self._mirrors[reading.name, reading.labels] = mirror
            mirror.show(reading.value)
        for reading in chain.from_iterable(read(services) for read in _GAUGES):
            gauge = self._gauges.get((reading.name, reading.labels))
            if gauge is None:
                gauge = self._gauges[reading.name, reading.labels] = meter.counter(reading.name, *reading.labels)
            gauge.set(reading.value)
        flushes = services.writer.snapshot()
        for mirror, count in zip(self._sizes, (*flushes.sizes, flushes.changes), strict=True):
            mirror.show(count)
        for mirror, amount in zip(self._waits, (*flushes.waits, flushes.wait_us / 1e6), strict=True):
            mirror.show(amount)
        meter.board.beat(meter.row.number, time.monotonic())


def _caches(services: Services) -> Iterator[Reading]:
    for layer, stats in services.caches().items():
        yield Reading("memfast_cache_hits", stats.hits, (layer,))
        yield Reading("memfast_cache_misses", stats.misses, (layer,))
        yield Reading("memfast_cache_evictions", stats.evictions, (layer,))
        yield Reading("memfast_cache_recalls", stats.recalls, (layer,))
        yield Reading("memfast_cache_expirations", stats.expirations, (layer,))
        yield Reading("memfast_cache_invalidations", stats.invalidations, (layer,))


def _redis(services: Services) -> Iterator[Reading]:
    if services.shared is not None:
        stats = services.shared.stats()
        yield Reading("memfast_cache_hits", stats.hits, ("redis",))
        yield Reading("memfast_cache_misses", stats.misses, ("redis",))
        yield Reading("memfast_redis_failures", stats.failures)
        yield Reading("memfast_redis_stored", stats.stored)
        yield Reading("memfast_redis_dropped", stats.dropped)


def _pools(services: Services) -> Iterator[Reading]:
    for name, pool in (("work", services.pool), ("control", services.control)):
        counts = pool.snapshot()
        yield Reading("memfast_pool_created_connections", counts.created, (name,))
        yield Reading("memfast_pool_refused", counts.refused, (name,))
    yield Reading("memfast_store_retries", services.pool.retried + services.control.retried)


def _breakers(services: Services) -> Iterator[Reading]:
    for breaker in services.breakers:
        counts = breaker.snapshot()
        yield Reading("memfast_breaker_opened", counts.opened, (breaker.name,))
        yield Reading("memfast_breaker_refused", counts.refused, (breaker.name,))


def _work(services: Services) -> Iterator[Reading]:
    yield Reading("memfast_warm_evictions", services.shards.stats().evictions)
    yield Reading("memfast_writes_refused", services.writer.snapshot().refused)
    background, pressure = services.background.snapshot(), services.pressure.counts
    for result, count in (("done", background.done), ("dead", background.dead), ("refused", background.refused)):
        yield Reading("memfast_background_tasks", count, (result,))
    yield Reading("memfast_background_retries", background.retried)
    yield Reading("memfast_memory_clean_ups", pressure.clean_ups, ("high",))
    yield Reading("memfast_memory_clean_ups", pressure.emergencies, ("critical",))


def _held(services: Services) -> Iterator[Reading]:
    for layer, stats in services.caches().items():
        yield Reading("memfast_cache_entries", stats.entries, (layer,))
        yield Reading("memfast_cache_bytes", stats.bytes, (layer,))
        yield Reading("memfast_cache_limit_entries", stats.entry_limit, (layer,))
        yield Reading("memfast_cache_limit_bytes", stats.capacity_bytes, (layer,))
    for layer, ages in services.ages().items():
        yield Reading("memfast_cache_age_seconds", ages.total_s, (layer,))
        yield Reading("memfast_cache_oldest_seconds", ages.oldest_s, (layer,))
    shards = services.shards.stats()
    yield Reading("memfast_warm_age_seconds", shards.age_s)
    yield Reading("memfast_warm_oldest_seconds", shards.oldest_s)
    yield Reading("memfast_warm_users", shards.shards)
    yield Reading("memfast_warm_memories", shards.rows)
    yield Reading("memfast_warm_bytes", shards.bytes)
    yield Reading("memfast_warm_limit_bytes", services.shards.capacity_bytes)
    yield Reading("memfast_warm_largest_memories", shards.largest)
    yield Reading("memfast_warm_graph_users", shards.graphs)
    for work, count in services.warm.pending().items():
        yield Reading("memfast_warm_pending", count, (work,))


def _connections(services: Services) -> Iterator[Reading]:
    for name, pool in (("work", services.pool), ("control", services.control)):
        now = pool.snapshot()
        yield Reading("memfast_pool_connections", now.idle, (name, "idle"))
        yield Reading("memfast_pool_connections", now.size - now.idle, (name, "used"))
        yield Reading("memfast_pool_limit_connections", now.limit, (name,))
        yield Reading("memfast_pool_waiting", now.waiting, (name,))


def _states(services: Services) -> Iterator[Reading]:
    for breaker in services.breakers:
        for state in BREAKER_STATES:
            yield Reading("memfast_breaker_state", float(breaker.state == state), (breaker.name, state))
    standing = services.modes.standing()
    for mode in MODES:
        yield Reading("memfast_mode", float(standing.mode == mode), (mode,))
    yield Reading("memfast_copies_unconfirmed_seconds", services.coherence.stale_for_s())


def _queues(services: Services) -> Iterator[Reading]:
    groups, background = services.writer.snapshot(), services.background.snapshot()
    yield Reading("memfast_write_queue_changes", groups.waiting_interactive, ("interactive",))
    yield Reading("memfast_write_queue_changes", groups.waiting_background, ("background",))
    yield Reading("memfast_flushes_under_way", groups.under_way)
    yield Reading("memfast_background_queue_tasks", background.queued)
    yield Reading("memfast_background_running_tasks", background.running)


def _process(services: Services) -> Iterator[Reading]:
    yield Reading("memfast_worker_resident_memory_bytes", resident_bytes())
    yield Reading("memfast_worker_memory_budget_bytes", services.pressure.budget_bytes)
    yield Reading("memfast_worker_open_fds", open_files())


def _outbox(services: Services) -> Iterator[Reading]:
    if services.relay is not None:
        stats = services.relay.stats()
        yield Reading("memfast_outbox_applied_steps", stats.applied)
        yield Reading("memfast_outbox_loaded_users", stats.loaded)
        yield Reading("memfast_outbox_retries", stats.retried)


def _backlog(services: Services) -> Iterator[Reading]:
    if services.relay is not None:
        stats = services.relay.stats()
        yield Reading("memfast_outbox_steps", stats.pending)
        yield Reading("memfast_outbox_lag_seconds", stats.oldest_s)


def _disk(services: Services) -> Iterator[Reading]:
    try:
        facts = os.statvfs(services.data_dir)
    except OSError:  # nobody knows then, and the disk is as it was
        return
    yield Reading("memfast_data_disk_bytes", facts.f_blocks * facts.f_frsize)
    yield Reading("memfast_data_disk_free_bytes", facts.f_bavail * facts.f_frsize)


def _processor(_services: Services) -> Iterator[Reading]:
    spent = os.times()
    yield Reading("memfast_worker_cpu_seconds", spent.user, ("user",))
    yield Reading("memfast_worker_cpu_seconds", spent.system, ("system",))


_Read = Callable[[Services], Iterator[Reading]]
_COUNTERS: tuple[_Read, ...] = (_caches, _redis, _pools, _breakers, _work, _outbox, _processor)
_GAUGES: tuple[_Read, ...] = (_held, _connections, _states, _queues, _backlog, _process, _disk)
