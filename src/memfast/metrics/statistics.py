"""What the counts of the last minutes say, for those who have no Prometheus."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from memfast.metrics.board import Board
from memfast.metrics.families import ANSWER_TIERS, LAYERS, REQUESTS, SLOW
from memfast.metrics.meter import Layout
from memfast.metrics.tracing import Work

__all__ = [
    "WAITED_MS",
    "WINDOWS_MIN",
    "CacheCounts",
    "OperationStats",
    "PoolCounts",
    "StageStats",
    "WarmCounts",
    "WindowStats",
    "quantile",
    "window_stats",
]

WINDOWS_MIN = (1, 5, 60)
"""The windows that are told, in minutes."""

WAITED_MS = 5.0
"""Wait for a connection from which on somebody waited, in milliseconds: to take a free one needs microseconds."""

_CELLS = NDArray[np.float64]


class OperationStats(Struct, frozen=True, kw_only=True):
    """The requests of one route. Times are in milliseconds, percentiles between the bounds of the histogram.

    `tiers` counts what copies and the database answered, where there are tiers; `refused` had a status of 4xx, `failed`
    one of 5xx; `error_rate` is the share of the latter. `slow` were logged as slow; `slow_stages` counts them by the
    stage that took longest, `none` where no stage was measured.
    """

    method: str
    route: str
    requests: int
    per_second: float
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int
    failed: int
    error_rate: float
    slow: int
    slow_stages: dict[str, int]
    tiers: dict[str, int]


class StageStats(Struct, frozen=True, kw_only=True):
    """A stage of all searches or all writes that had it: how many, and the time that each spent there."""

    work: str
    stage: str
    times: int
    mean_ms: float
    p95_ms: float


class CacheCounts(Struct, frozen=True, kw_only=True):
    """What happened in a cache: entries left for want of room (`evictions`), by age, or because of a write.

    `recalls` came back soon after an eviction: a cache of twice the size would have held them.
    """

    hits: int
    misses: int
    evictions: int
    recalls: int
    expirations: int
    invalidations: int


class PoolCounts(Struct, frozen=True, kw_only=True):
    """Uses of connections to PostgreSQL for work: `waited` are those that waited for `WAITED_MS` or more.

    `busy_most` connections were in use at once in a worker, at most: the next bound of the histogram above it.
    """

    taken: int
    refused: int
    waited: int
    wait_p95_ms: float
    busy_most: int


class WarmCounts(Struct, frozen=True, kw_only=True):
    """Users who were loaded into memory, or not, and those who left for want of room.

    `clean_ups` and `emergencies` are times that copies of any kind left because memory.budget_mb was near.
    """

    loads_held: int
    loads_refused: int
    loads_failed: int
    evictions: int
    clean_ups: int
    emergencies: int


class WindowStats(Struct, frozen=True, kw_only=True):
    """The last minutes, as far as they were seen: `seconds` are those that the counts are of. 0 = since the start.

    `hit_rates` are by layer of the caches, of those that were asked; `cpu_cores` are processors that the workers kept
    busy; `slow` operations were logged.
    """

    minutes: int
    seconds: float
    requests: int
    per_second: float
    error_rate: float
    slow: int
    operations: list[OperationStats]
    stages: list[StageStats]
    hit_rates: dict[str, float]
    caches: dict[str, CacheCounts]
    pool: PoolCounts
    warm: WarmCounts
    cpu_cores: float


def window_stats(board: Board, layout: Layout, now_s: float, minutes: int) -> WindowStats:
    """What happened in the last minutes in all workers.

    Args:
        board: their cells.
        layout: where they are.
        now_s: the clock of `Board.beat`.
        minutes: the length of the window, up to 60; 0 = since the start.
    """
    added, seconds = board.since(now_s, minutes * 60.0) if minutes else board.since_start(now_s)
    seconds = max(seconds, 1e-3)
    operations = _operations(layout, added, seconds)
    requests, failed = (sum(getattr(each, name) for each in operations) for name in ("requests", "failed"))

    def count(name: str, *labels: str) -> float:
        return float(added[layout.place(name, labels)[1]])

    return WindowStats(
        minutes=minutes,
        seconds=round(seconds, 3),
        requests=requests,
        per_second=round(requests / seconds, 3),
        error_rate=_share(failed, requests),
        slow=sum(each.slow for each in operations),
        operations=operations,
        stages=_stages(layout, added),
        hit_rates=_hit_rates(count),
        caches={layer: _cache(count, layer) for layer in LAYERS[:5]},
        pool=_pool(layout, added, int(count("memfast_pool_refused", "work"))),
        warm=_warm(count),
        cpu_cores=round(sum(count("memfast_worker_cpu_seconds", mode) for mode in ("user", "system")) / seconds, 3),
    )


def quantile(bounds: Sequence[float], counts: Sequence[float], share: float) -> float:
    """A quantile of what a histogram counted, linear between the bounds; above the last one it is that bound.

    Args:
        bounds: ascending.
        counts: of each bound, not cumulated, and of what is above all.
        share: 0..1, e.g. 0.95.
    """
    wanted = share * sum(counts)
    below = 0.0
    for position, bound in enumerate(bounds):
        if counts[position] and below + counts[position] >= wanted:
            lower = bounds[position - 1] if position else 0.0
            return lower + (bound - lower) * (wanted - below) / counts[position]
        below += counts[position]
    return bounds[-1] if below < wanted else 0.0


def _operations(layout: Layout, added: _CELLS, seconds: float) -> list[OperationStats]:
    """Those that were asked, the most frequent first."""
    family = layout.families[REQUESTS]
    routes: dict[tuple[str, str], dict[tuple[str, str], _CELLS]] = {}
    for (method, route, tier, status), place in layout.places(REQUESTS).items():
        cells = added[place : place + family.cells]
        if cells[:-1].sum():
            routes.setdefault((method, route), {})[tier, status] = cells
    slow: dict[tuple[str, str], dict[str, int]] = {}
    for (method, route, stage), place in layout.places(SLOW).items():
        if added[place]:
            slow.setdefault((method, route), {})[stage] = int(added[place])
    found = [
        _operation(*names, series, family.bounds, seconds, slow.get(names, {})) for names, series in routes.items()
    ]
    return sorted(found, key=lambda each: -each.requests)


def _operation(
    method: str,
    route: str,
    series: dict[tuple[str, str], _CELLS],
    bounds: Sequence[float],
    seconds: float,
    slow: dict[str, int],
) -> OperationStats:
    *counts, total_s = np.sum(list(series.values()), axis=0).tolist()
    numbers = {labels: int(cells[:-1].sum()) for labels, cells in series.items()}
    requests, failed = sum(numbers.values()), numbers.get(("none", "5xx"), 0)
    p50, p95, p99 = (round(quantile(bounds, counts, share) * 1000, 3) for share in (0.5, 0.95, 0.99))
    return OperationStats(
        method=method,
        route=route,
        requests=requests,
        per_second=round(requests / seconds, 3),
        mean_ms=round(total_s / requests * 1000, 3),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        refused=numbers.get(("none", "4xx"), 0),
        failed=failed,
        error_rate=_share(failed, requests),
        slow=sum(slow.values()),
        slow_stages=dict(sorted(slow.items(), key=lambda each: -each[1])),
        tiers={tier: numbers[tier, "2xx"] for tier in ANSWER_TIERS if (tier, "2xx") in numbers},
    )


def _stages(layout: Layout, added: _CELLS) -> list[StageStats]:
    """Those that were measured, in the order of `metrics.tracing`."""
    found = []
    for work in (Work.SEARCH, Work.WRITE):
        family = layout.families[f"memfast_{work}_stage_duration_seconds"]
        for (stage,), place in layout.places(family.name).items():
            *counts, total_s = added[place : place + family.cells].tolist()
            times = int(sum(counts))
            if times:
                mean_ms, p95_ms = total_s / times * 1000, quantile(family.bounds, counts, 0.95) * 1000
                found.append(
                    StageStats(work=work, stage=stage, times=times, mean_ms=round(mean_ms, 3), p95_ms=round(p95_ms, 3))
                )
    return found


def _cache(count: Callable[..., float], layer: str) -> CacheCounts:
    names = CacheCounts.__struct_fields__
    return CacheCounts(**{name: int(count(f"memfast_cache_{name}", layer)) for name in names})


def _pool(layout: Layout, added: _CELLS, refused: int) -> PoolCounts:
    waits, busy = (
        _histogram(layout, added, f"memfast_pool_{name}", "work")
        for name in ("acquire_duration_seconds", "busy_connections")
    )
    in_time = sum(number for bound, number in zip(*waits, strict=False) if bound <= WAITED_MS / 1000)
    most = max((place for place, number in enumerate(busy[1]) if number), default=None)
    bounds = (*busy[0], math.inf)
    return PoolCounts(
        taken=int(sum(waits[1])),
        refused=refused,
        waited=int(sum(waits[1]) - in_time),
        wait_p95_ms=round(quantile(*waits, 0.95) * 1000, 3),
        busy_most=0 if most is None else int(min(bounds[most], 2 * busy[0][-1])),
    )


def _warm(count: Callable[..., float]) -> WarmCounts:
    held, refused, failed = (int(count("memfast_warm_loads", name)) for name in ("held", "refused", "failed"))
    return WarmCounts(
        loads_held=held,
        loads_refused=refused,
        loads_failed=failed,
        evictions=int(count("memfast_warm_evictions")),
        clean_ups=int(count("memfast_memory_clean_ups", "high")),
        emergencies=int(count("memfast_memory_clean_ups", "critical")),
    )


def _histogram(layout: Layout, added: _CELLS, name: str, *labels: str) -> tuple[tuple[float, ...], list[float]]:
    """Bounds of a histogram, and what was counted up to each and above all."""
    family, place = layout.place(name, labels)
    return family.bounds, added[place : place + family.cells - 1].tolist()


def _hit_rates(count: Callable[..., float]) -> dict[str, float]:
    rates = {}
    for layer in LAYERS:
        hits, misses = count("memfast_cache_hits", layer), count("memfast_cache_misses", layer)
        if hits + misses:
            rates[layer] = _share(hits, hits + misses)
    return rates


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0
