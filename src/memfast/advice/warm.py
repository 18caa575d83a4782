"""Rules about users in memory: the room for them, the budget of all copies, and from when on a graph chooses."""

from __future__ import annotations

from collections.abc import Iterator

from memfast.advice.report import Advice, Evidence
from memfast.advice.room import MIB, budget_mb, fits
from memfast.advice.snapshot import Snapshot

__all__ = ["budget_too_small", "flat_limit", "warm_too_small"]

EVICTIONS_MIN = 10
"""Users that left from which on there is a pattern: a first fill over the edge lets a few go."""

CHURN_SHARE = 0.5
"""Evictions for each load: from here on most who come push somebody out who may come again."""

FULL_SHARE = 0.8
"""The room is full where so much is held: the next user is as large as the last."""

CLEAN_UPS_MIN = 10
"""Clean-ups, one each 0.5 s at most, from which on memory is short for more than a moment."""

RANKS_MIN = 200
"""Searches that compared memories from which on their time is judged."""

RANK_SLOW_MS = 25.0
"""The 95th percentile of comparing from which on a graph would be faster: half of log.slow_search_ms."""

RANK_FAST_MS = 5.0
"""The 95th percentile up to which comparing every memory would cost nobody anything."""

FLAT_MIN = 10_000
"""Memories of a user below which comparing all is never what takes long."""

FLAT_LIMIT = 40_000
"""The default of index.flat_limit: measured, a graph of fewer memories is not faster than comparing all of them."""


def warm_too_small(snapshot: Snapshot) -> Iterator[Advice]:
    """Users leave memory for others, and come back."""
    layer, counts = snapshot.layers["warm"], snapshot.window.warm
    churns = counts.evictions >= max(EVICTIONS_MIN, CHURN_SHARE * counts.loads_held)
    if not churns or layer.bytes < FULL_SHARE * layer.limit_bytes:
        return
    own_mb = snapshot.settings["index.memory_mb"]
    settings: dict[str, float] = {"index.memory_mb": 2 * own_mb}
    live = fits(snapshot, layer.bytes)
    if not live:
        settings["memory.budget_mb"] = budget_mb(snapshot, layer.bytes)
    source = snapshot.source("warm")
    cold = sum(each.tiers.get("cold", 0) for each in snapshot.window.operations)
    tiered = sum(sum(each.tiers.values()) for each in snapshot.window.operations)
    yield Advice(
        rule="warm-too-small",
        subject="index.memory_mb",
        finding="users leave memory for want of room while others are loaded",
        evidence=(
            Evidence("users who left", counts.evictions, source),
            Evidence("users who were loaded", counts.loads_held, source),
            Evidence("answered cold", f"{cold} of {tiered}", snapshot.source("operations")),
            Evidence(
                "memory", f"{layer.bytes / MIB:.1f} of {layer.limit_bytes / MIB:.1f} MiB", "GET /v1/stats, caches"
            ),
            Evidence("users in memory", layer.entries, "GET /v1/stats, caches"),
        ),
        action="set " + ", ".join(f"{key} = {value:g}" for key, value in settings.items()),
        expected=f"about {2 * layer.entries} users in memory instead of {layer.entries}, and fewer cold answers",
        apply="settings" if live else "none",
        settings=settings,
    )


def budget_too_small(snapshot: Snapshot) -> Iterator[Advice]:
    """Copies leave because the workers' memory is near memory.budget_mb, not because their own room is full."""
    counts, process = snapshot.window.warm, snapshot.process
    if counts.clean_ups < CLEAN_UPS_MIN and not counts.emergencies:
        return
    wanted_mb = budget_mb(snapshot, process.budget_bytes / 2)
    source = snapshot.source("warm")
    yield Advice(
        rule="budget-too-small",
        subject="memory.budget_mb",
        finding="copies leave because the workers' memory is near its budget",
        evidence=(
            Evidence("clean-ups", counts.clean_ups, source),
            Evidence("emergencies", counts.emergencies, source),
            Evidence(
                "resident",
                f"{process.resident_bytes / MIB:.0f} of {process.budget_bytes / MIB:.0f} MiB",
                "GET /v1/stats, process",
            ),
        ),
        action=f"set memory.budget_mb = {wanted_mb}, if the machine has it; else lower index.memory_mb",
        expected="copies stay until their own room is full",
        settings={"memory.budget_mb": wanted_mb},
    )


def flat_limit(snapshot: Snapshot) -> Iterator[Advice]:
    """Comparing every memory of a large user takes long, or would not and is left out."""
    rank = next((each for each in snapshot.window.stages if (each.work, each.stage) == ("search", "rank")), None)
    warm = snapshot.warm
    if rank is None or rank.times < RANKS_MIN:
        return
    evidence = (
        Evidence("comparing, p95 ms", rank.p95_ms, snapshot.source("stages, rank")),
        Evidence("searches that compared", rank.times, snapshot.source("stages, rank")),
        Evidence("memories of the largest user", warm.largest_memories, "GET /v1/stats, warm"),
        Evidence("users with a graph", warm.graph_users, "GET /v1/stats, warm"),
        Evidence("index.flat_limit", warm.flat_limit, "GET /v1/stats, warm"),
    )
    if rank.p95_ms >= RANK_SLOW_MS and warm.largest_memories > warm.flat_limit and not warm.graph_users:
        yield Advice(
            rule="graph-missing",
            subject="index.flat_limit",
            finding="users are larger than index.flat_limit, and no graph is made of them",
            evidence=evidence,
            action='install the graph, pip install "memfast[hnsw]", and restart',
            expected="comparing takes a tenth of the time for these users; their hits by meaning are then approximate",
        )
    elif rank.p95_ms >= RANK_SLOW_MS and FLAT_MIN <= warm.largest_memories <= warm.flat_limit:
        yield _limit(warm.largest_memories // 2, "comparing every memory takes long", "a graph chooses", evidence)
    elif rank.p95_ms <= RANK_FAST_MS and warm.graph_users and warm.flat_limit < FLAT_LIMIT:
        yield _limit(FLAT_LIMIT, "a graph chooses where comparing all would be as fast", "hits are exact", evidence)


def _limit(value: int, finding: str, expected: str, evidence: tuple[Evidence, ...]) -> Advice:
    return Advice(
        rule="flat-limit",
        subject="index.flat_limit",
        finding=finding,
        evidence=evidence,
        action=f"set index.flat_limit = {value}",
        expected=f"{expected} for users up to that size" if value == FLAT_LIMIT else f"{expected} for larger users",
        settings={"index.flat_limit": value},
    )
