"""From PostgreSQL 16 to 18, and back to where it was when that fails."""

import os

import pytest

from memfast.errors import CommandFailed, DatabaseRefused, DataDirBusy
from memfast.store.embedded import DataDirLock, upgrade

FILL = (
    'CREATE TABLE kept (x int PRIMARY KEY, word text COLLATE "C", v vector)',
    "INSERT INTO kept SELECT x, 'wörd ' || x, ARRAY[x, 0.5]::vector FROM generate_series(1, 1000) x",
    "CREATE INDEX ON kept USING hnsw ((v::vector(2)) vector_ip_ops)",
)
ROWS = "SELECT count(*), sum(x), max(word), (SELECT v::text FROM kept ORDER BY v <-> '[7,0.5]' LIMIT 1) FROM kept"
FILLED = [(1000, 500500, "wörd 999", "[7,0.5]")]
MAJOR = "SELECT current_setting('server_version_num')::int / 10000"


@pytest.fixture
def filled(data_dir, clusters, fetch):
    """A stopped database of PostgreSQL 16 with rows and vectors."""
    folder = data_dir(16)
    cluster = clusters(folder)
    fetch(cluster.start(), *FILL)
    cluster.stop()
    return folder


@pytest.mark.parametrize("keep_old", [True, False])
def test_rows_vectors_and_indexes_come_along(filled, clusters, fetch, keep_old):
    """The new database answers as the old one did, with the same password and checksums; the old one is kept or not."""
    password = (filled / "password").read_text()
    lines = []
    upgrade(filled, 18, keep_old=keep_old, report=lines.append)
    lines_of_start = []
    endpoint = clusters(filled, report=lines_of_start.append).start()
    assert fetch(endpoint, MAJOR) == [(18,)]
    assert fetch(endpoint, ROWS) == FILLED
    assert fetch(endpoint, "SELECT indisvalid FROM pg_index WHERE indrelid = 'kept'::regclass") == [(True,), (True,)]
    assert fetch(endpoint, "SELECT setting FROM pg_settings WHERE name IN ('data_checksums', 'fsync')") == [
        ("on",),
        ("on",),
    ]
    assert fetch(endpoint, "SELECT reltuples FROM pg_class WHERE relname = 'kept'") == [(1000.0,)]
    assert endpoint.password == password
    assert sorted(path.name for path in filled.glob("postgres*")) == ["postgres"] + ["postgres.16.old"] * keep_old
    assert list(filled.glob("work.*")) == []
    assert any("postgres.16.old" in line for line in lines) is keep_old
    assert lines_of_start == []


def test_an_upgrade_that_fails_leaves_the_old_database(filled, clusters, fetch):
    """A column that pg_upgrade cannot carry over: it says so, and the old database starts with all its rows."""
    cluster = clusters(filled)
    fetch(cluster.start(), "CREATE TABLE stubborn (x regproc)")
    cluster.stop()
    with pytest.raises(CommandFailed, match="pg_upgrade failed"):
        upgrade(filled, 18)
    assert list(filled.glob("work.*")) == []
    assert [path.name for path in filled.glob("postgres*")] == ["postgres"]
    endpoint = clusters(filled).start()
    assert fetch(endpoint, MAJOR) == [(16,)]
    assert fetch(endpoint, ROWS) == FILLED


def test_a_new_database_that_does_not_work_is_taken_back(filled, clusters, fetch, monkeypatch):
    """The last step fails after the exchange of the directories: the old one is in place again."""
    from memfast.store.embedded import upgrade as package_function

    module = __import__(package_function.__module__, fromlist=["resource"])
    monkeypatch.setattr(module, "resource", lambda _name: "ALTER EXTENSION nonsense UPDATE;\n")
    with pytest.raises(CommandFailed, match="nonsense"):
        upgrade(filled, 18)
    assert [path.name for path in filled.glob("postgres*")] == ["postgres"]
    endpoint = clusters(filled).start()
    assert fetch(endpoint, MAJOR) == [(16,)]
    assert fetch(endpoint, ROWS) == FILLED


def test_an_exchange_that_was_cut_off_is_undone_or_finished(filled, clusters, fetch):
    """Between the two renames: the old one comes back, never an empty new one. After them: it is set aside."""
    (filled / "postgres").rename(filled / "postgres.16.upgrading")
    lines = []
    cluster = clusters(filled, report=lines.append)
    assert fetch(cluster.start(), ROWS) == FILLED
    assert "An upgrade was interrupted; the old database is put back" in lines
    cluster.stop()
    (filled / "postgres.16.upgrading").mkdir()
    assert fetch(cluster.start(), ROWS) == FILLED
    assert sorted(path.name for path in filled.glob("postgres*")) == ["postgres", "postgres.16.old"]


def test_there_is_nothing_to_do_twice_and_no_way_back(data_dir, base):
    """The version in place is fine, an older one, an unknown one and an empty directory are refused."""
    folder = data_dir(18)
    lines = []
    upgrade(folder, 18, report=lines.append)
    assert lines == ["The database is PostgreSQL 18 already"]
    with pytest.raises(DatabaseRefused, match="no way back to 16"):
        upgrade(folder, 16)
    with pytest.raises(DatabaseRefused, match="PostgreSQL 19"):
        upgrade(folder, 19)
    with pytest.raises(DatabaseRefused, match="is not a PostgreSQL database"):
        upgrade(base / "nothing", 18)


def test_a_service_that_runs_is_not_upgraded_under_its_feet(filled):
    """The lock says who has to be stopped."""
    with DataDirLock.acquire(filled, 0), pytest.raises(DataDirBusy, match=str(os.getpid())):
        upgrade(filled, 18, lock_wait_s=0)


def test_a_server_without_its_service_is_upgraded(filled, clusters, fetch, pid_of):
    """What a killed service left running is stopped first."""
    clusters(filled).start()
    upgrade(filled, 18)
    endpoint = clusters(filled).start()
    assert fetch(endpoint, MAJOR) == [(18,)]
    assert fetch(endpoint, ROWS) == FILLED


def test_a_plain_user_upgrades(plain_user, clusters, child, fetch):
    """The same without any right of root."""
    uid, home = plain_user

    def life():
        cluster = clusters(home / "data", major=16)
        fetch(cluster.start(), *FILL)
        cluster.stop()
        upgrade(home / "data", 18)
        again = clusters(home / "data")
        rows = fetch(again.start(), ROWS)
        again.stop()
        return rows

    assert child(life, uid).result() == FILLED
