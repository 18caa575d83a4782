"""Health, caches and background work."""

from __future__ import annotations

import asyncio
import os

from memfast import __version__, kernels
from memfast.bootstrap import Services
from memfast.http.codec import BodyDecoder
from memfast.http.exchange import Exchange, Reply
from memfast.http.routing import Route, Success
from memfast.http.wire import (
    BackgroundAnswer,
    CacheAnswer,
    CacheLayer,
    Cleared,
    EmbedderHealth,
    HealthAnswer,
    InvalidateRequest,
    Live,
    PressureCounters,
    Ready,
    WarmAnswer,
    WarmLayer,
    WarmProgress,
    WarmRequest,
)
from memfast.kernels import CacheAges, CacheStats

__all__ = ["ROUTES"]

_invalidate_body = BodyDecoder(InvalidateRequest)
_warm_body = BodyDecoder(WarmRequest)


async def live(exchange: Exchange, _services: Services) -> Reply:
    """The process answers."""
    return exchange.reply(Live("live"))


async def ready(exchange: Exchange, services: Services) -> Reply:
    """Whether a write could be committed now."""
    report = await services.health.report()
    progress = services.warmup.progress
    warming = WarmProgress(users=progress.scopes, users_total=progress.scopes_total, done=progress.done)
    return exchange.reply(
        Ready(report.status, report.problem, warming), status=200 if report.status == "ready" else 503
    )


async def health(exchange: Exchange, services: Services) -> Reply:
    """Every dependency."""
    report = await services.health.report()
    standing = services.modes.standing()
    breakers = [breaker.snapshot() for breaker in services.breakers]
    answer = HealthAnswer(
        status=report.status,
        version=__version__,
        pid=os.getpid(),
        native=kernels.IMPL,
        mode=standing.mode,
        mode_reason=standing.reason,
        degraded=[breaker.name for breaker in breakers if breaker.state != "closed"],
        lineage=services.access.facts.lineage,
        store=report.store,
        pool=services.pool.snapshot(),
        breakers=breakers,
        embedder=EmbedderHealth(report.embedder, report.dimensions),
        graph=None if services.relay is None else services.relay.stats(),
        detail=report.problem,
    )
    return exchange.reply(answer, status=200 if report.status == "ready" else 503)


async def show_cache(exchange: Exchange, services: Services) -> Reply:
    """What the layers of the answering worker hold and did."""
    exchange.principal.require_admin()
    ages = services.ages()
    layers = {name: _layer(stats, ages[name]) for name, stats in services.caches().items()}
    shards = services.shards.stats()
    warm = WarmLayer(
        users=shards.shards,
        memories=shards.rows,
        bytes=shards.bytes,
        mean_age_s=round(shards.age_s / max(1, shards.shards), 3),
        oldest_age_s=round(shards.oldest_s, 3),
        evictions=shards.evictions,
    )
    counts = services.pressure.counts
    return exchange.reply(
        CacheAnswer(
            pid=os.getpid(),
            layers=layers,
            warm=warm,
            shared=None if services.shared is None else services.shared.stats(),
            pressure=PressureCounters(
                clean_ups=counts.clean_ups, emergencies=counts.emergencies, resident_bytes=counts.resident_bytes
            ),
        )
    )


async def show_background(exchange: Exchange, services: Services) -> Reply:
    """The queue of the answering worker, and what failed."""
    exchange.principal.require_admin()
    return exchange.reply(
        BackgroundAnswer(
            pid=os.getpid(),
            tasks=len(asyncio.all_tasks()),
            background=services.background.snapshot(),
            links=services.associations.snapshot(),
        )
    )


async def clear_cache(exchange: Exchange, services: Services) -> Reply:
    """Drop every copy in every worker, on every host, and in Redis."""
    exchange.principal.require_admin()
    await services.coherence.begin_era()
    return exchange.reply(Cleared(cleared="everything"))


async def invalidate_cache(exchange: Exchange, services: Services) -> Reply:
    """Drop the copies of one user, or of a whole namespace, in every worker, on every host, and in Redis."""
    exchange.principal.require_admin()
    request = exchange.read(_invalidate_body)
    if request.user_id is None:
        await services.coherence.begin_era()  # slots know scopes, not namespaces: dropping more is always right
        return exchange.reply(Cleared(cleared="namespace"))
    scope = exchange.scope(services.limits.user_id(request.user_id, "$.user_id"))
    await services.coherence.raise_version(scope.id)
    return exchange.reply(Cleared(cleared="user" if request.memory_id is None else "memory"))


async def warm(exchange: Exchange, services: Services) -> Reply:
    """Load users into the memory of the answering worker and ask their frequent questions again."""
    exchange.principal.require_admin()
    request = exchange.read(_warm_body)
    if request.users is None:
        progress = await services.warmup.hottest(request.limit, request.queries)
    else:
        users = [services.limits.user_id(user, "$.users") for user in request.users]
        progress = await services.warmup.named(exchange.principal.namespace, users, request.queries)
    answer = WarmAnswer(
        pid=os.getpid(),
        users=progress.scopes,
        memories=progress.memories,
        complete=progress.scopes == progress.scopes_total,
    )
    return exchange.reply(answer)


def _layer(stats: CacheStats, ages: CacheAges) -> CacheLayer:
    asked = stats.hits + stats.misses
    return CacheLayer(
        entries=stats.entries,
        bytes=stats.bytes,
        mean_age_s=round(ages.total_s / max(1, stats.entries), 3),
        oldest_age_s=round(ages.oldest_s, 3),
        hits=stats.hits,
        misses=stats.misses,
        hit_rate=round(stats.hits / asked, 4) if asked else 0.0,
        evictions=stats.evictions,
        expirations=stats.expirations,
        invalidations=stats.invalidations,
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/cache",
        endpoint=show_cache,
        summary="What the caches of the answering worker hold",
        group="cache",
        answers={200: Success(CacheAnswer, "counters by layer")},
    ),
    Route(
        method="GET",
        path="/v1/background",
        endpoint=show_background,
        summary="Work that no request waits for, and what of it failed",
        group="background",
        answers={200: Success(BackgroundAnswer, "the queue of the worker that answers")},
    ),
    Route(
        method="POST",
        path="/v1/warm",
        endpoint=warm,
        summary="Load users into the memory of the answering worker",
        group="cache",
        body=WarmRequest,
        answers={200: Success(WarmAnswer, "what is warm now; not complete where memory is full")},
    ),
    Route(
        method="POST",
        path="/v1/cache/clear",
        endpoint=clear_cache,
        summary="Drop every copy, in every worker, on every host, and in Redis",
        group="cache",
        answers={200: Success(Cleared, "dropped")},
    ),
    Route(
        method="POST",
        path="/v1/cache/invalidate",
        endpoint=invalidate_cache,
        summary="Drop the copies of a memory, a user or the namespace, wherever they are",
        group="cache",
        body=InvalidateRequest,
        answers={200: Success(Cleared, "dropped")},
    ),
    Route(
        method="GET",
        path="/v1/health/live",
        endpoint=live,
        summary="Whether the process answers",
        group="health",
        answers={200: Success(Live, "it does")},
        public=True,
    ),
    Route(
        method="GET",
        path="/v1/health/ready",
        endpoint=ready,
        summary="Whether a write could be committed now",
        group="health",
        answers={200: Success(Ready, "ready"), 503: Success(Ready, "not ready")},
        public=True,
    ),
    Route(
        method="GET",
        path="/v1/health",
        endpoint=health,
        summary="Every dependency",
        group="health",
        answers={200: Success(HealthAnswer, "ready"), 503: Success(HealthAnswer, "not ready")},
        public=True,
    ),
)
