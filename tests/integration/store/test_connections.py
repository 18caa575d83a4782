"""Connections to a real server: what is bounded, what is checked, and how the driver's errors come out."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import asyncpg
import numpy as np
import pytest

from memfast import bootstrap
from memfast.config import load
from memfast.errors import DatabaseRefused, DeadlineExceeded, Overloaded, StoreFull, StoreUnavailable
from memfast.store import pool as pool_module
from memfast.store.codecs import decode_vectors
from memfast.store.pool import Pool, PoolSize, connect, pool_size, translated
from memfast.store.server import inspect_server

NOBODY = {"host": "127.0.0.1", "port": 1, "user": "memfast", "database": "memfast"}
GOOD = {
    "version_number": 180_001,
    "server_version": "18.1 (somewhere)",
    "encoding": "UTF8",
    "connections": 97,
    "replica": False,
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "pgvector_installed": "0.8.4",
    "pgvector_available": "0.9",
}


@pytest.fixture(scope="module")
def address():
    """Arguments for a connection to a server with the schema in it."""
    base = Path(tempfile.mkdtemp(dir="/tmp", prefix="mf-"))  # not pytest's: as root, PostgreSQL is another user
    base.chmod(0o755)
    flags = {"data_dir": str(base / "data"), "embedding.provider": "none", "embedding.dimensions": 4}
    with bootstrap.ground(load({}, flags=flags).config, lambda line: None) as site:
        yield site.address
    shutil.rmtree(base, ignore_errors=True)


async def opened(address, *, maximum=1, acquire_timeout_s=0.05, command_timeout_s=5.0):
    """A pool."""
    return await Pool.open(
        address,
        PoolSize(1, maximum),
        acquire_timeout_s=acquire_timeout_s,
        connect_timeout_s=5.0,
        command_timeout_s=command_timeout_s,
        idle_lifetime_s=60.0,
    )


@pytest.mark.parametrize(
    ("asked", "workers", "embedded", "wanted"),
    [
        ((0, 0), 2, True, (4, 4)),
        ((0, 0), 2, False, (10, 50)),
        ((6, 6), 4, False, (1, 1)),
        ((120, 0), 2, False, (60, 60)),
        ((8, 4), 1, True, (4, 4)),
        ((1, 1), 4, True, (1, 1)),
    ],
)
def test_a_services_connections_are_split_over_its_workers(asked, workers, embedded, wanted):
    """Each has one at least; the maximum bounds the minimum."""
    assert pool_size(*asked, workers=workers, embedded=embedded) == PoolSize(*wanted)


async def test_waiting_for_a_connection_is_bounded(address):
    """When all are in use the caller learns that, and the pool counts what it has."""
    pool = await opened(address)
    try:
        async with pool.connection():
            assert (pool.size, pool.idle, pool.limit) == (1, 0, 1)
            with pytest.raises(Overloaded, match=r"became free within 0\.05 s"):
                async with pool.connection():
                    pass
        assert pool.idle == 1
    finally:
        await pool.close(5.0)


async def test_a_statement_is_bounded(address):
    """By the server and by the driver, both of which say the same to us."""
    pool = await opened(address, command_timeout_s=0.2)
    try:
        with pytest.raises(DeadlineExceeded):
            async with pool.connection() as connection:
                await connection.execute("SELECT pg_sleep(10)")
        async with pool.connection() as connection:
            assert await connection.fetchval("SELECT 1") == 1
    finally:
        await pool.close(5.0)


async def test_vectors_go_in_and_come_out_bit_by_bit(address):
    """Through our own codec, in any shape of the exponent."""
    wanted = np.array([1.0, -0.0, 3.4e38, 1e-45], np.float32)
    connection = await connect(address, connect_timeout_s=5.0, command_timeout_s=5.0)
    try:
        raw = await connection.fetchval("SELECT $1::vector", wanted)
        assert decode_vectors([raw, raw], 4).tobytes() == wanted.tobytes() * 2
        assert decode_vectors([], 4).shape == (0, 4)
        assert bytes(await connection.fetchval("SELECT $1::json", b'{"a": 1}')) == b'{"a": 1}'
    finally:
        await connection.close()


async def test_a_pool_that_does_not_end_is_ended(address):
    """A connection that somebody holds does not hold the stop."""
    pool = await opened(address)
    async with asyncio.timeout(10):
        async with pool.connection() as connection:
            await pool.close(0.05)
            with pytest.raises(StoreUnavailable):
                async with translated():
                    await connection.fetchval("SELECT 1")


async def test_a_connection_that_nobody_waits_for_any_more_is_closed(address, monkeypatch):
    """Whoever asked for it has gone while it was made ready."""
    opened = []

    async def stays(connection):
        opened.append(connection)
        await asyncio.Event().wait()

    monkeypatch.setattr(pool_module, "register_codecs", stays)
    asking = asyncio.create_task(connect(address, connect_timeout_s=5, command_timeout_s=5))
    async with asyncio.timeout(10):
        while not opened:
            await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert opened[0].is_closed()


async def test_nobody_there(address):
    """A command and a worker are told what was tried."""
    with pytest.raises(DatabaseRefused, match="cannot be reached"):
        await connect(NOBODY, connect_timeout_s=1.0, command_timeout_s=1.0)
    with pytest.raises(DatabaseRefused, match="cannot be reached"):
        await opened(NOBODY)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (asyncpg.DiskFullError("full"), StoreFull),
        (asyncpg.QueryCanceledError("late"), DeadlineExceeded),
        (TimeoutError(), DeadlineExceeded),
        (ConnectionResetError(), StoreUnavailable),
        (asyncpg.InterfaceError("closed"), StoreUnavailable),
        (asyncpg.ReadOnlySQLTransactionError("replica"), StoreUnavailable),
        (asyncpg.PostgresIOError("a disk that fails"), StoreUnavailable),
        (asyncpg.UniqueViolationError("ours"), asyncpg.UniqueViolationError),
        (ValueError("ours"), ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
async def test_the_drivers_errors_become_ours(given, wanted):
    """What is not listed is a fault and stays what it is."""
    with pytest.raises(wanted):
        async with translated():
            raise given


class Told:
    """A connection to a server that says of itself what it was told."""

    def __init__(self, **facts):
        self.facts = GOOD | facts

    async def fetchrow(self, _query):
        return self.facts


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"version_number": 150_009, "server_version": "15.9"}, "15.9 is too old"),
        ({"encoding": "SQL_ASCII"}, "ENCODING 'UTF8'"),
        ({"replica": True}, "must name the primary"),
        ({"fsync": "off", "full_page_writes": "off"}, "fsync and full_page_writes off"),
        ({"pgvector_installed": None, "pgvector_available": None}, "has no pgvector"),
        ({"pgvector_installed": "0.8.3"}, r"0\.8\.3 is too old"),
    ],
)
async def test_a_server_that_cannot_be_the_store_is_refused(facts, reason):
    """With what is wrong."""
    with pytest.raises(DatabaseRefused, match=reason):
        await inspect_server(Told(**facts))


async def test_a_good_server_is_described(address):
    """The installed pgvector counts, else the one that could be installed."""
    told = await inspect_server(Told(pgvector_installed=None))
    assert (told.server_version, told.pgvector_version, told.connections) == ("18.1", "0.9", 97)
    connection = await connect(address, connect_timeout_s=5.0, command_timeout_s=5.0)
    try:
        assert (await inspect_server(connection)).connections > 0
    finally:
        await connection.close()
