"""Whether the disk under the embedded PostgreSQL has room for writes.

PostgreSQL bears a disk without room for its tables, but ends when its write-ahead log cannot grow, and then cannot even
recover. So writes are refused while some of the disk is still free.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from memfast.errors import StoreFull

__all__ = ["Room"]

_log = logging.getLogger("memfast.store")

_LOOK_S = 0.25
"""How often the disk is looked at, in seconds: what is written meanwhile is to be less than the reserve."""

_LOOKS_MAX = 8
"""So many times that at most passes between two looks, where so many reserves are free: it cannot be gone sooner."""

_RETRY_AFTER_S = 30
_MIB = 1024 * 1024


class Room:
    """The free space below some folders, and how much of it writes may not use.

    Args:
        folders: where the database and its log lie; the one on the fullest disk counts.
        reserve_bytes: below so much, writes are refused.
    """

    def __init__(self, folders: Sequence[Path], reserve_bytes: int) -> None:
        self._folders = folders
        self._reserve_bytes = reserve_bytes
        self._free_bytes = reserve_bytes

    @property
    def pause_s(self) -> float:
        """How long the disk need not be looked at, in seconds."""
        return _LOOK_S * max(1, min(_LOOKS_MAX, self._free_bytes // max(1, self._reserve_bytes) - 1))

    def require(self) -> None:
        """Raise StoreFull when there was no room at the last look."""
        if self._free_bytes < self._reserve_bytes:
            raise StoreFull(
                f"the disk of the database has {self._free_bytes // _MIB} MiB left and "
                f"postgres.disk_reserve_mb = {self._reserve_bytes // _MIB} keeps writes from them; nothing was "
                "written. Free space, then repeat the request",
                retry_after_s=_RETRY_AFTER_S,
                begun=False,
            )

    async def look(self) -> None:
        """Measure. A disk that cannot be asked is as it was."""
        try:
            free_bytes = await asyncio.to_thread(_free_bytes, self._folders)
        except OSError as error:
            _log.debug("the disk cannot be asked for its free space: %s", error)
            return
        had, has = self._free_bytes >= self._reserve_bytes, free_bytes >= self._reserve_bytes
        self._free_bytes = free_bytes
        if had != has:
            _log.warning("%d MiB of disk are left: writes are %s", free_bytes // _MIB, "taken" if has else "refused")

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self.pause_s)
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("the watch over the disk failed")


def _free_bytes(folders: Sequence[Path]) -> int:
    """What an unprivileged process may still use."""
    facts = [os.statvfs(folder) for folder in folders]
    return min(each.f_bavail * each.f_frsize for each in facts)
