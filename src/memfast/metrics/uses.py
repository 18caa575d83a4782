"""What the workers use now, and everything that is told of them at once."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from memfast.metrics.board import Board
from memfast.metrics.meter import Layout
from memfast.metrics.statistics import WINDOWS_MIN, OperationStats, WindowStats, window_stats

__all__ = [
    "LayerUse",
    "OperationStats",
    "PoolUse",
    "ProcessUse",
    "StatsAnswer",
    "WarmUse",
    "WindowStats",
    "layers_in_use",
    "service_stats",
]

_CELLS = NDArray[np.float64]


class LayerUse(Struct, frozen=True, kw_only=True):
    """What a layer of copies holds in all workers, what it may hold, and for how long it has held it.

    `warm` is users in memory, whose number has no bound: 0.
    """

    layer: str
    entries: int
    bytes: int
    limit_entries: int
    limit_bytes: int
    mean_age_s: float
    oldest_age_s: float


class WarmUse(Struct, frozen=True, kw_only=True):
    """Users in memory: their memories, those of the largest of them, and how many have a graph.

    A user of more memories than `flat_limit` is to have one.
    """

    memories: int
    largest_memories: int
    graph_users: int
    flat_limit: int


class PoolUse(Struct, frozen=True, kw_only=True):
    """Connections to PostgreSQL of all workers; `utilisation` is the share of `limit` that is in use, 0..1."""

    limit: int
    used: int
    idle: int
    waiting: int
    utilisation: float


class ProcessUse(Struct, frozen=True, kw_only=True):
    """The workers' processes: memory of theirs alone, its budget, what of it copies take, and what they have open."""

    workers: int
    resident_bytes: int
    budget_bytes: int
    open_files: int
    warm_users: int
    warm_bytes: int
    cache_bytes: int


class StatsAnswer(Struct, frozen=True, kw_only=True):
    """All workers of this service, whichever answers: now, over the last 1, 5 and 60 minutes, and since the start."""

    process: ProcessUse
    pool: PoolUse
    caches: list[LayerUse]
    warm: WarmUse
    windows: list[WindowStats]
    total: WindowStats


def service_stats(board: Board, layout: Layout, now_s: float, flat_limit: int) -> StatsAnswer:
    """Everything that is told of a service.

    Args:
        board: the cells of its workers.
        layout: where they are.
        now_s: the clock of `Board.beat`.
        flat_limit: `index.flat_limit`.
    """
    living = board.rows[board.alive(now_s)].copy()
    layers = layers_in_use(living, layout)
    warm = layers[0]
    return StatsAnswer(
        process=ProcessUse(
            workers=len(living),
            resident_bytes=_sum(living, layout, "memfast_worker_resident_memory_bytes"),
            budget_bytes=_sum(living, layout, "memfast_worker_memory_budget_bytes"),
            open_files=_sum(living, layout, "memfast_worker_open_fds"),
            warm_users=warm.entries,
            warm_bytes=warm.bytes,
            cache_bytes=sum(layer.bytes for layer in layers[1:]),
        ),
        pool=_pool(living, layout),
        caches=layers,
        warm=WarmUse(
            memories=_sum(living, layout, "memfast_warm_memories"),
            largest_memories=int(living[:, layout.place("memfast_warm_largest_memories", ())[1]].max(initial=0.0)),
            graph_users=_sum(living, layout, "memfast_warm_graph_users"),
            flat_limit=flat_limit,
        ),
        windows=[window_stats(board, layout, now_s, minutes) for minutes in WINDOWS_MIN],
        total=window_stats(board, layout, now_s, 0),
    )


def layers_in_use(living: _CELLS, layout: Layout) -> list[LayerUse]:
    """Every layer of copies that workers hold themselves, `warm` first; what is in Redis is not theirs.

    Args:
        living: the rows of the workers that live, float64 (workers, `CELLS`).
        layout: where their cells are.
    """
    found = []
    for layer in ("warm", *(labels[0] for labels in layout.places("memfast_cache_entries"))):
        kind, own, held = ("warm", (), "users") if layer == "warm" else ("cache", (layer,), "entries")
        entries, size, limit, age_s, oldest_s = (
            living[:, layout.place(f"memfast_{kind}_{name}", own)[1]]
            for name in (held, "bytes", "limit_bytes", "age_seconds", "oldest_seconds")
        )
        found.append(
            LayerUse(
                layer=layer,
                entries=int(entries.sum()),
                bytes=int(size.sum()),
                limit_entries=0 if layer == "warm" else _sum(living, layout, "memfast_cache_limit_entries", layer),
                limit_bytes=int(limit.sum()),
                mean_age_s=round(float(age_s.sum() / max(1.0, entries.sum())), 3),
                oldest_age_s=round(float(oldest_s.max(initial=0.0)), 3),
            )
        )
    return found


def _pool(living: _CELLS, layout: Layout) -> PoolUse:
    limit = _sum(living, layout, "memfast_pool_limit_connections", "work")
    used, idle = (_sum(living, layout, "memfast_pool_connections", "work", state) for state in ("used", "idle"))
    waiting = _sum(living, layout, "memfast_pool_waiting", "work")
    return PoolUse(limit=limit, used=used, idle=idle, waiting=waiting, utilisation=round(used / max(1, limit), 4))


def _sum(living: _CELLS, layout: Layout, name: str, *labels: str) -> int:
    return int(living[:, layout.place(name, labels)[1]].sum())
