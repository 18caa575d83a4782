"""The store of record and the shards beside it, for workers and for commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from memfast.bootstrap.copies import warm_bytes
from memfast.config import Config
from memfast.index.pool import ShardPool
from memfast.store.database import Prepared
from memfast.store.pool import Pool
from memfast.store.postgres import PostgresStore

__all__ = ["build_shards", "build_store", "snapshots_folder"]


def build_store(config: Config, pool: Pool, prepared: Prepared) -> PostgresStore:
    """The store of a prepared database."""
    return PostgresStore(
        pool,
        generation=prepared.generation,
        dimensions=prepared.dimensions,
        schema=prepared.schema,
        facts=prepared.facts,
        flush_timeout_s=config.writes.flush_timeout_s,
    )


def snapshots_folder(config: Config) -> Path:
    """Where shards are saved."""
    return Path(config.data_dir) / "snapshots"


def build_shards(config: Config, prepared: Prepared, life: Callable[[], UUID]) -> ShardPool:
    """An empty pool with a worker's share of the memory for shards."""
    return ShardPool(
        warm_bytes(config),
        snapshots=snapshots_folder(config),
        life=life,
        generation=prepared.generation,
        dimensions=prepared.dimensions,
        admit_window_s=config.index.admit_window_s,
        language=config.search.language,
        int8=config.index.int8,
        disk_reserve_bytes=0 if config.postgres.dsn else config.postgres.disk_reserve_mb * 1024 * 1024,
    )
