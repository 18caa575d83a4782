"""How much more memory copies may be given."""

from __future__ import annotations

from memfast.advice.snapshot import Snapshot

__all__ = ["MIB", "budget_mb", "fits", "overcommitted"]

MIB = 1024 * 1024

FILLED_SHARE = 0.7
"""Part of memory.budget_mb that the workers may take with it: from 0.8 on copies leave by themselves."""


def fits(snapshot: Snapshot, more_bytes: float) -> bool:
    """Whether the workers, as large as they are now, may take so much more."""
    return snapshot.process.resident_bytes + more_bytes <= FILLED_SHARE * snapshot.process.budget_bytes


def budget_mb(snapshot: Snapshot, more_bytes: float) -> int:
    """The least memory.budget_mb with which they may, in steps of 64 MiB, and never less than now."""
    needed_mb = max(
        (snapshot.process.resident_bytes + more_bytes) / FILLED_SHARE / MIB, snapshot.process.budget_bytes / MIB
    )
    return int(-(-needed_mb // 64) * 64)


def overcommitted(snapshot: Snapshot) -> bool:
    """Whether copies are promised more than the whole budget: some must leave before all are full."""
    return sum(layer.limit_bytes for layer in snapshot.layers.values()) > snapshot.process.budget_bytes
