"""What the catalogue says is what the migrations made, and indexes come back while the database is used."""

import asyncio

import asyncpg
import pytest

from memfast.errors import CommandFailed
from memfast.store.catalogue import analyze_tables, make_indexes, planned_indexes, read_database
from memfast.store.migrate import load_migrations

INDEXES = """SELECT c.relname, pg_get_indexdef(c.oid), i.indisvalid FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
    WHERE t.relnamespace = 'public'::regnamespace AND t.relname <> 'schema_migrations'
    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid) ORDER BY c.relname"""


@pytest.fixture
async def connection(server, make_site):
    """A connection to a database that was just prepared."""
    dsn = server.new_database()
    make_site(dsn)
    opened = await asyncpg.connect(dsn)
    try:
        yield opened
    finally:
        await opened.close()


def states(database):
    """Every planned index, and how it stands."""
    return {index.name: index.state for index in database.indexes}


async def test_the_planned_indexes_are_those_that_the_migrations_make(connection):
    """Read from the files, by name and table: none is missing, none invented, none that was dropped again."""
    planned = planned_indexes(load_migrations())
    rows = await connection.fetch(INDEXES)
    assert sorted(each.name for each in planned) == [row["relname"] for row in rows]
    told = await read_database(connection, load_migrations())
    assert set(states(told).values()) == {"valid"}
    assert told.statements is None
    assert told.connections_free > 0


async def test_a_dropped_index_comes_back_as_it_was(connection):
    """Each of them, while a transaction that writes goes on: the same definitions as before, all valid."""
    before = await connection.fetch(INDEXES)
    names = [row["relname"] for row in before]
    for name in names:
        await connection.execute(f"DROP INDEX {name}")
    assert set(states(await read_database(connection, load_migrations())).values()) == {"missing"}
    told = []
    await make_indexes(connection, load_migrations(), names, told.append)
    assert await connection.fetch(INDEXES) == before
    assert len(told) == len(names) + 1, "the primary key of links too"


async def test_writes_go_on_while_an_index_is_made(connection, server):
    """It waits for those who write, and they do not wait for it."""
    await connection.execute("DROP INDEX memories_by_version")
    dsn = await connection.fetchval("SELECT current_database()")
    writer = await asyncpg.connect(server.dsn(dsn))
    try:
        transaction = writer.transaction()
        await transaction.start()
        insert = "INSERT INTO sweeps VALUES (now(), $1)"
        await writer.execute("LOCK TABLE memories IN ROW EXCLUSIVE MODE")
        making = asyncio.create_task(
            make_indexes(connection, load_migrations(), ["memories_by_version"], lambda _line: None)
        )
        while not await writer.fetchval("SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'memories_by_version')"):
            await asyncio.sleep(0.01)
        await writer.execute(insert, "a")
        await writer.execute("UPDATE memories SET text_hash = 1 WHERE false")
        assert not making.done()
        await transaction.commit()
        await making
    finally:
        await writer.close()
    assert set(states(await read_database(connection, load_migrations())).values()) == {"valid"}


async def test_an_invalid_index_is_made_anew(connection):
    """As a broken-off CREATE INDEX CONCURRENTLY leaves it."""
    await connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'memories_by_time'::regclass")
    assert states(await read_database(connection, load_migrations()))["memories_by_time"] == "invalid"
    await make_indexes(connection, load_migrations(), ["memories_by_time"], lambda _line: None)
    assert set(states(await read_database(connection, load_migrations())).values()) == {"valid"}


async def test_the_key_of_links_stays_the_newest_of_its_table(connection):
    """Of two indexes that look as good the planner takes the newer one, which has to be the key: see migration 0009."""
    await connection.execute("DROP INDEX links_from")
    await make_indexes(connection, load_migrations(), ["links_from"], lambda _line: None)
    oids = await connection.fetch(
        "SELECT indexrelid::regclass::text AS name FROM pg_index WHERE indrelid = 'links'::regclass ORDER BY indexrelid"
    )
    assert oids[-1]["name"] == "links_pkey"


async def test_scans_of_all_of_a_table_are_counted(connection):
    """With how long ago the last one was, and what changed since the statistics were made."""
    for _ in range(3):
        await connection.fetchval("SELECT count(*) FROM memories WHERE text_hash = 7")
    await connection.execute("INSERT INTO sweeps SELECT now(), n::text FROM generate_series(1, 50) n")
    await connection.execute("SELECT pg_stat_force_next_flush()")
    tables = {table.name: table for table in (await read_database(connection, load_migrations())).tables}
    assert tables["memories"].scans >= 3
    assert 0 <= tables["memories"].scanned_s < 600
    assert tables["history"].scanned_s is None or tables["history"].scans > 0
    assert (tables["sweeps"].rows, tables["sweeps"].changed_rows) == (50, 50)
    await analyze_tables(connection, ["sweeps"], lambda _line: None)
    await connection.execute("SELECT pg_stat_force_next_flush()")
    tables = {table.name: table for table in (await read_database(connection, load_migrations())).tables}
    assert tables["sweeps"].changed_rows == 0


async def test_statements_are_read_where_they_are_counted(connection):
    """From what has the columns of pg_stat_statements; without it nobody asks."""
    await connection.execute(
        "CREATE VIEW pg_stat_statements AS SELECT d.oid AS dbid, r.oid AS userid, E'SELECT\\n  $1' AS query,"
        " 30::bigint AS calls, 60.5::float8 AS mean_exec_time, 1815::float8 AS total_exec_time"
        " FROM pg_database d, pg_roles r WHERE d.datname = current_database()"
    )
    (statement,) = [
        each for each in (await read_database(connection, load_migrations())).statements if each.text == "SELECT $1"
    ]
    assert (statement.calls, statement.mean_ms) == (30, 60.5)


async def test_what_nobody_knows_is_refused(connection):
    """No name of another index or table is ever put into a statement."""
    with pytest.raises(CommandFailed, match="no migration makes an index x; DROP TABLE memories"):
        await make_indexes(connection, load_migrations(), ["x; DROP TABLE memories"], lambda _line: None)
    with pytest.raises(CommandFailed, match="there is no table x; DROP TABLE memories"):
        await analyze_tables(connection, ["x; DROP TABLE memories"], lambda _line: None)
