"""What stands on the wire of the statistics."""

from __future__ import annotations

from msgspec import Struct

from memfast.metrics.statistics import LayerUse, WindowStats

__all__ = ["PoolUse", "ProcessUse", "StatsAnswer"]


class PoolUse(Struct, kw_only=True):
    """Connections to PostgreSQL of all workers; `utilisation` is the share of `limit` that is in use, 0..1."""

    limit: int
    used: int
    idle: int
    waiting: int
    utilisation: float


class ProcessUse(Struct, kw_only=True):
    """The workers' processes: memory that is theirs alone, what of it copies take, and what they have open."""

    workers: int
    resident_bytes: int
    open_files: int
    warm_users: int
    warm_bytes: int
    cache_bytes: int


class StatsAnswer(Struct, kw_only=True):
    """All workers of this service, whichever answers: now, over the last 1, 5 and 60 minutes, and since the start."""

    process: ProcessUse
    pool: PoolUse
    caches: list[LayerUse]
    windows: list[WindowStats]
    total: WindowStats
