"""What `memfast advise` asks of the database of a running service, and what it may do there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from memfast.advice import Database
from memfast.bootstrap.ground import Reporter
from memfast.config import Config
from memfast.errors import CommandFailed
from memfast.store.catalogue import analyze_tables, make_indexes, read_database
from memfast.store.database import require_prepared
from memfast.store.embedded import Cluster
from memfast.store.migrate import load_migrations
from memfast.store.pool import connect

__all__ = ["improve_database", "look_at_database"]

_T = TypeVar("_T")

_LOOK_S = 30.0
"""The time of one question to the catalogue."""

_LONG_S = 24 * 3600.0
"""The time of one statement that makes an index."""


def look_at_database(config: Config, lineage: UUID, report: Reporter) -> Database:
    """What the database of a running service says of itself; nothing is changed.

    Args:
        config: says where it is.
        lineage: of the database that the service has: another one is not asked.
        report: is told.

    Raises:
        StartError: it cannot be reached from here, or is another one.
        Unavailable: it does not answer.
    """

    async def look(connection: Any) -> Database:
        return await read_database(connection, load_migrations())

    return _with_database(config, lineage, look, report, time_s=_LOOK_S)


def improve_database(
    config: Config, lineage: UUID, indexes: Sequence[str], tables: Sequence[str], report: Reporter
) -> None:
    """Make indexes of the migrations, and planner statistics of tables, while the service uses it.

    Raises:
        StartError: as `look_at_database`.
        Unavailable: it does not answer.
    """

    async def improve(connection: Any) -> None:
        await make_indexes(connection, load_migrations(), indexes, report)
        await analyze_tables(connection, tables, report)

    _with_database(config, lineage, improve, report, time_s=_LONG_S)


def _with_database(
    config: Config,
    lineage: UUID,
    work: Callable[[Any], Coroutine[Any, Any, _T]],
    report: Reporter,
    *,
    time_s: float,
) -> _T:
    async def run() -> _T:
        timeout_s = config.postgres.connect_timeout_s
        address = _address(config, report)
        connection = await connect(address, connect_timeout_s=timeout_s, command_timeout_s=time_s)
        try:
            if (await require_prepared(connection)).lineage != lineage:
                raise CommandFailed("the configured database is another one than the service's")
            return await work(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def _address(config: Config, report: Reporter) -> dict[str, Any]:
    """Where the database is. An embedded one that does not run is not started: it is not the running service's."""
    if config.postgres.dsn:
        return {"dsn": config.postgres.dsn}
    endpoint = Cluster(Path(config.data_dir), report=report).running()
    if endpoint is None:
        raise CommandFailed(f"no database runs in {config.data_dir}: name the service's own, e.g. with --data-dir")
    return dict(endpoint.connect_arguments())
