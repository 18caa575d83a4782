"""Connections to PostgreSQL: the pool, its codecs, and the one place where driver errors become ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import numpy as np
from msgspec import Raw, Struct
from numpy.typing import NDArray

from memfast.errors import DatabaseRefused, DeadlineExceeded, MemfastError, StoreFull, StoreUnavailable
from memfast.store.queries import WRITE

__all__ = [
    "Pool",
    "PoolSize",
    "ServerFacts",
    "connect",
    "decode_vectors",
    "inspect_server",
    "pool_size",
    "translated",
]

MINIMUM_POSTGRES = 160_000
MINIMUM_PGVECTOR = (0, 8, 4)

_UNREACHABLE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
)
_ROW_HEADER_BYTES = 4


class PoolSize(Struct, frozen=True):
    """Connections of one worker: kept open, and at most."""

    minimum: int
    maximum: int


def pool_size(minimum: int, maximum: int, *, workers: int, embedded: bool) -> PoolSize:
    """Split the service's connections over its workers; 0 stands for the default of the kind of server."""
    least, most = (4 * workers, 4 * workers) if embedded else (20, 100)
    most = maximum or max(most, minimum)
    least = min(minimum or least, most)
    return PoolSize(max(1, least // workers), max(1, most // workers))


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn the driver's errors into ours. What is not listed here is a bug and stays what it is."""
    try:
        yield
    except asyncpg.DiskFullError as error:
        raise StoreFull(
            "PostgreSQL has no disk space left; nothing was written. Free space, then repeat the request",
            retry_after_s=30,
        ) from error
    except asyncpg.QueryCanceledError as error:
        raise DeadlineExceeded("PostgreSQL cancelled the statement: it ran longer than the limit") from error
    except TimeoutError as error:
        raise DeadlineExceeded("PostgreSQL did not answer within the limit of one statement") from error
    except _UNREACHABLE as error:
        raise StoreUnavailable(f"PostgreSQL cannot serve the request now ({type(error).__name__})") from error


def _encode_vector(vector: NDArray[np.float32]) -> bytes:
    return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(">f4").tobytes()


def decode_vectors(values: list[bytes], dimensions: int) -> NDArray[np.float32]:
    """Vectors as PostgreSQL sends them, to float32 (len(values), dimensions), native byte order."""
    width = _ROW_HEADER_BYTES + 4 * dimensions
    raw = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), width)
    big_endian = np.ascontiguousarray(raw[:, _ROW_HEADER_BYTES:]).view(">f4")
    return big_endian.astype(np.float32)


async def _register_codecs(connection: Any) -> None:
    schema = await connection.fetchval(WRITE.vector_schema)
    if schema is not None:
        await connection.set_type_codec("vector", schema=schema, encoder=_encode_vector, decoder=bytes, format="binary")
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=Raw, format="binary")


async def _keep_session(_connection: Any) -> None:
    """Nothing in a pooled session is ever changed, so there is nothing to reset: saves a round trip per use."""


def _session_settings(command_timeout_s: float) -> dict[str, str]:
    statement_ms = str(int(command_timeout_s * 1000))
    return {
        "application_name": "memfast",
        "timezone": "UTC",
        "jit": "off",
        "random_page_cost": "1.1",
        "effective_cache_size": "4GB",
        "statement_timeout": statement_ms,
        "lock_timeout": statement_ms,
        "idle_in_transaction_session_timeout": "30000",
        "client_connection_check_interval": "1000",
        "synchronous_commit": "on",
    }


async def connect(arguments: dict[str, Any], *, connect_timeout_s: float, command_timeout_s: float) -> Any:
    """One connection with the pool's codecs and settings, for start-up work and commands.

    Raises:
        DatabaseRefused: the server cannot be reached or refuses the login.
    """
    try:
        connection = await asyncpg.connect(
            **arguments,
            timeout=connect_timeout_s,
            command_timeout=command_timeout_s,
            server_settings=_session_settings(command_timeout_s),
        )
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = str(error) or type(error).__name__
        raise DatabaseRefused(f"PostgreSQL cannot be reached: {reason}") from error
    await _register_codecs(connection)
    return connection


class ServerFacts(Struct, frozen=True):
    """What the server said of itself when it was checked."""

    server_version: str
    pgvector_version: str
    connections: int


async def inspect_server(connection: Any) -> ServerFacts:
    """Check that a server can be the store of record.

    Raises:
        DatabaseRefused: with what is wrong and what to do.
    """
    row = await connection.fetchrow(WRITE.server_facts)
    version = row["server_version"].split()[0]
    if row["version_number"] < MINIMUM_POSTGRES:
        raise DatabaseRefused(f"PostgreSQL {version} is too old: memfast needs 16 or newer; upgrade the server")
    if row["encoding"] != "UTF8":
        raise DatabaseRefused(f"the database's encoding is {row['encoding']}; create it with ENCODING 'UTF8'")
    if row["replica"]:
        raise DatabaseRefused("the server is a replica; postgres.dsn must name the primary")
    off = [name for name in ("fsync", "full_page_writes") if row[name] != "on"]
    if off:
        raise DatabaseRefused(
            f"the server runs with {' and '.join(off)} off: an acknowledged write could be lost; turn it on"
        )
    pgvector = row["pgvector_installed"] or row["pgvector_available"]
    if pgvector is None:
        raise DatabaseRefused("the server has no pgvector; install pgvector 0.8.4 or newer on its host")
    if tuple(int(part) for part in pgvector.split(".")[:3]) < MINIMUM_PGVECTOR:
        raise DatabaseRefused(
            f"pgvector {pgvector} is too old: memfast needs 0.8.4 or newer; install it and "
            "run ALTER EXTENSION vector UPDATE in the database"
        )
    return ServerFacts(version, pgvector, row["connections"])


class Pool:
    """A bounded pool of prepared connections. Waiting for one is bounded too."""

    def __init__(self, pool: Any, acquire_timeout_s: float) -> None:
        self._pool = pool
        self._acquire_timeout_s = acquire_timeout_s

    @classmethod
    async def open(
        cls,
        arguments: dict[str, Any],
        size: PoolSize,
        *,
        acquire_timeout_s: float,
        connect_timeout_s: float,
        command_timeout_s: float,
        idle_lifetime_s: float,
    ) -> Pool:
        """Open the pool with its minimum of connections established.

        Raises:
            DatabaseRefused: the server cannot be reached.
        """
        try:
            pool = await asyncpg.create_pool(
                **arguments,
                min_size=size.minimum,
                max_size=size.maximum,
                max_queries=2**31,  # reconnecting by count would only throw prepared statements away
                max_inactive_connection_lifetime=idle_lifetime_s,
                max_cached_statement_lifetime=0,
                timeout=connect_timeout_s,
                command_timeout=command_timeout_s,
                server_settings=_session_settings(command_timeout_s),
                init=_register_codecs,
                reset=_keep_session,
            )
        except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseRefused(f"PostgreSQL cannot be reached: {error}") from error
        return cls(pool, acquire_timeout_s)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection, with driver errors translated.

        Raises:
            StoreUnavailable: none was free in time, or the server is away.
        """
        async with translated():
            try:
                connection = await self._pool.acquire(timeout=self._acquire_timeout_s)
            except TimeoutError as error:
                raise StoreUnavailable(
                    f"no database connection became free within {self._acquire_timeout_s:g} s"
                ) from error
            try:
                yield connection
            finally:
                await asyncio.shield(self._pool.release(connection))

    @property
    def size(self) -> int:
        """Connections that are open."""
        return int(self._pool.get_size())

    @property
    def idle(self) -> int:
        """Connections that nobody uses."""
        return int(self._pool.get_idle_size())

    @property
    def limit(self) -> int:
        """Connections at most."""
        return int(self._pool.get_max_size())

    async def close(self, timeout_s: float) -> None:
        """Close every connection, waiting at most `timeout_s` for those in use."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._pool.close()
        except (TimeoutError, MemfastError):
            self._pool.terminate()
