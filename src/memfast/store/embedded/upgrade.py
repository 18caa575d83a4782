"""Move a database to a newer PostgreSQL: beside the old one, which stays whole until the new one has run."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from memfast.errors import CommandFailed, DatabaseRefused
from memfast.store.embedded.account import Account, choose_account
from memfast.store.embedded.binaries import Binaries, find_binaries, reachable_binaries
from memfast.store.embedded.cluster import (
    Cluster,
    Endpoint,
    psql,
    read_version,
    settle_upgrade,
    stop_postmaster,
)
from memfast.store.embedded.initialise import USER, create_cluster, resource, sync
from memfast.store.embedded.layout import Layout, sync_folder, translated
from memfast.store.embedded.lock import DataDirLock
from memfast.store.embedded.program import last_lines, run

__all__ = ["upgrade"]

_HOURS_S = 24 * 3600.0
_STOP_S = 30.0
_LOGS = 3  # those written last tell the reason


def upgrade(
    data_dir: Path,
    to_major: int = 18,
    *,
    keep_old: bool = True,
    timeout_s: float = _HOURS_S,
    lock_wait_s: float = 5.0,
    report: Callable[[str], None] = lambda _line: None,
) -> None:
    """Upgrade the database of a data directory with pg_upgrade, by copy; no server runs before or after.

    Until the new database has started and been analysed the old one is the database: any failure leaves it.

    Args:
        data_dir: the data directory.
        to_major: the PostgreSQL version to go to.
        keep_old: keep the old database as `postgres.N.old`, else remove it after success.
        timeout_s: how long pg_upgrade, and then the analysis, may take.
        lock_wait_s: how long to wait for a service to end.
        report: called with one line of progress.

    Raises:
        DatabaseRefused: there is no database, it is newer, or the version is not installed.
        CommandFailed: pg_upgrade failed or the disk is full; the old database is in place.
        DataDirBusy: a service runs.
    """
    layout = Layout.at(data_dir)
    find_binaries(to_major)
    with DataDirLock.acquire(data_dir, lock_wait_s), translated(layout.data_dir):
        settle_upgrade(layout, report)
        version = read_version(layout.pgdata)
        if version == to_major:
            report(f"The database is PostgreSQL {version} already")
            return
        if version > to_major:
            raise DatabaseRefused(f"The database is PostgreSQL {version}: there is no way back to {to_major}")
        old = layout.data_dir / f"postgres.{version}.old"
        if old.exists():
            raise DatabaseRefused(f"{old} is left of an earlier upgrade: remove it or move it away, then try again")
        # A start and a stop recover what a crash left, and prove the password and the binaries.
        cluster = Cluster(data_dir, major=version, report=report)
        password = cluster.start().password
        cluster.stop()
        account = choose_account(layout.pgdata, report)
        with layout.work_dir(account) as work:
            before, after = (
                reachable_binaries(major, account, layout.data_dir, report) for major in (version, to_major)
            )
            report(f"Creating an empty PostgreSQL {to_major} database")
            create_cluster(work / "data", after, account, password)
            report(f"Upgrading from PostgreSQL {version} to {to_major}, by copy")
            _convert(layout, work, before, after, account=account, password=password, timeout_s=timeout_s)
            with _exchanged(layout, work / "data", version):
                _prove(Cluster(data_dir, major=to_major, report=report), to_major, timeout_s, report)
        if keep_old:
            report(f"The old database is kept as {old}; remove it when you no longer want it")
        else:
            shutil.rmtree(old)
    report(f"The database is PostgreSQL {to_major} now")


def _convert(
    layout: Layout,
    work: Path,
    before: Binaries,
    after: Binaries,
    *,
    account: Account | None,
    password: str,
    timeout_s: float,
) -> None:
    """Fill the empty `<work>/data` from the old database, which is only read."""
    data = work / "data"
    try:
        run(
            [
                after.program("pg_upgrade"),
                f"--old-bindir={before.folder}",
                f"--new-bindir={after.folder}",
                f"--old-datadir={layout.pgdata}",
                f"--new-datadir={data}",
                f"--socketdir={layout.make_socket_dir(account)}",
                f"--username={USER}",
                "--copy",
                f"--jobs={min(4, os.cpu_count() or 1)}",
            ],
            account=account,
            timeout_s=timeout_s,
            extra={"PGPASSWORD": password},
            folder=work,
        )
    except CommandFailed as error:
        logs = sorted((data / "pg_upgrade_output.d").rglob("*.log"), key=lambda log: log.stat().st_mtime)
        ends = (f"{log.name}: {last_lines(log.read_text(errors='replace'), 6)}" for log in logs[-_LOGS:])
        raise CommandFailed("\n".join((str(error), *ends))) from error
    finally:  # a pg_upgrade that was killed leaves the server that it worked with
        for pgdata in (layout.pgdata, data):
            stop_postmaster(pgdata, _STOP_S, lambda _line: None)
    sync(data, after, account)


@contextlib.contextmanager
def _exchanged(layout: Layout, data: Path, version: int) -> Iterator[None]:
    """Put the new database in place; should what follows fail, put the old one back.

    Two renames are not one: a start that finds the name `.upgrading` finishes or undoes them.
    """
    aside = layout.data_dir / f"postgres.{version}.upgrading"
    layout.pgdata.rename(aside)
    try:
        data.rename(layout.pgdata)
        sync_folder(layout.data_dir)
        yield
    except BaseException:
        if layout.pgdata.exists():
            layout.pgdata.rename(data)
        aside.rename(layout.pgdata)
        sync_folder(layout.data_dir)
        raise
    aside.rename(aside.with_suffix(".old"))
    sync_folder(layout.data_dir)


def _prove(cluster: Cluster, major: int, timeout_s: float, report: Callable[[str], None]) -> None:
    """Start the new database, bring its extension and statistics up to date, and stop it."""
    try:
        _finish(cluster.start(tidy=False), find_binaries(major), timeout_s, report)
    finally:
        cluster.stop()


def _finish(endpoint: Endpoint, binaries: Binaries, timeout_s: float, report: Callable[[str], None]) -> None:
    secret = {"PGPASSWORD": endpoint.password}
    run(
        [*psql(binaries, endpoint), "--file=-"],
        account=None,
        timeout_s=timeout_s,
        text=resource("update_extension.sql"),
        extra=secret,
    )
    report("Gathering the planner's statistics")
    run(
        [
            binaries.program("vacuumdb"),
            "--analyze-only",
            "--all",
            "--quiet",
            "--no-password",
            f"--host={endpoint.socket_dir}",
            f"--port={endpoint.port}",
            f"--username={endpoint.user}",
        ],
        account=None,
        timeout_s=timeout_s,
        extra=secret,
    )
