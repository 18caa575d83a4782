"""Backup, restore and their refusals."""

import json
import os
import shutil

import asyncpg
import pytest

from memfast.errors import CommandFailed, DatabaseRefused, DataDirBusy
from memfast.store.embedded import DataDirLock, backup, restore

ROWS = "SELECT x, v::text FROM kept ORDER BY x"
FILL = (
    "CREATE TABLE kept (x int PRIMARY KEY, v vector)",
    "INSERT INTO kept SELECT x, ARRAY[x, 0.5, 1]::vector FROM generate_series(1, 3) x",
)
FILLED = [(1, "[1,0.5,1]"), (2, "[2,0.5,1]"), (3, "[3,0.5,1]")]


@pytest.mark.parametrize("major", [16, 18])
def test_a_backup_of_a_serving_database_comes_back_with_its_rows(base, data_dir, clusters, fetch, pid_of, major):
    """Backup while it runs, restore elsewhere: rows, label, marker; a new password; later rows are not in it."""
    folder = data_dir(major)
    source = clusters(folder)
    endpoint = source.start()
    fetch(endpoint, *FILL)
    pid = pid_of(folder)
    with DataDirLock.acquire(folder, 0):  # a service runs, and the backup needs no lock
        backup(folder, base / "backup", clock=lambda: 1_700_000_000.9, lock_wait_s=0)
    assert pid_of(folder) == pid
    fetch(endpoint, "INSERT INTO kept VALUES (99, '[1]')")
    label = json.loads((base / "backup" / "memfast-backup.json").read_text())
    assert label == {"format": 1, "postgresql": major, "created_at": "2023-11-14T22:13:20+00:00"}
    assert endpoint.password.encode() not in b"".join(
        path.read_bytes() for path in (base / "backup").rglob("*") if path.is_file()
    )
    restore(base / "backup", base / "restored", clock=lambda: 1_700_000_060)
    marker = json.loads((base / "restored" / "restored").read_text())
    assert marker == {"backup_created_at": "2023-11-14T22:13:20+00:00", "restored_at": "2023-11-14T22:14:20+00:00"}
    again = clusters(base / "restored", major=major).start()
    assert fetch(again, ROWS) == FILLED
    assert again.password != endpoint.password
    with pytest.raises(asyncpg.InvalidPasswordError):
        fetch(type(again)(again.socket_dir, again.port, again.user, again.database, endpoint.password))
    assert list((base / "restored").glob("work.*")) == []


def test_a_stopped_database_is_started_for_its_backup_and_stopped_again(base, data_dir, clusters, fetch):
    """And its lock is free afterwards."""
    folder = data_dir()
    cluster = clusters(folder)
    fetch(cluster.start(), *FILL)
    cluster.stop()
    lines = []
    backup(folder, base / "backup", report=lines.append)
    assert cluster.running() is None
    assert lines[-1] == f"Backup complete and verified: {base}/backup"
    DataDirLock.acquire(folder, 0).release()
    restore(base / "backup", base / "restored")
    assert fetch(clusters(base / "restored").start(), ROWS) == FILLED


def test_a_backup_needs_the_data_directory_when_no_server_answers(base, data_dir):
    """Somebody holds the lock and nothing runs: a service is just starting or stopping."""
    folder = data_dir()
    with DataDirLock.acquire(folder, 0), pytest.raises(DataDirBusy, match=str(os.getpid())):
        backup(folder, base / "backup", lock_wait_s=0)
    assert not (base / "backup").exists()


def test_a_backup_of_nothing_is_refused(base):
    """No database is made for it either."""
    with pytest.raises(DatabaseRefused, match=f"{base}/data"):
        backup(base / "data", base / "backup")
    assert list(base.iterdir()) == []


def test_a_backup_into_a_filled_directory_is_refused(base, data_dir):
    """What is in it stays."""
    (base / "backup").mkdir()
    (base / "backup" / "precious").write_text("x")
    with pytest.raises(DatabaseRefused, match=f"{base}/backup is not empty"):
        backup(data_dir(), base / "backup")
    assert [path.name for path in (base / "backup").iterdir()] == ["precious"]


def test_a_backup_that_fails_leaves_the_target_as_it_was(base, data_dir, clusters):
    """An empty target stays, and stays empty."""
    folder = data_dir()
    clusters(folder).start()
    (folder / "password").write_text("wrong")
    (base / "backup").mkdir()
    with pytest.raises(CommandFailed, match="pg_basebackup failed"):
        backup(folder, base / "backup")
    assert list((base / "backup").iterdir()) == []


@pytest.fixture
def good_backup(base, data_dir):
    """A backup without rows."""
    backup(data_dir(), base / "backup")
    return base / "backup"


def _flip(path, offset=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if offset is None else offset] ^= 1
    path.write_bytes(data)


def _first_record(copy):
    """Where in its file of 16 MiB the WAL of the backup begins."""
    [wal] = json.loads((copy / "backup_manifest").read_text())["WAL-Ranges"]
    return int(wal["Start-LSN"].partition("/")[2], 16) % (16 * 1024 * 1024)


@pytest.mark.parametrize(
    "damage",
    [
        lambda copy: _flip(max((copy / "base").rglob("*"), key=lambda path: path.stat().st_size)),
        lambda copy: _flip(next((copy / "pg_wal").glob("0*")), _first_record(copy) + 25),
        lambda copy: _flip(copy / "backup_manifest"),
        lambda copy: (copy / "global" / "pg_control").unlink(),
        lambda copy: (copy / "backup_manifest").unlink(),
        lambda copy: (copy / "base" / "intruder").write_text("x"),
    ],
    ids=["table", "wal", "manifest", "missing file", "no manifest", "extra file"],
)
def test_a_damaged_backup_is_refused_before_anything_is_written(base, good_backup, damage):
    """One flipped bit is enough."""
    damage(good_backup / "postgres")
    with pytest.raises(CommandFailed, match=f"{good_backup} is damaged"):
        restore(good_backup, base / "restored")
    assert not (base / "restored").exists()


def test_what_is_no_complete_backup_is_refused(base, good_backup):
    """Without its label, or with one of a later format."""
    (good_backup / "memfast-backup.json").write_text('{"format": 2}')
    with pytest.raises(DatabaseRefused, match="format"):
        restore(good_backup, base / "restored")
    (good_backup / "memfast-backup.json").unlink()
    with pytest.raises(DatabaseRefused, match="not a complete backup"):
        restore(good_backup, base / "restored")


def test_a_restore_never_replaces_a_database(base, good_backup, data_dir, clusters, fetch):
    """The database that is there stays, and so does any file that the service may have left."""
    folder = data_dir(name="other")
    with pytest.raises(DatabaseRefused, match=r"other is not empty \(it holds postgres\)"):
        restore(good_backup, folder)
    assert fetch(clusters(folder).start(), "SELECT 1") == [(1,)]
    (base / "third").mkdir()
    (base / "third" / "snapshots").mkdir()
    with pytest.raises(DatabaseRefused, match="snapshots"):
        restore(good_backup, base / "third")


def test_a_restore_waits_for_nobody_who_serves(base, good_backup):
    """A held data directory is not touched."""
    with DataDirLock.acquire(base / "restored", 0), pytest.raises(DataDirBusy):
        restore(good_backup, base / "restored", lock_wait_s=0)
    assert [path.name for path in (base / "restored").iterdir()] == ["lock"]


def test_a_backup_that_lost_its_modes_on_the_way_is_restored(base, good_backup, clusters, fetch):
    """Archives and copies open files to all; PostgreSQL would refuse such a directory."""
    for path in (good_backup / "postgres", *(good_backup / "postgres").rglob("*")):
        path.chmod(0o777)
    restore(good_backup, base / "restored")
    modes = {path.stat().st_mode & 0o077 for path in (base / "restored" / "postgres").rglob("*")}
    assert modes == {0}
    assert fetch(clusters(base / "restored").start(), "SELECT 1") == [(1,)]


def test_a_restore_that_was_killed_is_begun_anew(base, good_backup, child, clusters, fetch, poll):
    """Killed while it copies: there is no database, and the next restore clears up and succeeds."""
    folder = base / "restored"
    process = child(lambda: restore(good_backup, folder))
    poll(lambda: list(folder.glob("work.*/data/base")) if folder.exists() else None)
    process.kill()
    if (folder / "postgres").exists():  # it was faster than the signal
        shutil.rmtree(folder)
    restore(good_backup, folder, lock_wait_s=30)
    assert list(folder.glob("work.*")) == []
    assert fetch(clusters(folder).start(), "SELECT 1") == [(1,)]


def test_a_plain_user_backs_up_and_restores(plain_user, clusters, child, fetch):
    """The same without any right of root."""
    uid, home = plain_user

    def life():
        cluster = clusters(home / "data")
        fetch(cluster.start(), *FILL)
        backup(home / "data", home / "backup")
        cluster.stop()
        restore(home / "backup", home / "restored")
        again = clusters(home / "restored")
        rows = fetch(again.start(), ROWS)
        again.stop()
        return rows

    assert child(life, uid).result() == FILLED
