"""Backups of the embedded PostgreSQL, made while it serves, and their way back.

```
<backup>/
├── memfast-backup.json   written last: {"format": 1, "postgresql": 18, "created_at": "2026-01-31T…+00:00"}
└── postgres/             as pg_basebackup made it, with a manifest of SHA-256 sums and the WAL that it needs
```
A backup holds the whole database and nothing else. The password is not in it: a restore sets a new one.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from memfast.errors import CommandFailed, DatabaseRefused
from memfast.store.embedded.account import choose_account, require_reach
from memfast.store.embedded.binaries import Binaries, find_binaries, reachable_binaries
from memfast.store.embedded.cluster import Cluster, Endpoint, read_version
from memfast.store.embedded.initialise import USER, reset_password, sync, write_configuration
from memfast.store.embedded.layout import Layout, change_owner, sync_folder, translated, write_file
from memfast.store.embedded.lock import DataDirLock
from memfast.store.embedded.manifest import verify
from memfast.store.embedded.program import run

__all__ = ["backup", "restore"]

_FORMAT = 1
_LABEL = "memfast-backup.json"
_HOURS_S = 24 * 3600.0
# What a data directory may hold before a restore: no trace of an earlier database.
_HARMLESS = frozenset({"lock", "log", "run", "runtime", "password", "restored", "lost+found"})


def backup(
    data_dir: Path,
    target: Path,
    *,
    clock: Callable[[], float] = time.time,
    timeout_s: float = _HOURS_S,
    lock_wait_s: float = 5.0,
    report: Callable[[str], None] = lambda _line: None,
) -> None:
    """Copy the database of a data directory into a new or empty directory, and verify the copy.

    The server may run and serve; one that does not run is started for the time of the backup.

    Args:
        data_dir: the data directory.
        target: where the backup goes.
        clock: seconds since 1970, for the label.
        timeout_s: how long the copy, and then its verification, may take.
        lock_wait_s: how long to wait for the data directory when no server runs.
        report: called with one line of progress.

    Raises:
        DatabaseRefused: there is no database, or the target is not empty.
        CommandFailed: the copy failed or did not verify; the target is as it was.
        DataDirBusy: no server answers, but somebody holds the data directory.
    """
    layout = Layout.at(data_dir)
    version = read_version(layout.pgdata)
    cluster = Cluster(data_dir, major=version, report=report)
    with translated(target):
        existed = target.exists()
        if existed and any(target.iterdir()):
            raise DatabaseRefused(f"{target} is not empty: give a new directory for the backup")
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            endpoint = cluster.running()
            if endpoint is not None:
                _copy_out(endpoint, find_binaries(version), target, timeout_s, report)
            else:
                with DataDirLock.acquire(data_dir, lock_wait_s):
                    try:
                        _copy_out(cluster.start(), find_binaries(version), target, timeout_s, report)
                    finally:
                        cluster.stop()
            created_at = dt.datetime.fromtimestamp(clock(), dt.UTC).isoformat(timespec="seconds")
            label = {"format": _FORMAT, "postgresql": version, "created_at": created_at}
            write_file(target / _LABEL, json.dumps(label) + "\n")
        except BaseException:
            shutil.rmtree(target / "postgres", ignore_errors=True)
            if not existed:
                shutil.rmtree(target, ignore_errors=True)
            raise
    report(f"Backup complete and verified: {target}")


def _copy_out(
    endpoint: Endpoint, binaries: Binaries, target: Path, timeout_s: float, report: Callable[[str], None]
) -> None:
    copy = target / "postgres"
    report(f"Copying the database to {copy}")
    run(
        [
            binaries.program("pg_basebackup"),
            f"--pgdata={copy}",
            "--format=plain",
            "--wal-method=stream",  # the WAL of the time of the copy comes along: a backup needs nothing else
            "--checkpoint=fast",
            "--manifest-checksums=SHA256",
            "--label=memfast",
            "--no-password",
            f"--host={endpoint.socket_dir}",
            f"--port={endpoint.port}",
            f"--username={USER}",
        ],
        account=None,
        timeout_s=timeout_s,
        extra={"PGPASSWORD": endpoint.password},
    )
    _verify(copy, binaries, timeout_s, report)


def _verify(copy: Path, binaries: Binaries, timeout_s: float, report: Callable[[str], None]) -> None:
    report(f"Verifying {copy}")
    try:
        verify(copy, binaries, timeout_s=timeout_s)
    except CommandFailed as error:
        raise CommandFailed(f"The backup {copy.parent} is damaged and must not be used: {error}") from error


def restore(
    source: Path,
    data_dir: Path,
    *,
    clock: Callable[[], float] = time.time,
    timeout_s: float = _HOURS_S,
    lock_wait_s: float = 5.0,
    report: Callable[[str], None] = lambda _line: None,
) -> None:
    """Verify a backup and make it the database of a data directory that has none.

    The restored database is recovered, gets a new password, and is put in place as a whole with the file
    `restored` beside it: the next start of the service gives the database a new lineage and removes it.

    Args:
        source: a directory made by `backup`.
        data_dir: the data directory; new, empty, or without any trace of a database.
        clock: seconds since 1970, for the marker.
        timeout_s: how long verification, and then recovery, may take.
        lock_wait_s: how long to wait for another user of the data directory.
        report: called with one line of progress.

    Raises:
        DatabaseRefused: the source is no backup, or the data directory is not empty.
        CommandFailed: the backup is damaged, or the disk is full; the data directory is as it was.
        DataDirBusy: a service runs there.
    """
    label = _read_label(source)
    version = read_version(source / "postgres")
    _verify(source / "postgres", find_binaries(version), timeout_s, report)
    layout = Layout.at(data_dir)
    with DataDirLock.acquire(data_dir, lock_wait_s), translated(layout.data_dir):
        layout.remove_leftovers()
        found = sorted(entry.name for entry in layout.data_dir.iterdir() if entry.name not in _HARMLESS)
        if found:
            raise DatabaseRefused(
                f"{layout.data_dir} is not empty (it holds {', '.join(found[:5])}): restore into a new data "
                "directory, or move the old one away."
            )
        account = choose_account(layout.pgdata, report)
        if account:
            require_reach(account, layout.data_dir)
        binaries = reachable_binaries(version, account, layout.data_dir, report)
        with layout.work_dir(account) as work:
            data = work / "data"
            report(f"Copying {source} to {layout.pgdata}")
            _copy_in(source / "postgres", data)
            if account:
                change_owner(data, account)
            write_configuration(data, account)
            report("Recovering the database and setting a new password")
            reset_password(layout, data, binaries, account, timeout_s=timeout_s)
            sync(data, binaries, account)
            restored_at = dt.datetime.fromtimestamp(clock(), dt.UTC).isoformat(timespec="seconds")
            marker = {"backup_created_at": label.get("created_at"), "restored_at": restored_at}
            write_file(layout.restored_marker, json.dumps(marker) + "\n")
            data.rename(layout.pgdata)
        sync_folder(layout.data_dir)
    report(f"Restored: {layout.data_dir} holds the database of {label.get('created_at')}")


def _read_label(source: Path) -> dict[str, object]:
    path = source / _LABEL
    try:
        label = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatabaseRefused(
            f"{source} is not a complete backup of memfast: {path} cannot be read ({error})"
        ) from error
    if not isinstance(label, dict) or label.get("format") != _FORMAT:
        raise DatabaseRefused(
            f"{path} has a format that this memfast does not know: restore it with the one that made it"
        )
    return label


def _copy_in(source: Path, target: Path) -> None:
    """Copy a tree with modes 0700 and 0600, whatever the archive between the two made of them."""
    for folder, _, files in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir(mode=0o700)
        for name in files:
            shutil.copyfile(Path(folder, name), place / name, follow_symlinks=False)
            (place / name).chmod(0o600)
