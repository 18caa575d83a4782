"""What commands do with a database, beside a running service or alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memfast.bootstrap.database import open_pool
from memfast.bootstrap.embedder import build_embedder
from memfast.bootstrap.ground import Reporter, attached, ground, open_connection
from memfast.bootstrap.stores import build_shards, build_store
from memfast.config import Config
from memfast.resilience.clock import SystemClock
from memfast.service.access import Keyring
from memfast.service.warmup import SnapshotWriter
from memfast.store.access import PostgresAccessLog
from memfast.store.database import prepare, read_prepared, require_prepared
from memfast.store.keys import PostgresKeys
from memfast.store.pool import PoolSize
from memfast.store.server import ServerFacts, inspect_server

__all__ = ["inspect_external", "migrate", "with_keyring", "with_snapshots"]


async def inspect_external(config: Config) -> ServerFacts:
    """Check the configured external PostgreSQL without changing it.

    Raises:
        DatabaseRefused: with what is wrong and what to do.
    """
    connection = await open_connection(config, {"dsn": config.postgres.dsn})
    try:
        return await inspect_server(connection)
    finally:
        await connection.close()


def migrate(config: Config, report: Reporter) -> int:
    """Bring the database's schema up to date; returns its number.

    Raises:
        StartError: as `ground`.
    """
    with ground(config, report) as site:
        return site.prepared.schema


async def with_keyring(config: Config, work: Callable[[Keyring], Any], report: Reporter) -> Any:
    """Run a command's work on the API keys, beside a running service or alone, also before the first start.

    Raises:
        StartError: the database cannot be reached.
    """
    with attached(config, report) as address:
        await _prepare_new(config, address, report)
        pool = await open_pool(config, address, PoolSize(1, 1))
        try:
            return await work(Keyring(PostgresKeys(pool), SystemClock()))
        finally:
            await pool.close(5.0)


async def _prepare_new(config: Config, address: dict[str, Any], report: Reporter) -> None:
    """Make a database ready that no service has used yet; any other stays as it is."""
    connection = await open_connection(config, address)
    try:
        if await read_prepared(connection) is None:
            embedder = build_embedder(config.embedding)
            await prepare(connection, model=embedder.model, dimensions=embedder.dimensions, report=report)
            await embedder.close()
    finally:
        await connection.close()


async def with_snapshots(config: Config, work: Callable[[SnapshotWriter], Any], report: Reporter) -> Any:
    """Run a command's work on the snapshots, beside a running service or alone.

    Raises:
        StartError: the database cannot be reached, or is not prepared.
    """
    with attached(config, report) as address:
        connection = await open_connection(config, address)
        try:
            prepared = await require_prepared(connection)
        finally:
            await connection.close()
        pool = await open_pool(config, address, PoolSize(1, 2))
        try:
            store = build_store(config, pool, prepared)
            shards = build_shards(config, prepared, lambda: prepared.lineage)
            return await work(SnapshotWriter(PostgresAccessLog(pool), store, shards))
        finally:
            await pool.close(5.0)
