"""What the parent process makes true before its workers start."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from memfast.bootstrap.embedder import adopted, build_embedder
from memfast.config import Config
from memfast.errors import DatabaseRefused, EmbedderMismatch
from memfast.kernels import SlotTable
from memfast.metrics import Board
from memfast.service.tuning import Orders
from memfast.store.database import Prepared, new_lineage, prepare, refreshed
from memfast.store.embedded import Cluster, DataDirLock, Keeper
from memfast.store.life import Note, continues_life, server_life, write_note
from memfast.store.pool import PoolSize, connect, pool_size, translated
from memfast.store.server import ServerFacts

__all__ = [
    "RELAY",
    "Ground",
    "Reporter",
    "attached",
    "database_address",
    "ground",
    "life_note",
    "open_connection",
    "renewed",
]

_log = logging.getLogger("memfast")

SLOTS = 2**20
"""Epochs that the workers share, 8 MiB. More users than slots cost needless misses and nothing else."""

SPARE_ROWS = 2
"""Rows of metrics beyond one for each worker."""

_LOCK_WAIT_S = 10.0
"""How long a start waits for the data directory: a service that is stopping needs a moment."""

CONTROL = PoolSize(1, 2)
"""A worker's connections for checks alone: no flood of work keeps them from seeing the database."""

RELAY = PoolSize(0, 3)
"""A worker's connections for telling a graph what happens: they are held while the graph is written to."""

_RESERVED_CONNECTIONS = 3
"""Connections left to others (psql, backups) when the pool's size follows the server's limit."""

Reporter = Callable[[str], None]


class Ground(Struct, frozen=True, kw_only=True):
    """What the parent made ready for its workers. Plain data, so that it can be handed to another process."""

    config: Config
    address: dict[str, Any]
    prepared: Prepared
    note: Note
    pool: PoolSize
    slots: str
    metrics: str
    orders: str


@contextmanager
def ground(config: Config, report: Reporter) -> Iterator[Ground]:
    """Everything that must be true before workers start, and is undone when they have ended.

    Takes the data directory's lock (the workers inherit it), starts the embedded PostgreSQL unless an address is
    configured, migrates, and stamps or compares the embedder.

    Raises:
        StartError: with its exit code, what is wrong and what to do.
    """
    with database_address(config, report) as address, _shared_files(config) as files:
        site = asyncio.run(_prepare(config, address, report, files))
        try:
            yield site
        finally:
            asyncio.run(_note_end(site))


class _Files(Struct, frozen=True):
    """Paths of what this service's workers share."""

    slots: str
    metrics: str
    orders: str


@contextmanager
def _shared_files(config: Config) -> Iterator[_Files]:
    """The files of their epochs, of what they count, and of settings that are changed while they run.

    A worker counts in a row of its own; there are some for those that replace others before these have ended.
    """
    rows = config.server.workers + SPARE_ROWS
    with (
        _shared(config, "slots", lambda path: SlotTable.create(path, SLOTS, secrets.token_bytes(16)).close()) as slots,
        _shared(config, "metrics", lambda path: Board.create(path, rows)) as metrics,
        _shared(config, "orders", Orders.create) as orders,
    ):
        yield _Files(slots, metrics, orders)


@contextmanager
def _shared(config: Config, name: str, create: Callable[[Path], None]) -> Iterator[str]:
    """A file that this service's workers share, in shared memory where there is some.

    It has no name once it is made: workers, also those that replace a dead one, reach it through this process, and
    nothing is left of it when this process ends, however it ends.
    """
    folder = Path("/dev/shm")  # noqa: S108 - not a temporary file: memory that processes of this host share
    path = (folder if os.access(folder, os.W_OK) else Path(config.data_dir)) / f"memfast-{secrets.token_hex(8)}.{name}"
    try:
        create(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    finally:
        path.unlink(missing_ok=True)
    try:
        yield f"/proc/{os.getpid()}/fd/{descriptor}"
    finally:
        os.close(descriptor)


@contextmanager
def database_address(config: Config, report: Reporter) -> Iterator[dict[str, Any]]:
    """The database's address for the holder of the data directory's lock, which this takes."""
    data_dir = Path(config.data_dir)
    with DataDirLock.acquire(data_dir, _LOCK_WAIT_S):
        if config.postgres.dsn:
            yield {"dsn": config.postgres.dsn}
            return
        cluster = Cluster(data_dir, major=config.postgres.embedded_major, report=report)
        try:
            address = dict(cluster.start().connect_arguments())
            with Keeper(cluster, report):
                yield address
        finally:
            cluster.stop()


@contextmanager
def attached(config: Config, report: Reporter) -> Iterator[dict[str, Any]]:
    """The address of a database that may be in use: the external one, a running service's, or one started for this."""
    if config.postgres.dsn:
        yield {"dsn": config.postgres.dsn}
        return
    endpoint = Cluster(Path(config.data_dir), report=report).running()
    if endpoint is not None:
        yield dict(endpoint.connect_arguments())
        return
    with database_address(config, report) as address:
        yield address


async def _prepare(config: Config, address: dict[str, Any], report: Reporter, files: _Files) -> Ground:
    embedder = build_embedder(config.embedding)
    connection = await open_connection(config, address)
    try:
        prepared = await prepare(connection, model=embedder.model, dimensions=embedder.dimensions, report=report)
        prepared, note = await _continue_life(config, connection, prepared)
    finally:
        await connection.close()
        await embedder.close()
    config = await _following(config, prepared)
    pool = _pool_size(config, prepared.facts)
    return Ground(
        config=config, address=address, prepared=prepared, note=note, pool=pool, **msgspec.structs.asdict(files)
    )


async def renewed(site: Ground) -> Ground:
    """The ground of a database that may have been moved to another embedder since it was made ready.

    Raises:
        DatabaseRefused: the database cannot be reached.
        Unavailable: it went away again.
        EmbedderMismatch: nothing says how its vectors are made.
    """
    connection = await open_connection(site.config, site.address)
    try:
        async with translated():
            prepared = await refreshed(connection, site.prepared)
    finally:
        await connection.close()
    return msgspec.structs.replace(site, config=await _following(site.config, prepared), prepared=prepared)


async def _following(config: Config, prepared: Prepared) -> Config:
    """The configuration with the embedder that made the database's vectors."""
    for embedding in (config.embedding, prepared.settings and adopted(config.embedding, prepared.settings)):
        if embedding:
            embedder = build_embedder(embedding)
            await embedder.close()
            if (embedder.model, embedder.dimensions) == (prepared.model, prepared.dimensions):
                return msgspec.structs.replace(config, embedding=embedding)
    raise EmbedderMismatch(
        f"the database's vectors were made by {prepared.model} with {prepared.dimensions} dimensions, and nothing says "
        "how it is asked: set embedding.* to it"
    )


async def _note_end(site: Ground) -> None:
    """Note how far the database came; where it cannot be asked any more, the last note stands."""
    with contextlib.suppress(DatabaseRefused):
        connection = await open_connection(site.config, site.address)
        try:
            life = await server_life(connection)
        finally:
            await connection.close()
        write_note(life_note(site.config), msgspec.structs.replace(site.note, life=life))


async def open_connection(config: Config, address: dict[str, Any]) -> Any:
    """One connection for start-up work; see `store.pool.connect`."""
    return await connect(
        address,
        connect_timeout_s=config.postgres.connect_timeout_s,
        command_timeout_s=max(config.postgres.command_timeout_s, 600.0),  # a migration may take longer than a request
    )


async def _continue_life(config: Config, connection: Any, prepared: Prepared) -> tuple[Prepared, Note]:
    """Begin a new life of the database if it is not the one, at least as far on, that was seen here last."""
    marker = Path(config.data_dir) / "restored"
    same, note = await continues_life(connection, life_note(config))
    if marker.exists() or not same:
        _log.warning("the database was restored or replaced: cursors, tokens and copies of before are refused")
        prepared = msgspec.structs.replace(prepared, lineage=await new_lineage(connection))
    marker.unlink(missing_ok=True)
    return prepared, note


def life_note(config: Config) -> Path:
    """Where the life of the database is noted."""
    return Path(config.data_dir) / "life"


def _pool_size(config: Config, facts: ServerFacts) -> PoolSize:
    postgres, workers = config.postgres, config.server.workers
    own = CONTROL.maximum + (RELAY.maximum if config.graph.uri else 0)
    available = facts.connections - _RESERVED_CONNECTIONS - own * workers
    if max(postgres.pool_max, postgres.pool_min) > available:
        raise DatabaseRefused(
            f"postgres.pool_max = {max(postgres.pool_max, postgres.pool_min)} is more than the {available} connections "
            "that the server can give; lower it, or raise the server's max_connections"
        )
    size = pool_size(postgres.pool_min, postgres.pool_max, workers=workers, embedded=not postgres.dsn)
    most = max(1, min(size.maximum, available // workers))
    return PoolSize(min(size.minimum, most), most)
