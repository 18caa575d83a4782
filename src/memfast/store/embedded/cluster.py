"""The embedded PostgreSQL of a data directory: make, start, adopt, stop."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from memfast.errors import CommandFailed, DatabaseRefused
from memfast.store.embedded.account import Account, choose_account, require_reach
from memfast.store.embedded.binaries import Binaries, reachable_binaries
from memfast.store.embedded.initialise import (
    DATABASE,
    USER,
    initialise,
    reset_password,
    resource,
    write_configuration,
)
from memfast.store.embedded.layout import PORT, Layout, sync_folder, translated
from memfast.store.embedded.process import (
    Postmaster,
    alive,
    end_processes,
    is_server_of,
    read_postmaster,
    wait_until,
)
from memfast.store.embedded.program import environment, last_lines, run

__all__ = [
    "Cluster",
    "Endpoint",
    "find_postmaster",
    "psql",
    "read_version",
    "settle_upgrade",
    "stop_postmaster",
]

_LOG_BYTES = 16 * 1024 * 1024
_PROGRESS_S = 5.0
_ANSWER_S = 10.0
_QUIT_S = 10.0
_DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}


@dataclass(frozen=True)
class Endpoint:
    """How to connect to a running cluster: a socket, never the network."""

    socket_dir: Path
    port: int
    user: str
    database: str
    password: str = field(repr=False)

    def connect_arguments(self) -> dict[str, str | int]:
        """Arguments for `asyncpg.connect` and `asyncpg.create_pool`."""
        return {
            "host": os.fspath(self.socket_dir),
            "port": self.port,
            "user": self.user,
            "database": self.database,
            "password": self.password,
        }


class Cluster:
    """The PostgreSQL of one data directory. `start` and `stop` are for the holder of its lock alone.

    Args:
        data_dir: the data directory; created when missing.
        major: the PostgreSQL version of a new database; an existing one keeps its own.
        start_timeout_s: how long recovery may take. Then the server goes on, and the next start adopts it.
        stop_timeout_s: how long a stop waits for transactions to be rolled back before it becomes immediate.
        report: called with one line of progress.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        major: int = 18,
        start_timeout_s: float = 600.0,
        stop_timeout_s: float = 30.0,
        report: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self._layout = Layout.at(data_dir)
        self._major = major
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._report = report
        self._child: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def start(self, *, tidy: bool = True, create: bool = True) -> Endpoint:
        """Make the database if there is none; adopt a server that still runs, else start one and wait for it.

        Args:
            tidy: first remove or finish what an interrupted init, restore or upgrade left.
            create: whether a database that is not there is made, or is an error.

        Raises:
            DatabaseRefused: the directory, its version or its settings cannot be used, or the server would
                not start; says why, with the last lines of its log.
            CommandFailed: a program of PostgreSQL failed, or the disk is full.
        """
        layout = self._layout
        layout.make_data_dir()
        with translated(layout.data_dir):
            if tidy:
                if layout.remove_leftovers():
                    self._report("Removed what an interrupted command left half made")
                settle_upgrade(layout, self._report)
            account = choose_account(layout.pgdata, self._report)
            if account:
                require_reach(account, layout.data_dir)
            if create and not layout.pgdata.exists():
                binaries = reachable_binaries(self._major, account, layout.data_dir, self._report)
                initialise(layout, binaries, account, self._report)
            self.trim_log()
            endpoint = self._adopt() or self._launch(account)
            try:
                self._check(endpoint)
            except BaseException:
                if self._child is not None:  # started just now, so nobody else needs it
                    self.stop()
                raise
        return endpoint

    def running(self) -> Endpoint | None:
        """The server that runs and answers now, or None. Changes nothing; needs no lock."""
        postmaster = self._postmaster()
        if postmaster is None or postmaster.status != "ready" or not _answers(postmaster):
            return None
        return self._endpoint(postmaster)

    def lives(self) -> bool:
        """Whether the server that was started or adopted last has not ended."""
        return self._lives(self._pid)

    def stop(self) -> None:
        """Stop the server, if one runs: fast, and after `stop_timeout_s` immediately. Idempotent.

        Raises:
            CommandFailed: it did not end.
        """
        with translated(self._layout.data_dir):
            stop_postmaster(self._layout.pgdata, self._stop_timeout_s, self._report)
            if self._child is not None:
                self._end(self._child)
                self._child = None
            if self._layout.socket_dir().parent != self._layout.data_dir:
                with contextlib.suppress(OSError):
                    self._layout.socket_dir().rmdir()

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        """End a server that we started and that has no pid file: not yet, or not any more.

        SIGINT first, which waits in a server that does not listen to signals yet, and then shuts it down in order;
        SIGQUIT would end it on the spot, with a core file. Killed, it leaves processes that still work.
        """
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            child.send_signal(number)  # nothing, where it has ended
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_QUIT_S)
                break
            self._report(f"PostgreSQL (process {child.pid}) did not stop within {_QUIT_S:g} s of {number.name}")
        if not end_processes(self._layout.pgdata, _owner(self._layout.pgdata)):
            raise CommandFailed(f"Processes of PostgreSQL still work in {self._layout.pgdata} and do not end")

    def trim_log(self) -> None:
        """Move a log over 16 MiB to `postgres.log.1` and begin anew. Safe while the server writes."""
        log = self._layout.log_file
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)  # the server appends, and so goes on at the new end

    def _postmaster(self) -> Postmaster | None:
        return find_postmaster(self._layout.pgdata)

    def _endpoint(self, postmaster: Postmaster) -> Endpoint:
        password_file = self._layout.password_file
        try:
            password = password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise DatabaseRefused(f"The password of the database cannot be read: {error}") from error
        return Endpoint(postmaster.socket_dir, postmaster.port, USER, DATABASE, password)

    def _adopt(self) -> Endpoint | None:
        """The server that a killed service left running, once it is ready; None when there is none to use."""
        postmaster = self._postmaster()
        if postmaster is None:
            return None
        if self._layout.password_file.exists() and postmaster.status != "stopping":
            ready = self._wait_until_ready(postmaster.pid, _size(self._layout.log_file))
            # Another socket means another purpose: pg_upgrade starts servers too.
            if (ready.port, ready.socket_dir) == (PORT, self._layout.socket_dir()) and _answers(ready):
                self._pid = ready.pid
                self._report(f"Found PostgreSQL running (process {ready.pid}), left by an earlier service")
                return self._endpoint(ready)
        self._report(f"Stopping PostgreSQL (process {postmaster.pid}), which cannot be used as it runs")
        stop_postmaster(self._layout.pgdata, self._stop_timeout_s, self._report)
        return None

    def _launch(self, account: Account | None) -> Endpoint:
        layout = self._layout
        version = read_version(layout.pgdata)
        binaries = reachable_binaries(version, account, layout.data_dir, self._report)
        if version < self._major:
            self._report(f"The database is PostgreSQL {version}; `memfast upgrade` moves it to {self._major}")
        if not end_processes(layout.pgdata, account):
            raise DatabaseRefused(f"Processes of an earlier PostgreSQL still work in {layout.pgdata} and do not end")
        if not layout.password_file.exists():
            self._report("The password file is missing: setting a new password")
            reset_password(layout, layout.pgdata, binaries, account)
        write_configuration(layout.pgdata, account)
        layout.log_file.parent.mkdir(mode=0o700, exist_ok=True)
        log_start = _size(layout.log_file)
        # An interrupt between the start of the process and its being known would leave it to nobody. PostgreSQL sets
        # its own mask when it starts.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self._child = child = self._spawn(binaries, account)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        self._pid = child.pid
        return self._endpoint(self._wait_until_ready(child.pid, log_start))

    def _spawn(self, binaries: Binaries, account: Account | None) -> subprocess.Popen[bytes]:
        layout = self._layout
        socket_dir = layout.make_socket_dir(account)
        for name in (f".s.PGSQL.{PORT}", f".s.PGSQL.{PORT}.lock"):
            (socket_dir / name).unlink(missing_ok=True)  # nobody serves it: no server works in the directory
        command_line = {
            "unix_socket_directories": os.fspath(socket_dir),
            "port": str(PORT),
            "listen_addresses": "",
            "fsync": "on",  # here, nothing in a file can switch them off
            "full_page_writes": "on",
        }
        log = os.open(layout.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            return subprocess.Popen(
                [
                    os.fspath(binaries.program("postgres")),
                    "-D",
                    os.fspath(layout.pgdata),
                    *(word for name, value in command_line.items() for word in ("-c", f"{name}={value}")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(_forgiving(layout.pgdata)),
                cwd="/",
                start_new_session=True,  # Ctrl-C in the service's terminal is not for it
                **(account.identity() if account else {"umask": 0o077}),
            )
        finally:
            os.close(log)

    def _wait_until_ready(self, pid: int, log_start: int) -> Postmaster:
        """Wait while the process lives, as recovery can be long. Raises DatabaseRefused."""
        began = time.monotonic()
        deadline = began + self._start_timeout_s

        def settled() -> bool:
            found = read_postmaster(self._layout.pgdata)
            ready = found is not None and found.pid == pid and found.status in ("ready", "standby")
            return ready or not self._lives(pid)

        while not wait_until(settled, min(_PROGRESS_S, max(0.0, deadline - time.monotonic()))):
            log = last_lines(_tail(self._layout.log_file, log_start), 1)
            waited_s = time.monotonic() - began
            if time.monotonic() >= deadline:
                raise DatabaseRefused(
                    f"PostgreSQL is not ready after {waited_s:.0f} s and goes on recovering (process {pid}): "
                    f"start memfast again later. Its log, {self._layout.log_file}, ends with: {log}"
                )
            self._report(f"Waiting for PostgreSQL to recover since {waited_s:.0f} s: {log}")
        found = read_postmaster(self._layout.pgdata)
        if found is not None and found.pid == pid and self._lives(pid):
            return found
        raise self._failed(log_start)

    def _lives(self, pid: int) -> bool:
        child = self._child
        if child is not None and child.pid == pid:
            return child.poll() is None
        return alive(pid)

    def _failed(self, log_start: int) -> DatabaseRefused | CommandFailed:
        log = _tail(self._layout.log_file, log_start)
        if "No space left on device" in log or "Disk quota exceeded" in log:
            return CommandFailed(
                f"No room left on the disk of {self._layout.data_dir}: free some and start again. "
                f"No data is lost.\n{last_lines(log)}"
            )
        return DatabaseRefused(
            f"PostgreSQL did not start. Its log, {self._layout.log_file}, ends with:\n{last_lines(log)}"
        )

    def _check(self, endpoint: Endpoint) -> None:
        """Connect once: the password fits, the database is there, and what is acknowledged is on disk."""
        binaries = reachable_binaries(read_version(self._layout.pgdata), None, self._layout.data_dir, self._report)
        try:
            output = run(
                [*psql(binaries, endpoint), "--file=-"],
                account=None,
                timeout_s=_ANSWER_S,
                text=resource("durability.sql"),
                extra={"PGPASSWORD": endpoint.password, "PGCONNECT_TIMEOUT": "5"},
            )
        except CommandFailed as error:
            hint = ""
            if "password authentication failed" in str(error):
                hint = f" Remove {self._layout.password_file}: the next start of the database sets a new one."
            raise DatabaseRefused(f"The database that runs does not let memfast in.{hint}\n{error}") from error
        settings = dict(line.split("|", 1) for line in output.splitlines() if "|" in line)
        wrong = [f"{name} = {settings.get(name)}" for name, value in _DURABLE.items() if settings.get(name) != value]
        if wrong:
            raise DatabaseRefused(
                f"The database would lose acknowledged writes ({', '.join(wrong)}). Reset what "
                "switched it off (ALTER SYSTEM, ALTER DATABASE or ALTER ROLE memfast) and start again."
            )
        if settings.get("data_checksums") != "on":
            self._report("The database has no data checksums: a failing disk would go unnoticed (pg_checksums)")


def psql(binaries: Binaries, endpoint: Endpoint) -> list[str]:
    """The command line of psql for an endpoint; the password goes by PGPASSWORD."""
    return [
        os.fspath(binaries.program("psql")),
        "--no-psqlrc",
        "--no-align",
        "--tuples-only",
        "--quiet",
        "--no-password",
        "--set=ON_ERROR_STOP=1",
        f"--host={endpoint.socket_dir}",
        f"--port={endpoint.port}",
        f"--username={endpoint.user}",
        f"--dbname={endpoint.database}",
    ]


def read_version(pgdata: Path) -> int:
    """The major version that made a database directory. Raises DatabaseRefused when it is none."""
    try:
        return int((pgdata / "PG_VERSION").read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise DatabaseRefused(
            f"{pgdata} is not a PostgreSQL database ({error}): move it away, restore a backup into a new "
            "data directory, or give another --data-dir."
        ) from error


def find_postmaster(pgdata: Path) -> Postmaster | None:
    """The server that runs on a database directory, or None. A pid file alone proves nothing."""
    postmaster = read_postmaster(pgdata)
    if postmaster is None or postmaster.pid <= 0:
        return None
    return postmaster if is_server_of(postmaster.pid, pgdata, _owner(pgdata)) else None


def stop_postmaster(pgdata: Path, timeout_s: float, report: Callable[[str], None]) -> None:
    """Stop the server of a database directory, if one runs. Raises CommandFailed when it does not end."""
    for number, wait_s in ((signal.SIGINT, timeout_s), (signal.SIGQUIT, _QUIT_S)):
        postmaster = find_postmaster(pgdata)
        if postmaster is None:
            return
        pid = postmaster.pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if wait_until(lambda pid=pid: not alive(pid), wait_s):  # type: ignore[misc]
            return
        report(f"PostgreSQL (process {pid}) did not stop within {wait_s:g} s")
    raise CommandFailed(f"PostgreSQL (process {pid}) does not stop: end it by hand (kill -9 {pid}), no data is lost")


def settle_upgrade(layout: Layout, report: Callable[[str], None]) -> None:
    """Finish the exchange of directories that an upgrade was killed in; the caller holds the lock."""
    for old in layout.data_dir.glob("postgres.*.upgrading"):
        if layout.pgdata.exists():
            kept = old.with_suffix(".old")
            report(f"An upgrade was interrupted at its end; the old database is kept as {kept}")
            old.rename(kept)
        else:
            report("An upgrade was interrupted; the old database is put back")
            old.rename(layout.pgdata)
        sync_folder(layout.data_dir)


def _owner(pgdata: Path) -> Account | None:
    if os.geteuid() != 0:
        return None
    status = pgdata.stat()
    return Account("", status.st_uid, status.st_gid)


def _forgiving(pgdata: Path) -> dict[str, str]:
    """Let PostgreSQL pass over a pid file that was left behind; no process works in the directory any more.

    It refuses to start while the number in there is anybody's: a foreign process's by now, or that of a killed server
    which nobody has collected yet. Its grandparent's it allows, which is how pg_ctl names itself. The file stays, and
    with it PostgreSQL's own look for processes that still use the old shared memory.
    """
    stale = read_postmaster(pgdata)
    return {"PG_GRANDPARENT_PID": str(abs(stale.pid))} if stale else {}


def _answers(postmaster: Postmaster) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWER_S)
        try:
            probe.connect(os.fspath(postmaster.socket_dir / f".s.PGSQL.{postmaster.port}"))
        except OSError:
            return False
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(path: Path, start: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - 65536))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
