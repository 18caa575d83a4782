"""The cells of all workers in one mapped file, and snapshots of their sums: what can be said of the last hour."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALIVE_S", "CELLS", "RESERVED", "RINGS", "Board", "Row"]

CELLS = 6144
"""Float64 cells of a row, 48 KiB: more than all definitions need together, which the layout checks."""

RESERVED = 8
"""Cells at a row's begin that say whose it is: 0 the time of its last sign of life, 1 the process id. Cell 2 of the
first row is the time of anybody's first sign of life."""

RINGS = ((10.0, 32), (60.0, 62))
"""Snapshots that are kept, by the time between two of them in seconds and their number: 5 minutes and 60."""

ALIVE_S = 3.5
"""Age of the last sign of life up to which a worker is one, in seconds: there is one every second."""

_MAGIC = b"MEMFMETR"
_FORMAT = 1
_HEADER_BYTES = 4096
_HEADER = struct.Struct("=8sIII")
"""Magic, format, rows, cells of a row."""
_SNAPSHOTS = sum(count for _, count in RINGS)
_LOCK = struct.Struct("hhqqi")
"""C's `struct flock`: type, whence, start, length, process."""
_HISTORY_LOCK = 1 << 30


class Row(NamedTuple):
    """A writer's own cells, as it holds them: its number, and float64 (`CELLS`,)."""

    number: int
    cells: memoryview


class Board:
    """The cells of some writers, and snapshots of their sums.

    Args:
        mapping: as `_size` wants it.
        rows: writers at most.
        file: where rows are claimed by locks; None for cells of this process alone.
    """

    def __init__(self, mapping: mmap.mmap, rows: int, file: int | None) -> None:
        self._file = file
        first = _HEADER_BYTES // 8
        words: NDArray[np.float64] = np.frombuffer(mapping, dtype=np.float64)
        self.rows = words[first : first + rows * CELLS].reshape(rows, CELLS)
        """All cells, float64 (rows, `CELLS`)."""
        self._snapshots = words[first + rows * CELLS :].reshape(_SNAPSHOTS, 1 + CELLS)

    @classmethod
    def create(cls, path: str | os.PathLike[str], rows: int) -> None:
        """Make the file, allocated in full: a write to a hole of a full disk would end the process by SIGBUS.

        Raises:
            FileExistsError: there is one.
            OSError: there is no room, or no permission.
        """
        file, temporary = tempfile.mkstemp(prefix=Path(path).name, dir=Path(path).parent)
        try:
            os.posix_fallocate(file, 0, _size(rows))
            os.pwrite(file, _HEADER.pack(_MAGIC, _FORMAT, rows, CELLS), 0)
            os.link(temporary, path)
        finally:
            Path(temporary).unlink()
            os.close(file)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a file that `create` made.

        Raises:
            ValueError: it is none.
            OSError: it cannot be opened or mapped.
        """
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            rows = _checked_rows(path, file)
            return cls(mmap.mmap(file, _size(rows)), rows, file)
        except BaseException:
            os.close(file)
            raise

    @classmethod
    def private(cls) -> Self:
        """Cells of one writer that nobody else sees."""
        return cls(mmap.mmap(-1, _size(1)), 1, None)

    def claim(self) -> Row | None:
        """The first row that nobody holds, with what was counted in it before; None when there is none.

        It is held until `close`, or the end of the process, however that comes.
        """
        for number in range(len(self.rows)):
            if self._lock(number):
                self.rows[number, 1] = os.getpid()
                return Row(number, memoryview(self.rows[number]))
        return None

    def beat(self, row: int, now_s: float) -> None:
        """A sign of life of a row's writer. What the workers counted is kept for `since` when it is time."""
        self.rows[row, 0] = now_s
        if not self.rows[0, 2]:
            self.rows[0, 2] = now_s
        first = 0
        for interval_s, count in RINGS:
            turn = int(now_s // interval_s)
            place = first + turn % count
            if self._snapshots[place, 0] < turn * interval_s and self._lock(_HISTORY_LOCK):
                try:
                    self._keep(place, turn * interval_s, now_s)
                finally:
                    self._unlock(_HISTORY_LOCK)
            first += count

    def alive(self, now_s: float) -> list[int]:
        """Rows whose writers live."""
        return [int(row) for row in np.flatnonzero(self.rows[:, 0] > now_s - ALIVE_S)]

    def totals(self) -> NDArray[np.float64]:
        """The sums of all rows, also of those whose writers are gone: float64 (`CELLS`,)."""
        totals: NDArray[np.float64] = self.rows.sum(axis=0)
        return totals

    def since_start(self, now_s: float) -> tuple[NDArray[np.float64], float]:
        """Everything that was ever counted, and in how many seconds."""
        return self.totals(), max(0.0, now_s - float(self.rows[0, 2]))

    def since(self, now_s: float, window_s: float) -> tuple[NDArray[np.float64], float]:
        """What was added to every cell in about the last `window_s`, and in how many seconds.

        Those are more than the window by one snapshot's interval at most, or fewer where the board is younger: it then
        says everything that was counted since its first snapshot.
        """
        totals, times = self.totals(), self._snapshots[:, 0].copy()
        order = np.argsort(times)
        known = [int(place) for place in order if times[place] > 0]
        before = [place for place in known if times[place] <= now_s - window_s]
        for place in before[-1:] or known[:1]:
            then = self._snapshots[place].copy()
            if then[0] == times[place]:  # else it was just written anew
                return totals - then[1:], now_s - float(then[0])
        return totals, 0.0

    def close(self, row: int | None = None) -> None:
        """Give the row up; its gauges are gone at once. The mapping goes with its last user."""
        if row is not None:
            self.rows[row, 0] = 0.0
            self._unlock(row)  # the mapping keeps the file open
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _keep(self, place: int, due_s: float, now_s: float) -> None:
        snapshot = self._snapshots[place]
        if snapshot[0] >= due_s:  # somebody was faster
            return
        snapshot[0] = 0.0  # a reader that comes now takes another one
        snapshot[1:] = self.totals()
        snapshot[0] = now_s

    def _lock(self, byte: int) -> bool:
        """Take a lock of this open file, if nobody has it. It ends with the file or the process."""
        return self._locked(byte, fcntl.F_WRLCK)

    def _unlock(self, byte: int) -> None:
        self._locked(byte, fcntl.F_UNLCK)

    def _locked(self, byte: int, kind: int) -> bool:
        if self._file is None:
            return True
        wanted: Any = _LOCK.pack(kind, os.SEEK_SET, byte, 1, 0)
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, wanted)
        except BlockingIOError:
            return False
        return True


def _checked_rows(path: str | os.PathLike[str], file: int) -> int:
    """The rows of an open file, which must be one of ours."""
    head = os.pread(file, _HEADER.size, 0)
    magic, version, rows, cells = _HEADER.unpack(head) if len(head) == _HEADER.size else (head, 0, 0, 0)
    if (magic, version, cells) != (_MAGIC, _FORMAT, CELLS) or os.fstat(file).st_size != _size(rows):
        raise ValueError(f"{os.fspath(path)} holds no metrics of this version")
    return int(rows)


def _size(rows: int) -> int:
    return _HEADER_BYTES + 8 * (rows * CELLS + _SNAPSHOTS * (1 + CELLS))
