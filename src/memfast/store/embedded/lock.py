"""The lock on a data directory: one service at a time, counting its workers.

It is a `flock` on `<data_dir>/lock`. Forked workers inherit the descriptor and with it the lock, which is
free only when the parent and all of them are gone, however they ended. The file is never removed: a new file
of the same name would be a second lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from memfast.errors import DataDirBusy
from memfast.store.embedded.layout import Layout, translated

__all__ = ["DataDirLock", "holder_pids"]

_POLL_S = 0.05


class DataDirLock:
    """A held lock. `fileno()` is the descriptor for processes that are not forked but spawned."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, data_dir: Path, wait_s: float) -> DataDirLock:
        """Create the data directory if needed and take its lock.

        Args:
            data_dir: the data directory.
            wait_s: how long to wait for another holder to end.

        Raises:
            DataDirBusy: somebody else still holds it; names the process ids.
            DatabaseRefused: the directory cannot be made or written.
        """
        layout = Layout.at(data_dir)
        layout.make_data_dir()
        with translated(layout.data_dir):
            descriptor = os.open(_path(layout), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _take(descriptor, wait_s, layout)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            os.set_inheritable(descriptor, True)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def fileno(self) -> int:
        """The descriptor that holds the lock."""
        return self._descriptor

    def release(self) -> None:
        """Give up this process's share; the lock is free when no worker has one either. Idempotent."""
        if self._descriptor >= 0:
            # Closed, not unlocked: LOCK_UN would take the lock away from living workers, who share it.
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder_pids(data_dir: Path) -> list[int]:
    """The ids of the processes that hold the lock of a data directory, in order; empty when it is free.

    A holder that belongs to another user may be hidden by the system; then the process that took the lock
    stands in its place.
    """
    path = _path(Layout.at(data_dir))
    try:
        with path.open("rb") as file:
            if _attempt(file.fileno()):
                return []
            written = file.read(32)
            status = os.fstat(file.fileno())
    except OSError:
        return []
    holders = [pid for pid in _processes() if _holds(pid, status)]
    if not holders and written.strip().isdigit():
        holders = [int(written)]
    return holders


def _path(layout: Layout) -> Path:
    return layout.data_dir / "lock"


def _attempt(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take(descriptor: int, wait_s: float, layout: Layout) -> None:
    deadline = time.monotonic() + wait_s
    while not _attempt(descriptor):
        if time.monotonic() >= deadline:
            raise DataDirBusy(_busy(layout, wait_s))
        time.sleep(_POLL_S)


def _processes() -> list[int]:
    return sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _holds(pid: int, status: os.stat_result) -> bool:
    """Whether a process has the file open with a lock on it; one that only waits for the lock has none."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(entry.stat(), status):
                    facts = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text(encoding="ascii", errors="replace")
                    if "\nlock:" in facts:
                        return True
    return False


def _busy(layout: Layout, wait_s: float) -> str:
    pids = ", ".join(str(pid) for pid in holder_pids(layout.data_dir)) or "unknown"
    return (
        f"The data directory {layout.data_dir} is in use by another memfast (process ids: {pids}), also "
        f"after waiting {wait_s:g} s. Stop that one, end workers that outlived their service (kill the "
        "processes named here), or give another --data-dir."
    )
