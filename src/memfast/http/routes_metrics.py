"""What the service counts of itself, of all workers together."""

from __future__ import annotations

import asyncio
import platform
import time

from memfast import __version__, kernels
from memfast.bootstrap import Services
from memfast.http.exchange import Exchange, Reply
from memfast.http.routing import Route, Success
from memfast.http.wire_stats import PoolUse, ProcessUse, StatsAnswer
from memfast.metrics.exposition import OPENMETRICS, PLAIN, BoardCollector, render
from memfast.metrics.statistics import WINDOWS_MIN, layers_in_use, window_stats
from memfast.service.access import NOBODY

__all__ = ["PATH", "ROUTES"]

PATH = "/metrics"


async def metrics(exchange: Exchange, services: Services) -> Reply:
    """Every metric, as Prometheus reads them. A thread writes the text: that takes milliseconds."""
    if exchange.principal is not NOBODY:  # who is asked for a key must have the right one
        exchange.principal.require_admin()
    about = {"version": __version__, "kernels": kernels.IMPL, "python": platform.python_version()}
    collector = BoardCollector(services.meter.board, services.meter.layout, time.monotonic, about)
    accept = exchange.headers.get(b"accept", b"").decode("latin-1")
    text, content_type = await asyncio.to_thread(render, collector, accept)
    return exchange.text(text, content_type.encode())


async def stats(exchange: Exchange, services: Services) -> Reply:
    """Times, throughput, errors and hit rates of the last minutes, and what the workers use now."""
    exchange.principal.require_admin()
    board, layout, now_s = services.meter.board, services.meter.layout, time.monotonic()
    living = board.rows[board.alive(now_s)].copy()
    now = living.sum(axis=0)

    def gauge(name: str, *labels: str) -> int:
        return int(now[layout.place(name, labels)[1]])

    limit, used = gauge("memfast_pool_limit_connections", "work"), gauge("memfast_pool_connections", "work", "used")
    pool = PoolUse(
        limit=limit,
        used=used,
        idle=gauge("memfast_pool_connections", "work", "idle"),
        waiting=gauge("memfast_pool_waiting", "work"),
        utilisation=round(used / max(1, limit), 4),
    )
    process = ProcessUse(
        workers=len(living),
        resident_bytes=gauge("memfast_worker_resident_memory_bytes"),
        open_files=gauge("memfast_worker_open_fds"),
        warm_users=gauge("memfast_warm_users"),
        warm_bytes=gauge("memfast_warm_bytes"),
        cache_bytes=sum(
            gauge("memfast_cache_bytes", *labels) for labels in layout.families["memfast_cache_bytes"].series
        ),
    )
    windows = [window_stats(board, layout, now_s, minutes) for minutes in WINDOWS_MIN]
    total = window_stats(board, layout, now_s, 0)
    caches = layers_in_use(living, layout)
    return exchange.reply(StatsAnswer(process=process, pool=pool, caches=caches, windows=windows, total=total))


ROUTES = (
    Route(
        method="GET",
        path="/v1/stats",
        endpoint=stats,
        summary="Times, throughput and hit rates of the last minutes, of all workers",
        group="metrics",
        answers={200: Success(StatsAnswer, "the last 1, 5 and 60 minutes, and now")},
    ),
    Route(
        method="GET",
        path=PATH,
        endpoint=metrics,
        summary="Every metric of all workers, for Prometheus",
        group="metrics",
        answers={
            200: Success(str, "text of Prometheus, or OpenMetrics for who accepts it", media_types=(PLAIN, OPENMETRICS))
        },
    ),
)
