"""The composition root: the only module that names concrete adapters.

`ground` runs once, in the parent process, and makes everything true that workers rely on; `open_services` runs in each
worker and builds the live objects. Commands use `attached`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import UUID

from msgspec import Struct

from memfast.config import Config, EmbeddingConfig
from memfast.errors import CommandFailed, DatabaseRefused, MemfastError
from memfast.index.pool import ShardPool
from memfast.kernels import ByteCache, CacheStats, SlotTable
from memfast.ports import Clock, Embedder
from memfast.resilience.clock import SystemClock
from memfast.resilience.memory import give_back, resident_bytes
from memfast.resilience.threads import lower_priority
from memfast.service.access import Access, Keyring
from memfast.service.answers import Answers, Kind
from memfast.service.coherence import Coherence
from memfast.service.cursors import Cursors
from memfast.service.embeddings import CachedEmbedder
from memfast.service.forget import Forget
from memfast.service.health import Health
from memfast.service.heat import Heat
from memfast.service.identifiers import Identifiers
from memfast.service.limits import Limits
from memfast.service.pressure import Pressure
from memfast.service.recall import Recall
from memfast.service.remember import Remember
from memfast.service.users import Directory
from memfast.service.warm import Warm
from memfast.service.warmup import SnapshotWriter, Warmup
from memfast.service.writer import Writer
from memfast.store.access import PostgresAccessLog
from memfast.store.database import Prepared, new_lineage, prepare, read_prepared
from memfast.store.embedded import Cluster, DataDirLock, available_majors, backup, restore, upgrade
from memfast.store.keys import PostgresKeys
from memfast.store.ledger import PostgresLedger
from memfast.store.life import ServerLife, last_life, note_life, server_life
from memfast.store.pool import Pool, PoolSize, ServerFacts, connect, inspect_server, pool_size
from memfast.store.postgres import PostgresStore

__all__ = [
    "Ground",
    "Services",
    "available_majors",
    "backup",
    "build_embedder",
    "ground",
    "inspect_external",
    "migrate",
    "open_services",
    "restore",
    "upgrade",
    "with_keyring",
    "with_snapshots",
]

_log = logging.getLogger("memfast")

_LOCK_WAIT_S = 10.0
"""How long a start waits for the data directory: a service that is stopping needs a moment."""

_RESERVED_CONNECTIONS = 3
"""Connections left to others (psql, backups) when the pool's size follows the server's limit."""

SLOTS = 2**20
"""Epochs that the workers share, 8 MiB. More users than slots cost needless misses and nothing else."""

LIFE_NOTE_S = 5.0
"""Time between notes of how far the database has come, in seconds."""

WARM_THREADS = 2
"""Threads of a worker for searches and builds that would hold its event loop up."""

_CACHE_SHARES: dict[Kind, float] = {"search": 0.65, "list": 0.15, "get": 0.1}
_REQUESTS_SHARE = 0.1

Reporter = Callable[[str], None]


class Services(Struct, frozen=True, kw_only=True):
    """The live objects of one worker, as the faces use them."""

    access: Access
    answers: Answers
    coherence: Coherence
    embedder: CachedEmbedder
    warm: Warm
    shards: ShardPool
    warmup: Warmup
    pressure: Pressure
    remember: Remember
    recall: Recall
    forget: Forget
    directory: Directory
    health: Health
    limits: Limits
    clock: Clock

    def caches(self) -> dict[str, CacheStats]:
        """Counters of every cache of this worker, by name."""
        return {**self.answers.stats(), "embeddings": self.embedder.stats()}


class Ground(Struct, frozen=True, kw_only=True):
    """What the parent made ready for its workers. Plain data, so that it can be handed to another process."""

    config: Config
    address: dict[str, Any]
    prepared: Prepared
    life: ServerLife
    pool: PoolSize
    slots: str


def build_embedder(config: EmbeddingConfig) -> Embedder:
    """The configured embedder; nothing is loaded or connected yet.

    Each adapter is imported where it is chosen: what is not configured is not imported.
    """
    if config.provider == "none":
        from memfast.embedding.none import NoEmbedder  # noqa: PLC0415 the reason stands above

        return NoEmbedder(config.dimensions)
    if config.provider == "openai":
        from memfast.embedding.openai import OpenAIEmbedder  # noqa: PLC0415 the reason stands above

        return OpenAIEmbedder(
            base_url=config.base_url,
            model=config.model,
            dimensions=config.dimensions,
            api_key=config.api_key,
            send_dimensions=config.send_dimensions,
            encoding_format=config.encoding_format,
            parallel_requests=config.parallel_requests,
            batch_size=config.batch_size,
            timeout_s=config.timeout_s,
            pool_connections=config.pool_connections,
            pool_keepalive=config.pool_keepalive,
            pool_keepalive_s=config.pool_keepalive_s,
            pool_timeout_s=config.pool_timeout_s,
        )
    from memfast.embedding.wordllama import WordLlamaEmbedder  # noqa: PLC0415 the reason stands above

    embedder = WordLlamaEmbedder(batch_size=config.batch_size)
    if config.dimensions not in {0, embedder.dimensions}:
        raise CommandFailed(
            f"embedding.dimensions = {config.dimensions}: WordLlama's vectors have {embedder.dimensions}; leave it out"
        )
    return embedder


@contextmanager
def ground(config: Config, report: Reporter) -> Iterator[Ground]:
    """Everything that must be true before workers start, and is undone when they have ended.

    Takes the data directory's lock (the workers inherit it), starts the embedded PostgreSQL unless an address is
    configured, migrates, and stamps or compares the embedder.

    Raises:
        StartError: with its exit code, what is wrong and what to do.
    """
    with _address(config, report) as address, _slots(config) as slots:
        yield asyncio.run(_prepare(config, address, slots, report))


@contextmanager
def _slots(config: Config) -> Iterator[str]:
    """The file of the epochs that this service's workers share, in shared memory where there is some.

    The holder of the data directory's lock owns it: nobody can have one mapped that a killed service left.
    """
    folder = Path("/dev/shm")  # noqa: S108 - not a temporary file: memory that processes of this host share
    name = blake2b(str(Path(config.data_dir).resolve()).encode(), digest_size=12).hexdigest()
    path = (folder if os.access(folder, os.W_OK) else Path(config.data_dir)) / f"memfast-{name}.slots"
    path.unlink(missing_ok=True)
    SlotTable.create(path, SLOTS, secrets.token_bytes(16)).close()
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _address(config: Config, report: Reporter) -> Iterator[dict[str, Any]]:
    data_dir = Path(config.data_dir)
    with DataDirLock.acquire(data_dir, _LOCK_WAIT_S):
        if config.postgres.dsn:
            yield {"dsn": config.postgres.dsn}
            return
        cluster = Cluster(data_dir, major=config.postgres.embedded_major, report=report)
        try:
            yield dict(cluster.start().connect_arguments())
        finally:
            cluster.stop()


async def _prepare(config: Config, address: dict[str, Any], slots: str, report: Reporter) -> Ground:
    embedder = build_embedder(config.embedding)
    connection = await _connect(config, address)
    try:
        await _continue_life(config, connection)
        prepared = await prepare(connection, model=embedder.model, dimensions=embedder.dimensions, report=report)
        life = await server_life(connection)
    finally:
        await connection.close()
        await embedder.close()
    pool = _pool_size(config, prepared.facts)
    return Ground(config=config, address=address, prepared=prepared, life=life, pool=pool, slots=slots)


async def _connect(config: Config, address: dict[str, Any]) -> Any:
    return await connect(
        address,
        connect_timeout_s=config.postgres.connect_timeout_s,
        command_timeout_s=max(config.postgres.command_timeout_s, 600.0),  # a migration may take longer than a request
    )


async def _continue_life(config: Config, connection: Any) -> None:
    """Begin a new life of the database if it is not the one, at least as far on, that was seen here last."""
    data_dir = Path(config.data_dir)
    marker, note = data_dir / "restored", data_dir / "life"
    if await read_prepared(connection) is not None:
        life, last = await server_life(connection), last_life(note)
        if marker.exists() or (last is not None and not life.continues(last)):
            _log.warning("the database was restored or replaced: cursors, tokens and copies of before are refused")
            await new_lineage(connection)
    marker.unlink(missing_ok=True)
    note_life(note, await server_life(connection))


async def _keep_life(site: Ground, coherence: Coherence) -> None:
    """Note how far the database has come, every few seconds."""
    note = Path(site.config.data_dir) / "life"
    while True:
        await asyncio.sleep(LIFE_NOTE_S)
        life = ServerLife(site.life.system, site.life.timeline, coherence.facts.wal)
        await asyncio.to_thread(note_life, note, life)


def _pool_size(config: Config, facts: ServerFacts) -> PoolSize:
    postgres, workers = config.postgres, config.server.workers
    available = facts.connections - _RESERVED_CONNECTIONS
    if max(postgres.pool_max, postgres.pool_min) > available:
        raise DatabaseRefused(
            f"postgres.pool_max = {max(postgres.pool_max, postgres.pool_min)} is more than the {available} connections "
            "that the server can give; lower it, or raise the server's max_connections"
        )
    size = pool_size(postgres.pool_min, postgres.pool_max, workers=workers, embedded=not postgres.dsn)
    most = max(1, min(size.maximum, available // workers))
    return PoolSize(min(size.minimum, most), most)


@asynccontextmanager
async def open_services(site: Ground) -> AsyncIterator[Services]:
    """Open a worker's live objects, in order; close them in reverse.

    Raises:
        DatabaseRefused: the database cannot be reached.
    """
    config, prepared, clock = site.config, site.prepared, SystemClock()
    async with AsyncExitStack() as stack:
        pool = await _open_pool(config, site.address, site.pool)
        stack.push_async_callback(pool.close, 5.0)
        embedder = _cached_embedder(config, clock)
        stack.push_async_callback(embedder.close)
        store = _store(pool, prepared)
        ledger = PostgresLedger(pool)
        facts, _ = await ledger.versions([])
        access = Access(PostgresKeys(pool), prepared.secret, facts)
        coherence = Coherence(SlotTable.open(site.slots), ledger, facts, clock, access.learned)
        log = PostgresAccessLog(pool)
        heat = Heat(log, clock)
        answers = _answers(config, coherence, heat, clock)
        limits = Limits(config.limits, prepared.dimensions)
        cursors = Cursors(prepared.secret, lambda: coherence.facts.lineage)
        shards = _shards(config, prepared, lambda: coherence.facts.lineage)
        executor = stack.enter_context(ThreadPoolExecutor(WARM_THREADS, thread_name_prefix="memfast-warm"))
        rebuilder = stack.enter_context(
            ThreadPoolExecutor(1, thread_name_prefix="memfast-rebuild", initializer=lower_priority)
        )
        warm = Warm(
            shards,
            store,
            coherence,
            executor,
            rebuilder,
            prepared.dimensions,
            config.index.flat_limit,
            clock,
        )
        pressure = _pressure(config, answers, shards)
        recall = Recall(store, embedder, answers, warm, heat, coherence, limits, cursors, clock)
        warmup = Warmup(log, warm, recall)
        writer = Writer(store, coherence, warm, prepared.dimensions)
        stack.push_async_callback(writer.drain, config.server.stop_timeout_s)
        for task in (
            coherence.watch(config.postgres.watch_interval_s),
            pressure.watch(config.memory.watch_interval_s),
            _keep_life(site, coherence),
            heat.watch(),
            warmup.start(config.index.start_users, config.index.start_queries),
            _load(embedder),
        ):
            stack.push_async_callback(_cancel, asyncio.create_task(task))
        yield Services(
            access=access,
            answers=answers,
            coherence=coherence,
            embedder=embedder,
            warm=warm,
            shards=shards,
            warmup=warmup,
            pressure=pressure,
            remember=Remember(writer, embedder, limits, Identifiers(clock, secrets.randbits), clock),
            recall=recall,
            forget=Forget(writer, clock),
            directory=Directory(store, limits, cursors),
            health=Health(store, embedder, clock),
            limits=limits,
            clock=clock,
        )


def _cached_embedder(config: Config, clock: Clock) -> CachedEmbedder:
    embedder = build_embedder(config.embedding)
    cache = config.cache
    kept = ByteCache(
        max(64, cache.embedding_entries) * (4 * embedder.dimensions + 512),
        entry_limit=max(1, cache.embedding_entries),
        ttl_ns=int(cache.embedding_ttl_s * 1e9),
        idle_ns=int(cache.embedding_ttl_s * 1e9),
    )
    return CachedEmbedder(embedder, kept, clock)


def _answers(config: Config, coherence: Coherence, heat: Heat, clock: Clock) -> Answers:
    cache = config.cache
    capacity = cache.memory_mb * 1024 * 1024 // config.server.workers

    def share(part: float) -> ByteCache:
        return ByteCache(
            max(1, int(capacity * part)),
            entry_limit=cache.entries,
            ttl_ns=int(cache.ttl_s * 1e9),
            idle_ns=int(cache.idle_s * 1e9),
        )

    kinds: dict[Kind, ByteCache] = {kind: share(part) for kind, part in _CACHE_SHARES.items()}
    return Answers(kinds, share(_REQUESTS_SHARE), coherence, heat, clock)


def _shards(config: Config, prepared: Prepared, life: Callable[[], UUID]) -> ShardPool:
    return ShardPool(
        config.index.memory_mb * 1024 * 1024 // config.server.workers,
        snapshots=Path(config.data_dir) / "snapshots",
        life=life,
        generation=prepared.generation,
        dimensions=prepared.dimensions,
        admit_window_s=config.index.admit_window_s,
    )


def _pressure(config: Config, answers: Answers, shards: ShardPool) -> Pressure:
    budget_bytes = config.memory.budget_mb * 1024 * 1024 // config.server.workers
    return Pressure(budget_bytes, resident_bytes, (answers, shards), give_back)


async def _open_pool(config: Config, address: dict[str, Any], size: PoolSize) -> Pool:
    return await Pool.open(
        address,
        size,
        acquire_timeout_s=config.postgres.acquire_timeout_s,
        connect_timeout_s=config.postgres.connect_timeout_s,
        command_timeout_s=config.postgres.command_timeout_s,
        idle_lifetime_s=config.postgres.idle_lifetime_s,
    )


async def _load(embedder: Embedder) -> None:
    """Load the model while the first requests arrive, so that none of them waits for all of it."""
    try:
        await embedder.check()
    except MemfastError as error:
        _log.warning("the embedder is not ready: %s", error)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def inspect_external(config: Config) -> ServerFacts:
    """Check the configured external PostgreSQL without changing it.

    Raises:
        DatabaseRefused: with what is wrong and what to do.
    """
    connection = await _connect(config, {"dsn": config.postgres.dsn})
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
    with _attached(config, report) as address:
        await _prepare_new(config, address, report)
        pool = await _open_pool(config, address, PoolSize(1, 1))
        try:
            return await work(Keyring(PostgresKeys(pool), SystemClock()))
        finally:
            await pool.close(5.0)


async def _prepare_new(config: Config, address: dict[str, Any], report: Reporter) -> None:
    """Make a database ready that no service has used yet; any other stays as it is."""
    connection = await _connect(config, address)
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
    with _attached(config, report) as address:
        connection = await _connect(config, address)
        try:
            prepared = await read_prepared(connection)
        finally:
            await connection.close()
        if prepared is None:
            raise CommandFailed("the database has not been prepared by this release; run `memfast migrate` first")
        pool = await _open_pool(config, address, PoolSize(1, 2))
        try:
            store = _store(pool, prepared)
            shards = _shards(config, prepared, lambda: prepared.lineage)
            return await work(SnapshotWriter(PostgresAccessLog(pool), store, shards))
        finally:
            await pool.close(5.0)


def _store(pool: Pool, prepared: Prepared) -> PostgresStore:
    return PostgresStore(
        pool,
        generation=prepared.generation,
        dimensions=prepared.dimensions,
        schema=prepared.schema,
        facts=prepared.facts,
    )


@contextmanager
def _attached(config: Config, report: Reporter) -> Iterator[dict[str, Any]]:
    """The address of a database that may be in use: the external one, a running service's, or one started for this."""
    if config.postgres.dsn:
        yield {"dsn": config.postgres.dsn}
        return
    endpoint = Cluster(Path(config.data_dir), report=report).running()
    if endpoint is not None:
        yield dict(endpoint.connect_arguments())
        return
    with _address(config, report) as address:
        yield address
