"""Rewriting a database, so that no file of it holds what was deleted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from memfast.errors import CommandFailed
from memfast.store.queries import FORGET

__all__ = ["rewrite_database"]

_SNAPSHOTS_S = 60.0
"""How long transactions of before are waited for, in seconds."""

_POLL_S = 0.5
_SEGMENTS_MAX = 10_000
"""Segments of the log that are overwritten at most: 160 GB."""


async def rewrite_database(connection: Any, observer: Any, report: Callable[[str], None], *, log_too: bool) -> None:
    """Rewrite every table and index, each under a lock that keeps everybody out of it meanwhile.

    Args:
        connection: a connection for the work, outside of any transaction, without a time limit.
        observer: another one, which looks how far it is.
        report: is told.
        log_too: also overwrite the write-ahead log of before; for a superuser.

    Raises:
        CommandFailed: transactions of before go on, and what they may see cannot be removed.
    """
    await _outlive_snapshots(connection, report)
    report("new statistics for the planner")
    if await connection.fetchval(FORGET.is_superuser):
        await connection.execute(FORGET.allow_catalogs)
        await connection.execute(FORGET.erase_statistics)
        await connection.execute(FORGET.forbid_catalogs)
    await connection.execute(FORGET.analyze)
    report("rewriting tables and indexes")
    watch = asyncio.create_task(_watch(observer, report))
    try:
        await connection.execute(FORGET.rewrite)
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
    if log_too:
        await _overwrite_log(connection, report)


async def _outlive_snapshots(connection: Any, report: Callable[[str], None]) -> None:
    """Wait until nobody sees what was there before now."""
    moment = await connection.fetchval(FORGET.now)
    loop = asyncio.get_running_loop()
    until_s, told = loop.time() + _SNAPSHOTS_S, False
    while count := await connection.fetchval(FORGET.older_snapshots, moment):
        if not told:
            report(f"waiting for {count} transactions that began before")
            told = True
        if loop.time() >= until_s:
            raise CommandFailed(
                f"{count} transactions that began before still go on, and what they see cannot be removed: "
                "end them (pg_stat_activity names them), e.g. an export, and run this again"
            )
        await asyncio.sleep(_POLL_S)


async def _watch(observer: Any, report: Callable[[str], None]) -> None:
    """Tell which table is rewritten, and how far that is."""
    shown = ""
    while True:
        row = await observer.fetchrow(FORGET.rewriting)
        if row is not None:
            line = f"rewriting {row['name']}"
            if row["total"] and row["done"]:
                line += f": {100 * row['done'] // row['total']} %"
            if line != shown:
                report(line)
                shown = line
        await asyncio.sleep(_POLL_S)


async def _overwrite_log(connection: Any, report: Callable[[str], None]) -> None:
    """Go through every segment that there is: old ones are kept, to be used again, with what they said."""
    report("overwriting the write-ahead log")
    await _next_segment(connection)
    await connection.execute(FORGET.checkpoint)
    last = (await connection.fetchrow(FORGET.wal_segments))["last"]
    for number in range(_SEGMENTS_MAX):
        if await _next_segment(connection) > last:
            break
        if number % 16 == 15:
            report(f"overwriting the write-ahead log: {number + 1} segments")
    await connection.execute(FORGET.checkpoint)


async def _next_segment(connection: Any) -> str:
    """Fill the rest of the present segment with zeros; returns its name."""
    await connection.execute(FORGET.write_wal)
    present: str = (await connection.fetchrow(FORGET.wal_segments))["present"]
    await connection.execute(FORGET.switch_wal)
    return present
