"""Rules about the connections to PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

from memfast.advice.report import Advice, Evidence
from memfast.advice.snapshot import Snapshot

__all__ = ["pool_too_large", "pool_too_small"]

TAKEN_MIN = 100
"""Uses of connections from which on their waits are judged."""

WAITED_SHARE = 0.05
"""Part of the uses that waited, from which on the 95th percentile of everything cold has a wait in it."""

OPEN_MIN = 20
"""Open connections up to which nobody need care: an external server keeps as many for a service by default."""

IDLE_TIMES = 4
"""So many times the most that were ever in use are too many: a rush of twice as many finds half of them open."""


def pool_too_small(snapshot: Snapshot) -> Iterator[Advice]:
    """Requests wait for a connection, or get none, while all are in use."""
    counts, pool = snapshot.window.pool, snapshot.pool
    waits = counts.taken >= TAKEN_MIN and counts.waited >= WAITED_SHARE * counts.taken
    if not (waits or counts.refused) or counts.busy_most * snapshot.process.workers < pool.limit:
        return
    wanted, database = 2 * pool.limit, snapshot.database
    action, source = f"set postgres.pool_max = {wanted}", snapshot.source("pool")
    if database is not None and database.connections_free < pool.limit:
        action += f", and PostgreSQL's max_connections higher: it has {database.connections_free} free"
    sql = next((each for each in snapshot.window.stages if (each.work, each.stage) == ("search", "sql")), None)
    yield Advice(
        rule="pool-too-small",
        subject="postgres.pool_max",
        finding="requests wait for a connection to PostgreSQL",
        evidence=(
            Evidence("waited", f"{counts.waited} of {counts.taken}", source),
            Evidence("wait, p95 ms", counts.wait_p95_ms, source),
            Evidence("refused", counts.refused, source),
            Evidence("connections, at most", pool.limit, "GET /v1/stats, pool"),
            *([Evidence("statements of searches, p95 ms", sql.p95_ms, snapshot.source("stages, sql"))] if sql else []),
        ),
        action=action,
        expected="no wait, if PostgreSQL has processors to spare; where statements are slow, look at those first",
        settings={"postgres.pool_max": wanted},
    )


def pool_too_large(snapshot: Snapshot) -> Iterator[Advice]:
    """Many connections are kept open, and few were ever used at once."""
    counts, pool = snapshot.window.pool, snapshot.pool
    most = counts.busy_most * snapshot.process.workers
    opened = pool.used + pool.idle
    if counts.taken < TAKEN_MIN or opened <= OPEN_MIN or opened < IDLE_TIMES * most or counts.waited or counts.refused:
        return
    wanted = max(OPEN_MIN, 2 * most)
    yield Advice(
        rule="pool-too-large",
        subject="postgres.pool_min",
        finding="most open connections are never used",
        evidence=(
            Evidence("in use at once, at most", most, snapshot.source("pool.busy_most")),
            Evidence("uses", counts.taken, snapshot.source("pool")),
            Evidence("open", opened, "GET /v1/stats, pool"),
            Evidence("connections, at most", pool.limit, "GET /v1/stats, pool"),
        ),
        action=f"set postgres.pool_min = {wanted}",
        expected=f"{opened - wanted} processes fewer in PostgreSQL, each of 5 to 10 MB; a rush opens more by itself",
        settings={"postgres.pool_min": wanted},
    )
