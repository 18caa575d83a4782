"""A server that is stopped, crashes, or has no room left: the caller is told the truth, and it goes on by itself."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import numpy as np
import pytest

from memfast.errors import StoreFull, StoreUnavailable, Unavailable
from memfast.model import Listing
from memfast.store.embedded import Cluster

NOW = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def server(new_server, session_base):
    """A server of this module's own, which it may stop and kill."""
    cluster = Cluster(session_base / "outage", major=18)
    yield new_server(cluster)
    cluster.stop()


async def retried(work, timeout_s=20.0):
    """The result of a coroutine function, once it no longer raises StoreUnavailable."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return await work()
        except StoreUnavailable:
            assert time.monotonic() < deadline, "it did not recover"
            await asyncio.sleep(0.05)


async def test_a_stopped_server_is_unavailable_and_the_pool_recovers(server, open_store, new_create, scope):
    """Reads and writes are refused at once while it is away; after a restart the same pool works."""
    async with open_store(size=3) as store:
        kept = (await store.apply([new_create()], now=NOW))[0]
        await asyncio.to_thread(server.cluster.stop)
        for _ in range(5):
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.get(scope, [kept.id], now=NOW)
            with pytest.raises(StoreUnavailable):
                await store.apply([new_create()], now=NOW)
            with pytest.raises(StoreUnavailable):
                await store.check()
            assert time.monotonic() - started < 10
        await asyncio.to_thread(server.cluster.start)
        memories, version = await retried(lambda: store.get(scope, [kept.id], now=NOW))
        assert (list(memories), version) == ([kept.id], 1)
        assert (await store.apply([new_create()], now=NOW))[0].version == 2


def crash(server):
    """End the server as a power cut would, and start it again."""
    child = server.cluster._child
    os.kill(child.pid, signal.SIGQUIT)
    child.wait()
    server.cluster._child = None
    server.cluster.start()


@pytest.mark.parametrize("reused", [0, 50])
async def test_a_crash_at_commit_is_never_a_success(
    server, database, open_store, proxy, new_create, ids_of, scope, reused
):
    """The server loses the transaction in a crash and gives its number to others that commit: still no success."""
    admin = await asyncpg.connect(**server.endpoint.connect_arguments())
    await admin.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")  # what is not committed stays in memory
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()

    async def interrupt():
        await asyncio.to_thread(crash, server)
        other = await asyncpg.connect(server.dsn(database))
        for _ in range(reused):
            await other.execute("UPDATE database SET singleton = singleton")
        await other.close()

    async with open_store(server.dsn(database, proxy.folder), size=1) as store:
        await store.check()
        proxy.at_commit = interrupt
        with pytest.raises(Unavailable) as refused:
            await store.apply([new_create()], now=NOW)
        assert refused.value.slug in {"store-unavailable", "outcome-unknown"}
        assert await retried(lambda: ids_of(store, scope)) == set()


async def test_a_clean_restart_at_commit_leaves_no_doubt(
    server, database, open_store, proxy, new_create, ids_of, scope
):
    """Committed, then stopped and started in order before the client heard: a success."""

    async def restart():
        await asyncio.to_thread(server.cluster.stop)
        await asyncio.to_thread(server.cluster.start)

    async with open_store(server.dsn(database, proxy.folder), size=1) as store:
        await store.check()
        proxy.at_commit, proxy.after_commit = "after", restart
        change = new_create()
        assert (await store.apply([change], now=NOW))[0].status == "created"
        assert await ids_of(store, scope) == {change.memory.id}


async def test_a_full_disk_as_the_server_reports_it(server, site, open_store, new_create, ids_of, scope):
    """SQLSTATE 53100: 507, nothing of the batch is written, reads go on, and so do writes once there is room."""
    async with open_store(size=2) as store:
        kept = new_create()
        await store.apply([kept], now=NOW)
        admin = await asyncpg.connect(site.config.postgres.dsn)
        await admin.execute(
            """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
               CREATE TRIGGER full_disk BEFORE INSERT ON memory_vectors FOR EACH ROW EXECUTE FUNCTION full_disk()"""
        )
        for count in (1, 20):
            with pytest.raises(StoreFull) as refused:
                await store.apply([new_create() for _ in range(count)], now=NOW)
            assert (refused.value.status, refused.value.retry_after_s) == (507, 30)
        assert await ids_of(store, scope) == {kept.memory.id}
        assert len((await store.list(scope, Listing(limit=10), now=NOW)).memories) == 1
        await admin.execute("DROP TRIGGER full_disk ON memory_vectors; DROP FUNCTION full_disk()")
        await admin.close()
        assert (await store.apply([new_create()], now=NOW))[0].version == 2


@pytest.fixture
def small_disk(server, session_base):
    """A file system of 6 MiB that belongs to the server's user, with a file on it that can make room."""
    folder = session_base / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount, "-t", "tmpfs", "-o", "size=6m,mode=0755", "tmpfs", folder]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        folder.rmdir()
        pytest.skip("this system lets nobody mount")
    try:
        (folder / "filler").write_bytes(bytes(3 * 1024 * 1024))
        place = folder / "space"
        place.mkdir(mode=0o700)
        owner = Path(server.cluster._layout.pgdata).stat()
        os.chown(place, owner.st_uid, owner.st_gid)
        yield folder
    finally:
        subprocess.run([shutil.which("umount"), "-l", folder], check=True)


async def test_a_disk_that_is_really_full(server, site, small_disk, open_store, new_create, ids_of, scope):
    """The tables lie on a disk that fills up: 507 at the end, every acknowledged memory stands, room helps at once."""
    admin = await asyncpg.connect(site.config.postgres.dsn)
    await admin.execute(f"CREATE TABLESPACE small LOCATION '{small_disk / 'space'}'")
    for table in ("memories", "memory_vectors"):
        await admin.execute(f"ALTER TABLE {table} SET TABLESPACE small")
    async with open_store(size=2) as store:
        stood = set()
        random = np.random.default_rng(1)

        async def fill():
            for _ in range(300):
                change = new_create(text=random.bytes(24_000).hex())
                await store.apply([change], now=NOW)
                stood.add(change.memory.id)

        with pytest.raises(StoreFull):
            await fill()
        assert len(stood) > 10
        assert await ids_of(store, scope) == stood
        memories, version = await store.get(scope, list(stood), now=NOW)
        assert (set(memories), version) == (stood, len(stood))
        assert len((await store.nearest(scope, new_create().vector, 1000, now=NOW)).memories) == len(stood)
        (small_disk / "filler").unlink()
        assert (await store.apply([new_create(text="y" * 40_000)], now=NOW))[0].version == len(stood) + 1
    for table in ("memories", "memory_vectors"):
        await admin.execute(f"ALTER TABLE {table} SET TABLESPACE pg_default")
    await admin.execute("DROP TABLESPACE small")
    await admin.close()
