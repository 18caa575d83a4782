"""Rules about the database: its indexes, scans of whole tables, statements that take long."""

from __future__ import annotations

from collections.abc import Iterator

from memfast.advice.report import Advice, Evidence
from memfast.advice.snapshot import Database, Snapshot, Table

__all__ = ["missing_indexes", "slow_statements", "table_scans"]

LARGE_ROWS = 10_000
"""Rows from which on reading all of a table takes longer than a request may."""

SCANS_MIN = 20
"""Scans of all of it: fewer are somebody's `count(*)`, or a backup."""

SCANNED_SHARE = 0.5
"""Part of the table that a scan reads on average; one that stops early, as `EXISTS` does, is none."""

STALE_SHARE = 0.2
"""Part of the rows that changed since the planner's statistics were made, from which on it may be wrong about them."""

STATEMENT_SLOW_MS = 50.0
"""Mean time of a statement that is slow: log.slow_search_ms is the same for a whole search."""

STATEMENT_CALLS_MIN = 20
STATEMENTS_MAX = 5
"""Statements that are named at most, by the time that they took together."""


def missing_indexes(database: Database) -> Iterator[Advice]:
    """What the migrations make and the database does not have, or cannot use."""
    tables = {table.name: table for table in database.tables}
    for index in database.indexes:
        if index.state == "valid":
            continue
        table = tables.get(index.table)
        evidence = [
            Evidence(f"index {index.name}", index.state, "pg_index"),
            Evidence("made by", index.migration, "migrations"),
            *(_scans(table) if table is not None else ()),
        ]
        yield Advice(
            rule="index-missing" if index.state == "missing" else "index-invalid",
            subject=index.name,
            finding=f"the index {index.name} of {index.table} is {index.state}",
            evidence=tuple(evidence),
            action=f"make {index.name} while the service serves (CREATE or REINDEX INDEX CONCURRENTLY)",
            expected=f"statements find rows of {index.table} by it instead of reading more than they need",
            apply="index",
            names=(index.name,),
        )


def table_scans(snapshot: Snapshot, database: Database) -> Iterator[Advice]:
    """Large tables that are read as a whole, again and again, although no index of theirs is missing."""
    lacking = {index.table for index in database.indexes if index.state != "valid"}
    for table in database.tables:
        often = table.scans >= SCANS_MIN and table.scanned_rows >= SCANNED_SHARE * table.rows * table.scans
        lately = table.scanned_s is not None and table.scanned_s <= snapshot.window.seconds
        if table.name in lacking or table.rows < LARGE_ROWS or not often or not lately:
            continue
        stale = table.changed_rows >= STALE_SHARE * table.rows
        changed = Evidence("rows changed since ANALYZE", table.changed_rows, "pg_stat_user_tables")
        yield Advice(
            rule="table-scanned",
            subject=table.name,
            finding=f"all of {table.name} is read again and again",
            evidence=(*_scans(table), changed),
            action=f"ANALYZE {table.name}" if stale else "look in pg_stat_activity for who reads it; it is not memfast",
            expected="the planner takes the indexes again" if stale else "processor time for the service",
            apply="analyze" if stale else "none",
            names=(table.name,) if stale else (),
        )


def slow_statements(database: Database) -> Iterator[Advice]:
    """Statements that take long on average, where pg_stat_statements counts them."""
    slow = [
        each
        for each in database.statements or ()
        if each.mean_ms >= STATEMENT_SLOW_MS and each.calls >= STATEMENT_CALLS_MIN
    ]
    for statement in sorted(slow, key=lambda each: -each.total_ms)[:STATEMENTS_MAX]:
        yield Advice(
            rule="statement-slow",
            subject=statement.text,
            finding="a statement takes long",
            evidence=(
                Evidence("mean ms", round(statement.mean_ms, 3), "pg_stat_statements"),
                Evidence("calls", statement.calls, "pg_stat_statements"),
            ),
            action="look at its plan with EXPLAIN (ANALYZE, BUFFERS), and at missing indexes first",
            expected="less time in the stage sql of the operations that send it",
        )


def _scans(table: Table) -> tuple[Evidence, ...]:
    source = "pg_stat_user_tables, since its reset"
    return (
        Evidence(f"rows of {table.name}", table.rows, source),
        Evidence("scans of all of it", table.scans, source),
        Evidence("scans of its indexes", table.index_scans, source),
    )
