"""Disks of one's own: one whose power is cut, and one that is small. Mounting them needs root and loop devices."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

__all__ = ["NotPermitted", "VolatileDisk", "small_disk"]

_SHUTDOWN = 0x8004587D
"""The request FS_IOC_SHUTDOWN of ext4 and others: _IOR('X', 125, __u32)."""

_WITHOUT_FLUSH = struct.pack("I", 2)
_MIB = 1024 * 1024
_UNMOUNT_S = 20.0
_POLL_S = 0.05


class NotPermitted(Exception):
    """This machine does not let us mount."""


class VolatileDisk:
    """A file system on a disk with a write cache that loses its content when the power goes.

    It is an ext4 in an image file in another ext4. What the inner one writes lies in the memory of the outer one until
    the inner one sends a flush, as it does for fsync: that is the disk's cache. `cut` shuts the outer one down without
    a flush; from that moment nothing more reaches its image, neither what the cache held nor what comes later. `replug`
    mounts both anew, and their journals are replayed as after a power cut.

    Args:
        folder: an empty directory for the images.
        size_mb: how much fits, in MiB.
        honest: whether a flush is one; a disk that only says so loses what was flushed too.

    Attributes:
        path: where the file system is mounted.
    """

    def __init__(self, folder: Path, size_mb: int = 512, *, honest: bool = True) -> None:
        self.path = folder / "disk"
        self._size_mb = size_mb
        self._options = "loop,barrier=1" if honest else "loop,barrier=0"
        self._platter = folder / "platter"
        self._outer, self._inner = folder / "platter.img", self._platter / "disk.img"

    def __enter__(self) -> Self:
        """Make and mount it.

        Raises:
            NotPermitted: this machine does not allow it.
        """
        try:
            self._format()
            self.replug()
        except (OSError, subprocess.CalledProcessError) as error:
            self._unmount()
            raise NotPermitted(f"{error} {getattr(error, 'stderr', '')}") from error
        except BaseException:
            self._unmount()
            raise
        return self

    def __exit__(self, *_details: object) -> None:
        """Unmount it."""
        self._unmount()

    def cut(self) -> None:
        """The power goes. Whoever works on the disk gets errors from now on."""
        folder = os.open(self._platter, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, _WITHOUT_FLUSH)
        finally:
            os.close(folder)

    def replug(self) -> None:
        """The power is back. Nobody may work on the disk any more."""
        self._unmount()
        _run("mount", "-o", "loop", self._outer, self._platter)
        _run("mount", "-o", self._options, self._inner, self.path)

    def flush(self) -> None:
        """Let everything reach the disk that was written until now."""
        _run("sync", "-f", self.path)
        _run("sync", "-f", self._platter)

    def _format(self) -> None:
        self._platter.mkdir()
        self.path.mkdir()
        with self._outer.open("wb") as image:
            image.truncate((self._size_mb + 64) * _MIB)
        _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", self._outer)
        _run("mount", "-o", "loop", self._outer, self._platter)
        with self._inner.open("wb") as image:
            os.posix_fallocate(image.fileno(), 0, self._size_mb * _MIB)
        _run("mkfs.ext4", "-q", "-E", "nodiscard", self._inner)
        _run("sync", "-f", self._platter)

    def _unmount(self) -> None:
        for place in (self.path, self._platter):
            _unmount(place)


@contextmanager
def small_disk(place: Path, size_mb: int) -> Iterator[Path]:
    """A file system of a limited size, in memory, mounted at a new directory.

    Raises:
        NotPermitted: this machine does not allow it.
    """
    place.mkdir()
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0755", "tmpfs", place)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotPermitted(f"{error} {getattr(error, 'stderr', '')}") from error
    try:
        yield place
    finally:
        _unmount(place)


def _run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def _unmount(place: Path) -> None:
    """Unmount it if it is mounted: when it is free, and after a while all the same, so that it goes once it is free."""
    deadline = time.monotonic() + _UNMOUNT_S
    while place.is_mount():
        lazy = ["-l"] if time.monotonic() > deadline else []
        subprocess.run(["umount", *lazy, place], check=False, capture_output=True)
        time.sleep(_POLL_S)
