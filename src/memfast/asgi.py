"""What a worker process runs: `Loader` gives Granian its application, `build_loop` its event loop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
from collections.abc import Callable
from typing import TypeVarTuple, Unpack

import uvloop

from memfast.bootstrap import Ground
from memfast.http.app import build_app
from memfast.http.edge import Edge
from memfast.mcp.face import build_surface
from memfast.mem0.surface import SURFACE

__all__ = ["Loader", "build_loop"]

_PR_SET_PDEATHSIG = 1
_Arguments = TypeVarTuple("_Arguments")


class Loader:
    """Builds the application in the worker, which is a fork of the parent with SIGTERM and SIGINT blocked.

    Args:
        site: what the parent made ready.
        close_port: closes the parent's descriptor of the port, of which the server has one of its own.
    """

    def __init__(self, site: Ground, close_port: Callable[[], None]) -> None:
        self._site = site
        self._close_port = close_port
        self._parent_pid = os.getpid()

    def __call__(self) -> Edge:
        """Give signals their meaning, tie this process to its parent, and build the application.

        From here on SIGTERM ends the worker at once, until Granian sets its handler; the parent's would swallow it. And
        a worker whose parent was killed would go on serving beside its successor.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        # SIGINT stays blocked: Ctrl-C reaches the whole group, and the parent decides.
        _die_with(self._parent_pid)
        self._close_port()
        application = build_app(self._site, [build_surface(self._site.config.mcp), SURFACE])
        gc.freeze()  # modules and routes stay: looking through them again stops the worker for 30 ms each time
        return application


def build_loop() -> asyncio.AbstractEventLoop:
    """The worker's event loop, also set as the current one, as Granian wants it."""
    loop = _Loop()
    asyncio.set_event_loop(loop)
    return loop


class _Loop(uvloop.Loop):
    """uvloop with stop signals that are neither lost nor given twice.

    Its own handlers lose a signal that comes while the loop pauses, which it does between the start of the application
    and the first request; and Granian blocks for ever when it is told twice to stop.
    """

    def add_signal_handler(
        self, sig: int, callback: Callable[[Unpack[_Arguments]], object], *args: *_Arguments
    ) -> None:
        """Call back at the first such signal, whether the loop runs or not; later ones change nothing."""
        pending = [callback]

        def receive(_number: int, _frame: object) -> None:
            if pending:
                pending.pop()(*args)

        signal.signal(sig, receive)


def _die_with(parent_pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        logging.getLogger("memfast").warning("this worker would outlive a killed parent: prctl failed")
    if os.getppid() != parent_pid:
        os._exit(1)  # the parent died before the line above
