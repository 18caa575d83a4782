"""Rules about operations that the log calls slow."""

from __future__ import annotations

from collections.abc import Iterator

from memfast.advice.report import Advice, Evidence
from memfast.advice.snapshot import Snapshot
from memfast.metrics.uses import OperationStats

__all__ = ["slow_operations"]

SLOW_MIN = 5
"""Slow ones from which on there is a pattern: the first search after a start waits for the model, once."""

SLOW_SHARE = 0.01
"""Part of an operation's requests: from here on its 99th percentile is slow."""

ACTIONS = {
    "decode": "send smaller bodies: reading them is what takes long",
    "cache": "look at `memfast profile`: looking for a finished answer should take microseconds",
    "warm": "users are read into memory while a request waits: raise index.memory_mb, run `memfast warm` after a start",
    "embed": "look at the embedding endpoint: it answers slowly",
    "sql": "look at what PostgreSQL waits for (pg_stat_activity: locks, disk) and at indexes and statements named here",
    "rank": "users have many memories: see index.flat_limit and index.int8",
    "encode": "ask for fewer hits or smaller memories: writing the answer is what takes long",
    "wait": "others do the same work first: see writes.flush_wait_ms, and equal searches",
    "none": "look at `memfast profile`: no stage of it is measured",
}
"""What to do by the stage that took longest."""


def slow_operations(snapshot: Snapshot) -> Iterator[Advice]:
    """Routes of which a good part was slow, and the stage that most of those spent their time in."""
    for each in snapshot.window.operations:
        if each.slow < SLOW_MIN or each.slow < SLOW_SHARE * each.requests:
            continue
        stage = max(each.slow_stages, key=lambda name: each.slow_stages[name], default="none")
        yield Advice(
            rule="operation-slow",
            subject=f"{each.method} {each.route}",
            finding=f"{each.slow} of {each.requests} requests were slow, most of them in the stage {stage}",
            evidence=tuple(_evidence(snapshot, each, stage)),
            action=ACTIONS.get(stage, ACTIONS["none"]),
            expected=f"fewer lines of memfast.slow for {each.method} {each.route}",
        )


def _evidence(snapshot: Snapshot, operation: OperationStats, stage: str) -> Iterator[Evidence]:
    source = snapshot.source("operations")
    yield Evidence("slow", f"{operation.slow} of {operation.requests}", source)
    yield Evidence(f"of these longest in {stage}", operation.slow_stages.get(stage, 0), source)
    yield Evidence("p95 ms", operation.p95_ms, source)
    database = snapshot.database
    if stage == "sql" and database is not None:
        yield Evidence("sessions that wait for a lock now", database.waiting, "pg_stat_activity")
