"""What a worker process runs: `load` gives Granian its application."""

from __future__ import annotations

import ctypes
import logging
import os
import signal

from memfast.bootstrap import Ground
from memfast.http.app import build_app
from memfast.http.edge import Edge

__all__ = ["Loader"]

_PR_SET_PDEATHSIG = 1


class Loader:
    """Builds the application in the worker. An object, not a closure, so that any start method can carry it."""

    def __init__(self, site: Ground, parent_pid: int) -> None:
        self._site = site
        self._parent_pid = parent_pid

    def __call__(self) -> Edge:
        """Give signals back their meaning, tie this process to its parent, and build the application.

        A forked worker inherits the parent's handler, which would swallow a SIGTERM until Granian sets its own; and a
        worker whose parent was killed would go on serving beside its successor.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
        _die_with(self._parent_pid)
        return build_app(self._site)


def _die_with(parent_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        logging.getLogger("memfast").warning("this worker would outlive a killed parent: prctl failed")
    if os.getppid() != parent_pid:
        os._exit(1)  # the parent died before the line above
