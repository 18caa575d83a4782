"""Connections of a worker to its database, and the breaker before all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from memfast.bootstrap.ground import CONTROL, Ground
from memfast.config import Config
from memfast.metrics import Meter
from memfast.ports import Clock
from memfast.resilience.breaker import Breaker, log_transition
from memfast.store.counts import PoolMeters
from memfast.store.pool import Pool, PoolPolicy, PoolSize
from memfast.store.room import Room

__all__ = ["Pools", "open_pool", "open_pools"]

WATCH_S = 30.0
"""Time between looks at idle connections, in seconds."""


class Pools(Struct, frozen=True):
    """Connections for work and for checks, behind one breaker."""

    work: Pool
    control: Pool
    breaker: Breaker


@asynccontextmanager
async def open_pools(site: Ground, clock: Clock, meter: Meter) -> AsyncIterator[Pools]:
    """Open a worker's pools and watch over them.

    Raises:
        DatabaseRefused: the database cannot be reached.
    """
    resilience = site.config.resilience
    breaker = Breaker(
        "postgresql",
        clock,
        failures=resilience.postgres_failures,
        hold_s=resilience.postgres_hold_s,
        probes=resilience.postgres_probes,
    )
    breaker.listen(log_transition)
    async with AsyncExitStack() as stack:
        room = _room(site.config)
        work = await open_pool(site.config, site.address, site.pool, breaker, room, _meters(meter, "work"))
        stack.push_async_callback(work.close, 5.0)
        control = await open_pool(site.config, site.address, CONTROL, breaker, room, _meters(meter, "control"))
        stack.push_async_callback(control.close, 5.0)
        stack.callback(asyncio.create_task(work.watch(WATCH_S)).cancel)
        if room is not None:
            await room.look()
            stack.callback(asyncio.create_task(room.watch()).cancel)
        yield Pools(work, control, breaker)


def _meters(meter: Meter, pool: str) -> PoolMeters:
    names = ("memfast_pool_acquire_duration_seconds", "memfast_pool_busy_connections")
    return PoolMeters(*(meter.histogram(name, pool) for name in names))


def _room(config: Config) -> Room | None:
    """The room for writes where the database lies on a disk of ours; of an external server's disk nothing is known."""
    if config.postgres.dsn:
        return None
    folder = Path(config.data_dir) / "postgres"
    return Room((folder, folder / "pg_wal"), config.postgres.disk_reserve_mb * 1024 * 1024)


async def open_pool(
    config: Config,
    address: dict[str, Any],
    size: PoolSize,
    breaker: Breaker | None = None,
    room: Room | None = None,
    meters: PoolMeters | None = None,
) -> Pool:
    """A pool of connections as it is configured; see `store.pool.Pool.open`."""
    resilience = config.resilience
    return await Pool.open(
        address,
        size,
        acquire_timeout_s=config.postgres.acquire_timeout_s,
        connect_timeout_s=config.postgres.connect_timeout_s,
        command_timeout_s=config.postgres.command_timeout_s,
        idle_lifetime_s=config.postgres.idle_lifetime_s,
        breaker=breaker,
        room=room,
        meters=meters,
        policy=PoolPolicy(
            waiting_max=resilience.waiting_max,
            slow_read_s=resilience.slow_read_s,
            slow_write_s=resilience.slow_write_s,
        ),
    )
