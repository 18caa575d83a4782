"""Starts a server again that ended by itself: its first process was killed, or found no room left to recover in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Self

from memfast.errors import StartError
from memfast.store.embedded.cluster import Cluster

__all__ = ["Keeper"]

_log = logging.getLogger("memfast.store")

_LOOK_S = 0.25
"""How often to look whether the server lives, in seconds."""

_RETRY_S = 1.0
"""Time between two attempts to start it, in seconds."""

_JOIN_S = 0.1


class Keeper:
    """Keeps the server of a started cluster running as long as this is entered; then the server is stopped.

    The death of its other processes PostgreSQL mends by itself; that of the first one, the postmaster, it cannot. The
    holder of the data directory enters this, and nobody else.

    Args:
        cluster: the cluster, started.
        report: called with one line of progress.
    """

    def __init__(self, cluster: Cluster, report: Callable[[str], None] = lambda _line: None) -> None:
        self._cluster = cluster
        self._report = report
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="memfast-keeper", daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch, in a thread."""
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        """End the watch and stop the server, also one that is just being started."""
        self._stopping.set()
        while self._thread.is_alive():
            self._cluster.stop()
            self._thread.join(_JOIN_S)
        self._cluster.stop()

    def _keep(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            if not self._cluster.lives():
                self._report("PostgreSQL ended by itself and is started again")
                self._revive()

    def _revive(self) -> None:
        """Start the server, again and again until it runs or the watch ends."""
        while not self._stopping.is_set():
            try:
                self._cluster.start(create=False)
            except StartError as error:
                _log.warning("PostgreSQL could not be started again, the next attempt follows: %s", error)
            except Exception:  # noqa: BLE001 - a thread's edge: whatever it meets, the server must come back
                _log.exception("PostgreSQL could not be started again, the next attempt follows")
            else:
                self._report("PostgreSQL runs again")
                return
            self._stopping.wait(_RETRY_S)
