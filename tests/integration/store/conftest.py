"""A store over a real database, and a proxy before it that breaks a connection where a test says."""

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

sys.path.insert(0, str(Path(__file__).parents[3]))  # `bench` stands beside `tests` and is not installed

from bench.harness.proxy import AtCommit, Proxy

from memfast.model import Create, Scope, derive_scope_id
from memfast.store.pool import Pool, PoolSize
from memfast.store.postgres import PostgresStore
from memory_world import memory_of

_world = Path(__file__).parents[2] / "unit" / "store" / "changes_world.py"
_spec = importlib.util.spec_from_file_location("changes_world", _world)
_module = importlib.util.module_from_spec(_spec)
sys.modules["changes_world"] = _module
_spec.loader.exec_module(_module)

DIMENSIONS = 8
NOW = datetime(2025, 1, 1, tzinfo=UTC)


class CommitProxy(Proxy):
    """On a socket of its own before a server. `at_commit` says what happens to the next COMMIT, `always` to all.

    See `bench.harness.proxy.AtCommit`; at "after" `after_commit` runs in between. A coroutine function instead: it
    runs, then the connection breaks and the server never sees the COMMIT.
    """

    def __init__(self, folder, target):
        super().__init__(target, folder / ".s.PGSQL.5432")
        self.folder = folder
        self.at_commit = self.always = self.after_commit = self._hook = None
        self._fault = AtCommit(self._choose, self._meanwhile)
        self.faults.append(self._fault)

    @property
    def commits(self):
        """How many COMMITs came by."""
        return self._fault.commits

    def _choose(self):
        mode, self.at_commit = self.at_commit or self.always, None
        if callable(mode):
            self._hook = mode
            return "before"
        self._hook, self.after_commit = self.after_commit, None
        return mode

    async def _meanwhile(self):
        if self._hook is not None:
            await self._hook()


@pytest_asyncio.fixture
async def proxy(server):
    """A proxy before the module's server."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="mfp-"))
    try:
        async with CommitProxy(folder, server.endpoint.socket_dir / f".s.PGSQL.{server.endpoint.port}") as running:
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
        memory = memory_of(NOW, id=target or uuid4(), user_id=owner.user_id, text=text)
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
