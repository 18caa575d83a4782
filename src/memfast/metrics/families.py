"""Every metric as data: its name, what it means, its labels with all the values they can have.

Names end in their unit. A label's values are a short list that is known before the first request, so the number of
series does not depend on who uses the service, or how.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

from msgspec import Struct

from memfast.metrics.tracing import STAGES, WRITE_STAGES

__all__ = [
    "ANSWER_TIERS",
    "BATCH_BOUNDS",
    "BREAKERS",
    "BREAKER_STATES",
    "FAMILIES",
    "LAYERS",
    "LEGS",
    "MODES",
    "OTHER",
    "POOLS",
    "REQUESTS",
    "SECONDS",
    "SLOW",
    "STAGE_SECONDS",
    "WRITE_RESULTS",
    "Family",
    "Operation",
    "operation_families",
]

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for what a caller waits for, in seconds."""

STAGE_SECONDS = (0.00001, 0.000025, 0.00005, *SECONDS[:13])
"""Bounds for parts of that, in seconds."""

BATCH_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)
"""Bounds for numbers of things that are done together."""

BUSY_BOUNDS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 100.0)
"""Bounds for numbers of connections."""

LAYERS = ("search", "list", "get", "requests", "embeddings", "redis")
"""Caches: finished answers by kind, requests that were recognised, vectors of texts, and Redis."""

POOLS = ("work", "control")
BREAKERS = ("postgresql", "redis", "embedder", "neo4j")
BREAKER_STATES = ("closed", "half_open", "open", "isolated")
LEGS = ("vector", "lexical", "graph")
PRIORITIES = ("interactive", "background")
MODES = ("full", "reduced", "cache_only", "essential")
ANSWER_TIERS = ("hot", "warm", "redis", "cold")
WRITE_RESULTS = ("created", "updated", "duplicate", "deleted", "refused", "replayed", "forgotten", "failed", "unknown")
"""`refused` = the change could not be made, `replayed` = its request was answered before, `failed` = nothing was
written for want of the store, `unknown` = maybe it was."""


class Operation(Struct, frozen=True):
    """A route, for the labels of its requests.

    Attributes:
        method: of HTTP, or `any`.
        route: its path, or what its paths begin with.
        tiered: whether it may be answered by a copy.
        stages: what its time can go to.
    """

    method: str
    route: str
    tiered: bool = False
    stages: tuple[str, ...] = ()


OTHER = Operation("other", "other")
"""What is asked of no route."""


class Family(Struct, frozen=True, kw_only=True):
    """One metric.

    Attributes:
        name: without the endings of counters and histograms (`_total`, `_bucket`).
        kind: what it is; of a counter the sum over the workers is told, dead ones included.
        text: what it means.
        labels: names of its labels.
        series: every combination of their values.
        bounds: of a histogram, ascending.
        over: how a gauge of the living workers becomes one number; `worker` = it does not, and has that label.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()
    series: tuple[tuple[str, ...], ...] = ((),)
    bounds: tuple[float, ...] = ()
    over: Literal["sum", "max", "worker"] = "sum"

    @property
    def cells(self) -> int:
        """Cells of one series."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1


REQUESTS = "memfast_request_duration_seconds"
SLOW = "memfast_slow_operations"


def operation_families(operations: Sequence[Operation]) -> tuple[Family, Family]:
    """What is counted of each route: `REQUESTS` and `SLOW`."""
    return _requests(operations), _slow(operations)


def _requests(operations: Sequence[Operation]) -> Family:
    """Time of requests. Only what is tiered has tiers, and only a success: an error is nobody's copy."""
    series: list[tuple[str, ...]] = []
    for each in (*operations, OTHER):
        tiers = (*ANSWER_TIERS, "none") if each.tiered else ("none",)
        series += [(each.method, each.route, tier, "2xx") for tier in tiers]
        series += [(each.method, each.route, "none", status) for status in ("4xx", "5xx")]
    return Family(
        name=REQUESTS,
        kind="histogram",
        text="Time of requests, from their headers until the answer was sent.",
        labels=("method", "route", "tier", "status"),
        series=tuple(series),
        bounds=SECONDS,
    )


def _slow(operations: Sequence[Operation]) -> Family:
    """Slow operations by the stage that took most of their time; `none` where no stage was measured."""
    served = (*operations, OTHER)
    return Family(
        name=SLOW,
        kind="counter",
        text="Operations that took longer than log.slow_ms or log.slow_search_ms, by the stage that took longest.",
        labels=("method", "route", "stage"),
        series=tuple((each.method, each.route, stage) for each in served for stage in (*each.stages, "none")),
    )


def _counter(name: str, text: str, **labels: Sequence[str]) -> Family:
    return Family(name=name, kind="counter", text=text, labels=tuple(labels), series=tuple(product(*labels.values())))


def _gauge(name: str, text: str, over: Literal["sum", "max", "worker"] = "sum", **labels: Sequence[str]) -> Family:
    series = tuple(product(*labels.values()))
    return Family(name=name, kind="gauge", text=text, labels=tuple(labels), series=series, over=over)


def _histogram(name: str, text: str, bounds: tuple[float, ...], **labels: Sequence[str]) -> Family:
    series = tuple(product(*labels.values()))
    return Family(name=name, kind="histogram", text=text, labels=tuple(labels), series=series, bounds=bounds)


FAMILIES: tuple[Family, ...] = (
    _histogram(
        "memfast_search_stage_duration_seconds",
        "Time that a search spent in a stage; searches answered by the bytes of a finished answer have none.",
        STAGE_SECONDS,
        stage=STAGES,
    ),
    _histogram(
        "memfast_write_stage_duration_seconds",
        "Time that a write spent in a stage.",
        STAGE_SECONDS,
        stage=WRITE_STAGES,
    ),
    _counter("memfast_requests_abandoned", "Requests whose client left before they were answered."),
    _counter("memfast_degraded_searches", "Searches that were answered without one of their legs.", leg=LEGS),
    _counter("memfast_cache_hits", "Look-ups that found something good.", layer=LAYERS),
    _counter("memfast_cache_misses", "Look-ups that found nothing good.", layer=LAYERS),
    _counter("memfast_cache_evictions", "Entries that left for want of room.", layer=LAYERS[:5]),
    _counter(
        "memfast_cache_recalls", "Entries that came back soon after they had left for want of room.", layer=LAYERS[:5]
    ),
    _counter("memfast_cache_expirations", "Entries that left because of their age.", layer=LAYERS[:5]),
    _counter("memfast_cache_invalidations", "Entries that left because their user was written to.", layer=LAYERS[:5]),
    _gauge("memfast_cache_entries", "Entries held.", layer=LAYERS[:5]),
    _gauge("memfast_cache_bytes", "Memory that entries take.", layer=LAYERS[:5]),
    _gauge(
        "memfast_cache_age_seconds",
        "Ages of the entries held, added: divided by memfast_cache_entries it is their mean age.",
        layer=LAYERS[:5],
    ),
    _gauge("memfast_cache_oldest_seconds", "Age of the oldest entry held.", "max", layer=LAYERS[:5]),
    _gauge("memfast_cache_limit_entries", "Entries at most.", layer=LAYERS[:5]),
    _gauge("memfast_cache_limit_bytes", "Memory that they may take.", layer=LAYERS[:5]),
    _counter("memfast_redis_failures", "Round trips to Redis that failed."),
    _counter("memfast_redis_stored", "Values that were given to Redis."),
    _counter("memfast_redis_dropped", "Values that were not given to Redis, because it was away or slow."),
    _gauge("memfast_warm_users", "Users whose memories are in memory."),
    _gauge("memfast_warm_memories", "Memories of theirs."),
    _gauge("memfast_warm_bytes", "Memory that they take."),
    _gauge(
        "memfast_warm_age_seconds",
        "Times for which users have been in memory, added: divided by memfast_warm_users it is their mean age.",
    ),
    _gauge("memfast_warm_oldest_seconds", "Time for which a user has been in memory, the longest.", "max"),
    _gauge("memfast_warm_limit_bytes", "Memory that they may take."),
    _gauge("memfast_warm_largest_memories", "Memories of the user in memory who has most.", "max"),
    _gauge("memfast_warm_graph_users", "Users in memory whose nearest memories a graph chooses."),
    _counter("memfast_warm_evictions", "Users that left memory for want of room."),
    _counter("memfast_warm_loads", "Users that were loaded into memory.", result=("held", "refused", "failed")),
    _counter("memfast_warm_deltas", "Users that were brought up to date by a delta query."),
    _counter("memfast_warm_rebuilds", "Users' memories that were packed anew, or put into a graph."),
    _gauge("memfast_warm_pending", "Loads, deltas and rebuilds that are under way.", work=("load", "delta", "rebuild")),
    _gauge("memfast_copies_unconfirmed_seconds", "Time for which PostgreSQL has not confirmed copies.", "max"),
    _gauge("memfast_pool_connections", "Connections to PostgreSQL.", pool=POOLS, state=("idle", "used")),
    _gauge("memfast_pool_limit_connections", "Connections to PostgreSQL, at most.", pool=POOLS),
    _gauge("memfast_pool_waiting", "Requests that wait for a connection.", pool=POOLS),
    _counter("memfast_pool_created_connections", "Connections that were opened.", pool=POOLS),
    _counter("memfast_pool_refused", "Requests that got no connection, because too many waited.", pool=POOLS),
    _histogram("memfast_pool_acquire_duration_seconds", "Wait for a connection.", STAGE_SECONDS, pool=POOLS),
    _histogram(
        "memfast_pool_busy_connections",
        "Connections of a worker in use whenever one more was taken, that one included.",
        BUSY_BOUNDS,
        pool=POOLS,
    ),
    _counter("memfast_store_retries", "Reads that were sent to PostgreSQL again."),
    _gauge("memfast_breaker_state", "Workers whose breaker is in the state.", breaker=BREAKERS, state=BREAKER_STATES),
    _counter("memfast_breaker_opened", "Times that a breaker opened.", breaker=BREAKERS),
    _counter("memfast_breaker_refused", "Calls that a breaker did not let through.", breaker=BREAKERS),
    _gauge("memfast_mode", "Workers that are in the mode.", mode=MODES),
    _counter("memfast_writes", "Changes by what became of them.", result=WRITE_RESULTS),
    _gauge("memfast_write_queue_changes", "Changes that wait for a transaction.", priority=PRIORITIES),
    _gauge("memfast_flushes_under_way", "Transactions of changes that are under way."),
    _histogram("memfast_flush_changes", "Changes of one transaction.", (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)),
    _histogram(
        "memfast_write_wait_seconds",
        "Wait of a write for its transaction.",
        (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
    ),
    _counter("memfast_writes_refused", "Writes that were refused because too many waited."),
    _gauge("memfast_background_queue_tasks", "Background tasks that wait."),
    _gauge("memfast_background_running_tasks", "Background tasks that run."),
    _counter("memfast_background_tasks", "Background tasks by their end.", result=("done", "dead", "refused")),
    _counter("memfast_background_retries", "Background tasks that were tried again."),
    _gauge("memfast_outbox_steps", "Steps that the copy of the links has still to be told, counted every 5 s.", "max"),
    _gauge("memfast_outbox_lag_seconds", "How long the oldest of them has waited.", "max"),
    _counter("memfast_outbox_applied_steps", "Steps that the copy of the links was told."),
    _counter("memfast_outbox_loaded_users", "Users whose links were copied as a whole."),
    _counter("memfast_outbox_retries", "Turns of the relay that failed and were tried again."),
    _histogram("memfast_embedding_duration_seconds", "Time of a call of the model that embeds.", SECONDS),
    _histogram("memfast_embedding_batch_texts", "Texts of a call of the model that embeds.", BATCH_BOUNDS),
    _counter("memfast_embedding_failures", "Calls of the model that embeds that failed."),
    _counter(
        "memfast_spans",
        "Spans by what became of them; dropped = too many waited, or the service stopped.",
        result=("exported", "failed", "dropped"),
    ),
    _histogram("memfast_event_loop_delay_seconds", "How late a worker's event loop was, four times a second.", SECONDS),
    _counter(
        "memfast_memory_clean_ups", "Times that cold copies left because memory was short.", level=("high", "critical")
    ),
    _gauge("memfast_worker_resident_memory_bytes", "Memory of a worker alone.", "worker"),
    _gauge("memfast_worker_memory_budget_bytes", "Its share of memory.budget_mb.", "worker"),
    _gauge("memfast_worker_open_fds", "Open files and connections of a worker.", "worker"),
    _counter("memfast_worker_cpu_seconds", "Processor time of all workers.", mode=("user", "system")),
    _gauge("memfast_data_disk_bytes", "Size of the disk of the data directory.", "max"),
    _gauge("memfast_data_disk_free_bytes", "What is free of it.", "max"),
    _gauge("memfast_workers", "Workers that live."),
)
"""All but those whose labels are the routes. What a new part of the service counts is added here, and written
where it happens (a counter or a histogram), or once a second in `bootstrap.readings` (what can be read any time)."""
