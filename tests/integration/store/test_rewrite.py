"""Rewriting a database: what was deleted is in no file of it, also not compressed, and nobody still sees it."""

import contextlib
import random
import string

import asyncpg
import pytest

from memfast.errors import CommandFailed
from memfast.model import Scope, derive_scope_id
from memfast.store import rewrite
from memfast.store.leftovers import needles_of, prepare_files, search_file
from memfast.store.rewrite import rewrite_database

RNG = random.Random(3)
ADA = Scope(derive_scope_id(b"k", "default", "ada"), "default", "ada")
NOISE = "".join(RNG.choices(string.ascii_letters, k=9000))
REPEATED = f"The quick {NOISE[:24]} fox " + "jumps over the lazy dog. " * 1000


@contextlib.asynccontextmanager
async def connected(dsn, count):
    """Connections of a test's own."""
    connections = [await asyncpg.connect(dsn) for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            await connection.close()


@pytest.fixture
def dsn(server):
    """A new database with a table that says something twice: as it is, and compressed."""
    return server.new_database()


async def fill(connection):
    """Make the table."""
    await connection.execute("CREATE TABLE said (text text)")
    await connection.executemany("INSERT INTO said VALUES ($1)", [(NOISE,), (REPEATED,), ("by ada",), ("by bob",)])
    await connection.execute("ANALYZE said")
    sizes = await connection.fetch("SELECT pg_column_size(text) FROM said")
    assert sizes[1][0] < len(REPEATED) / 5


async def files_that_say(server, connection, text):
    """The names of what lies in the files that hold a part of a text."""
    names = await prepare_files(connection)
    root = server.cluster._layout.pgdata
    wanted = needles_of(ADA, [text]).texts
    found = set()
    for path, (name, _owner) in names.items():
        if search_file(root / path, wanted):
            found.add(name)
    return found


async def test_nothing_of_it_is_in_any_file(server, dsn):
    """Neither in the table nor in its TOAST nor among the planner's samples, where it was until then."""
    lines = []
    async with connected(dsn, 2) as (connection, observer):
        await fill(connection)
        assert len(await files_that_say(server, connection, NOISE)) == 1
        assert len(await files_that_say(server, connection, REPEATED)) == 1
        assert "pg_statistic" in await files_that_say(server, connection, "by ada")
        await connection.execute("DELETE FROM said")
        for text in (NOISE, REPEATED):
            assert await files_that_say(server, connection, text)
        await rewrite_database(connection, observer, lines.append, log_too=True)
        for text in (NOISE, REPEATED, "by ada"):
            assert await files_that_say(server, connection, text) == set()
        log = [path for path in (server.cluster._layout.pgdata / "pg_wal").iterdir() if path.is_file()]
        assert not [path for path in log if search_file(path, needles_of(ADA, [NOISE]).texts)]
        assert await connection.fetchval("SELECT count(*) FROM pg_stats WHERE tablename = 'said'") == 0
    assert lines


async def test_a_transaction_of_before_is_waited_for(server, dsn, monkeypatch):
    """What it sees VACUUM would keep: rather than promise too much, the command says who is in the way."""
    monkeypatch.setattr(rewrite, "_SNAPSHOTS_S", 0.1)
    monkeypatch.setattr(rewrite, "_POLL_S", 0.01)
    lines = []
    async with connected(dsn, 3) as (connection, observer, old):
        await fill(connection)
        transaction = old.transaction(isolation="repeatable_read", readonly=True)
        await transaction.start()
        assert await old.fetchval("SELECT count(*) FROM said") == 4
        await connection.execute("DELETE FROM said")
        with pytest.raises(CommandFailed, match="1 transactions that began before"):
            await rewrite_database(connection, observer, lines.append, log_too=False)
        assert "waiting for 1 transactions" in lines[0]
        await transaction.rollback()
        await rewrite_database(connection, observer, lines.append, log_too=False)
        assert await files_that_say(server, connection, NOISE) == set()
