"""What rules look at: counts and uses of all workers of one service, and what its database says of itself."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from memfast.metrics.uses import LayerUse, PoolUse, ProcessUse, WarmUse, WindowStats

__all__ = ["Database", "Index", "SlowStatement", "Snapshot", "Table"]


class Index(Struct, frozen=True, kw_only=True):
    """An index that a migration makes, and how it stands. `invalid`: its making broke off, and no query uses it."""

    name: str
    table: str
    migration: str
    state: Literal["valid", "invalid", "missing"]


class Table(Struct, frozen=True, kw_only=True):
    """A table's counters since `pg_stat_reset`: scans of all of it, rows read by those, scans of its indexes.

    `scanned_s` is how long ago the last scan of all of it was, None where there was none; `changed_rows` since the
    planner's statistics were made.
    """

    name: str
    rows: int
    scans: int
    scanned_rows: int
    index_scans: int
    scanned_s: float | None
    changed_rows: int


class SlowStatement(Struct, frozen=True, kw_only=True):
    """A statement of pg_stat_statements, without its values; times in milliseconds since its counters began."""

    text: str
    calls: int
    mean_ms: float
    total_ms: float


class Database(Struct, frozen=True, kw_only=True):
    """What the catalogue and the statistics views say.

    `statements` is None where pg_stat_statements is not there or may not be read. `waiting` sessions of the service
    wait for a lock now. `connections_free` can still be opened.
    """

    indexes: list[Index]
    tables: list[Table]
    statements: list[SlowStatement] | None
    waiting: int
    connections_free: int


class Snapshot(Struct, frozen=True, kw_only=True):
    """One moment of a service: what its workers use, and the counts of a window of minutes before it.

    Attributes:
        process: of all workers.
        pool: connections for work.
        layers: copies by name; `warm` are users in memory.
        warm: more of those.
        window: the counts.
        settings: values in use of the settings that can be changed live.
        database: None where it could not be asked.
    """

    process: ProcessUse
    pool: PoolUse
    layers: dict[str, LayerUse]
    warm: WarmUse
    window: WindowStats
    settings: dict[str, float]
    database: Database | None

    def source(self, what: str) -> str:
        """Where a figure of the window stands."""
        return f"GET /v1/stats, {what} of the last {self.window.seconds / 60:.0f} min"
