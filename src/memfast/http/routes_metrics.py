"""What the service counts of itself, of all workers together."""

from __future__ import annotations

import asyncio
import platform
import time

from memfast import __version__, kernels
from memfast.bootstrap import Services
from memfast.http.exchange import Exchange, Reply
from memfast.http.routing import Route, Success
from memfast.metrics.exposition import OPENMETRICS, PLAIN, BoardCollector, render
from memfast.metrics.uses import StatsAnswer, service_stats
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
    meter = services.meter
    return exchange.reply(service_stats(meter.board, meter.layout, time.monotonic(), services.warm.flat_limit))


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
