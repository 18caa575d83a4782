"""The worker processes: Granian with one shared socket, and stops that cannot be lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable
from typing import Any

from granian import loops
from granian._granian import SocketHolder
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from memfast.asgi import Loader, build_loop
from memfast.bootstrap import Ground
from memfast.cli.port import Port
from memfast.cli.signals import STOP_SIGNALS

__all__ = ["run_workers"]

YOUNG_S = 5.5
"""Age in seconds below which a worker that was killed is replaced only after a pause."""

PAUSE_S = 1.0
"""That pause, in seconds."""

_STOP_POLL_S = 0.01
_LOOP = "memfast"
_KILL_S = 5
"""Seconds beyond the stop timeout after which a worker is killed."""


def run_workers(site: Ground, port: Port) -> None:
    """Run the workers until SIGTERM or SIGINT; they share the listening `port`.

    Raises:
        SystemExit: with 1, when workers end by themselves again and again.
    """
    multiprocessing.set_start_method("fork", force=True)  # workers inherit the data directory's lock and the port
    # A signal between fork and the worker's own handlers would meet the parent's, which mean nothing there.
    os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals_through)
    server = site.config.server
    loops.register(_LOOP)(build_loop)
    granian = _Server(
        "memfast.asgi",
        address=server.host,
        port=server.port,
        interface=Interfaces.ASGI,
        workers=server.workers,
        loop=_LOOP,  # type: ignore[arg-type]  # a name registered above
        http1_settings=HTTP1Settings(),
        websockets=False,
        backlog=server.backlog,
        log_level=LogLevels.warning,
        log_access=False,
        respawn_failed_workers=True,
        workers_kill_timeout=server.stop_timeout_s + _KILL_S,
        process_name="memfast",
    )
    granian.share(port)
    granian.serve(target_loader=Loader(site, port.close), wrap_loader=False)


def _hold_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def _let_signals_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


class _Server(MPServer):
    """Granian with a socket that was bound before, as it has one by itself on other systems than Linux."""

    _sfd: Any
    _shd: Any

    def share(self, port: Port) -> None:
        """Serve on this port."""
        self._port = port

    def _respawn_workers(self, workers: Iterable[int], spawn_target: Any, target_loader: Any, delay: float = 0) -> None:
        """Replace workers that died.

        Granian takes two deaths of a worker within 5.5 s for a program that cannot start, and ends the service. One
        that was killed says nothing of the program: it is replaced however often that happens, but not at once.
        """
        dead = {idx: self.wrks[idx] for idx in workers}
        killed = [idx for idx, worker in dead.items() if (worker.inner.exitcode or 0) < 0]
        if any(time.monotonic() - dead[idx].birth < YOUNG_S for idx in killed):
            time.sleep(PAUSE_S)
        super()._respawn_workers(list(dead), spawn_target, target_loader, delay)
        for idx in killed:
            self.respawned_wrks.pop(idx, None)

    def _stop_workers(self) -> None:
        """Stop them, and wait for it: Granian kills one that has ended and is not collected a millisecond later."""
        workers: list[Any] = list(self.wrks)
        for worker in workers:
            worker.terminate()
        until = time.monotonic() + (self.workers_kill_timeout or 0)
        while any(worker.is_alive() for worker in workers) and time.monotonic() < until:
            time.sleep(_STOP_POLL_S)
        super()._stop_workers()  # type: ignore[no-untyped-call]

    def _init_shared_socket(self) -> None:
        # A descriptor of its own: a worker closes it when it accepts no more.
        self._sfd = os.dup(self._port.fileno())
        self._shd = SocketHolder(self._sfd, False, self.backlog)  # type: ignore[call-arg]  # missing in its stub
        self._ssp = None
        self._sso = None

    def _drop_shared_socket(self) -> None:
        # Not shut down but closed: the workers accept what has come in, then it is closed everywhere.
        self._port.close()
        os.close(self._sfd)
