"""A store over a real database, and a proxy before it that breaks a connection where a test says."""

import asyncio
import contextlib
import importlib.util
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import pytest
import pytest_asyncio

from memfast.model import EMPTY_OBJECT, Create, Memory, Scope, derive_scope_id
from memfast.store.pool import Pool, PoolSize
from memfast.store.postgres import PostgresStore

_world = Path(__file__).parents[2] / "unit" / "store" / "changes_world.py"
_spec = importlib.util.spec_from_file_location("changes_world", _world)
_module = importlib.util.module_from_spec(_spec)
sys.modules["changes_world"] = _module
_spec.loader.exec_module(_module)

DIMENSIONS = 8
NOW = datetime(2025, 1, 1, tzinfo=UTC)


class Proxy:
    """Between client and server, on a socket of its own. `at_commit` says what happens to the next COMMIT.

    before: the connection breaks and the server never sees it. after: the server commits, the answer is lost with the
    connection (and `after_commit` runs in between). silent: the server commits, the answer never comes. withheld: neither side hears anything any more. A
    coroutine function: it runs, then the connection breaks and the server never sees the COMMIT.
    """

    def __init__(self, folder, target):
        self.at_commit = None
        self.after_commit = None
        self.commits = 0
        self._target = target
        self._path = folder / ".s.PGSQL.5432"
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_details):
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, from_client, to_client):
        from_server, to_server = await asyncio.open_unix_connection(self._target)
        self._writers |= {to_client, to_server}
        state = {"muted": False, "cut": False}
        with contextlib.suppress(OSError):
            await asyncio.gather(
                self._up(from_client, to_server, to_client, state), self._down(from_server, to_client, state)
            )
        for writer in (to_client, to_server):
            writer.close()

    async def _up(self, from_client, to_server, to_client, state):
        while data := await from_client.read(65536):
            if b"COMMIT;\0" in data:
                self.commits += 1
                mode, self.at_commit = self.at_commit, None
                if callable(mode):
                    await mode()
                    break
                if mode == "before":
                    break
                state["cut"] = mode == "after"
                state["muted"] = mode in {"silent", "withheld"}
                if mode == "withheld":
                    continue
            to_server.write(data)
            await to_server.drain()
        to_server.close()
        to_client.close()

    async def _down(self, from_server, to_client, state):
        while data := await from_server.read(65536):
            if state["cut"]:
                hook, self.after_commit = self.after_commit, None
                if hook is not None:
                    await hook()
                break
            if not state["muted"]:
                to_client.write(data)
                await to_client.drain()
        to_client.close()


@pytest_asyncio.fixture
async def proxy(server):
    """A proxy before the module's server."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="mfp-"))
    try:
        async with Proxy(folder, server.endpoint.socket_dir / f".s.PGSQL.{server.endpoint.port}") as running:
            running.folder = folder
            yield running
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def database():
    """The name of the module's database."""
    return f"store_{uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def site(server, make_site, database):
    """A new database, prepared for vectors of eight numbers."""
    dsn = server.new_database(database)
    return make_site(dsn, embedding__provider="none", embedding__dimensions=DIMENSIONS)


@pytest.fixture
def open_store(site):
    """Function: a store over a pool of its own, as an async context manager; its pool is `store._pool`."""

    @contextlib.asynccontextmanager
    async def opened(dsn=None, size=4, acquire_timeout_s=2.0, command_timeout_s=5.0):
        pool = await Pool.open(
            {"dsn": dsn or site.config.postgres.dsn},
            PoolSize(1, size),
            acquire_timeout_s=acquire_timeout_s,
            connect_timeout_s=5.0,
            command_timeout_s=command_timeout_s,
            idle_lifetime_s=300.0,
        )
        prepared = site.prepared
        try:
            yield PostgresStore(
                pool,
                generation=prepared.generation,
                dimensions=prepared.dimensions,
                schema=prepared.schema,
                facts=prepared.facts,
            )
        finally:
            await pool.close(5.0)

    return opened


@pytest_asyncio.fixture
async def store(open_store):
    """A store of four connections."""
    async with open_store() as opened:
        yield opened


@pytest.fixture
def scope(site):
    """The scope of a new user."""
    name = f"user {uuid4()}"
    return Scope(derive_scope_id(site.prepared.secret, "default", name), "default", name)


@pytest.fixture
def new_create(scope):
    """Function: a create for a scope, with a random vector."""

    def create(target=None, owner=scope, text="text", **fields):
        vector = np.random.default_rng().standard_normal(DIMENSIONS)
        memory = Memory(
            id=target or uuid4(),
            user_id=owner.user_id,
            text=text,
            kind="fact",
            tags=[],
            entities=[],
            importance=0.5,
            metadata=EMPTY_OBJECT,
            agent_id=None,
            run_id=None,
            source=None,
            created_at=NOW,
            updated_at=NOW,
            expires_at=None,
            version=0,
        )
        vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        return Create(scope=owner, memory=memory, vector=vector, **fields)

    return create


@pytest.fixture
def ids_of():
    """Function: the ids that a scope has now, by asking the database."""

    async def ids(store, scope):
        async with store._pool.connection() as connection:
            rows = await connection.fetch("SELECT id FROM memories WHERE scope_id = $1", scope.id)
        return {UUID(str(row["id"])) for row in rows}

    return ids
