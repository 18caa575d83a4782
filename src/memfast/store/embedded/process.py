"""Which PostgreSQL runs on a database directory: what its pid file says, and whether that is true.

A pid file may be old, and its number may belong to another program by now. A process is ours when it is a
`postgres` whose working directory is the database directory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memfast.store.embedded.account import Account

__all__ = ["Postmaster", "alive", "end_processes", "read_postmaster", "servers_in", "wait_until"]

_POLL_S = 0.01
_QUIT_S = 5.0
_LINES = 8


@dataclass(frozen=True)
class Postmaster:
    """A line-by-line reading of `postmaster.pid`. `status` is starting, ready, stopping or empty."""

    pid: int
    port: int
    socket_dir: Path
    status: str


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll a condition every 10 ms; False when it did not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def read_postmaster(pgdata: Path) -> Postmaster | None:
    """What the pid file says, or None when there is none. Its process need not exist.

    A negative number in the file (a server in single-user mode) is returned as it is.
    """
    try:
        lines = (pgdata / "postmaster.pid").read_text(encoding="utf-8", errors="surrogateescape").split("\n")
        pid = int(lines[0])
    except (OSError, ValueError):
        return None
    lines += [""] * (_LINES - len(lines))
    port = int(lines[3]) if lines[3].isdigit() else 0
    return Postmaster(pid, port, Path(lines[4]), lines[7].strip())


def alive(pid: int) -> bool:
    """Whether a process exists and has not ended yet; one that only waits to be collected has ended."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return facts.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def is_server_of(pid: int, pgdata: Path, account: Account | None) -> bool:
    """Whether the process is a living `postgres` that works in this database directory."""
    try:
        if Path(f"/proc/{pid}/comm").read_bytes().strip() != b"postgres":
            return False
        return alive(pid) and os.path.samestat(Path(f"/proc/{pid}/cwd").stat(), pgdata.stat())
    except PermissionError:
        # Root in a container mostly lacks the right to look into other users' processes; the account may.
        return account is not None and _working_directory(pid, account) == os.fspath(pgdata)
    except OSError:
        return False


def _working_directory(pid: int, account: Account) -> str:
    done = subprocess.run(
        ["readlink", f"/proc/{pid}/cwd"],
        check=False,
        capture_output=True,
        timeout=10,
        cwd="/",
        **account.identity(),
    )
    return os.fsdecode(done.stdout).removesuffix("\n")


def servers_in(pgdata: Path, account: Account | None) -> list[int]:
    """The ids of all PostgreSQL processes that work in a database directory, even without a postmaster."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if is_server_of(pid, pgdata, account)]


def end_processes(pgdata: Path, account: Account | None) -> bool:
    """End processes that outlived their postmaster: quit, then kill. False when some still live.

    Harmless to the data: the next start recovers from the write-ahead log in any case.
    """
    for number in (signal.SIGQUIT, signal.SIGKILL):
        pids = servers_in(pgdata, account)
        if not pids:
            return True
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        wait_until(lambda pids=pids: not any(alive(pid) for pid in pids), _QUIT_S)  # type: ignore[misc]
    return not servers_in(pgdata, account)
