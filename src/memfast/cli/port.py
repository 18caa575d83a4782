"""The service's TCP port, which one service at a time may have."""

from __future__ import annotations

import errno
import socket
import time
from types import TracebackType
from typing import Any, Self

from memfast.errors import ConfigError, PortTaken

__all__ = ["Port"]

_POLL_S = 0.05


class Port:
    """A bound socket that only this process has; `listen` opens it to clients.

    Granian's own way on Linux is one SO_REUSEPORT socket a worker: two services on one port then both start and answer
    in turns, and while its only worker is replaced a service refuses connections. Here the workers share one socket.
    """

    def __init__(self, held: socket.socket, name: str) -> None:
        self._socket = held
        self._name = name

    @classmethod
    def claim(cls, host: str, port: int, wait_s: float) -> Port:
        """Bind the address; nobody else can bind it from now on.

        Args:
            host: a name or an address.
            port: the port.
            wait_s: how long to wait for workers of a killed service to let it go.

        Raises:
            ConfigError: the host is not an address of this machine.
            PortTaken: somebody else has it.
        """
        name = f"{host}:{port}"
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise ConfigError(f"server.host = {host!r} is not an address: {error.strerror}") from error
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return cls(_bound(family, address), name)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise ConfigError(f"server.host = {host!r} is not an address of this machine") from error
                if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                    raise _taken(name, error) from error
            time.sleep(_POLL_S)

    def fileno(self) -> int:
        """The descriptor, for the workers."""
        return self._socket.fileno()

    def listen(self, backlog: int) -> None:
        """Let connections come in; they wait for a worker.

        Raises:
            PortTaken: another service listens since.
        """
        try:
            self._socket.listen(backlog)
        except OSError as error:
            raise _taken(self._name, error) from error
        # Inherited by every connection: those in TIME_WAIT must not keep the next service from the port.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

    def close(self) -> None:
        """Give up this process's share. Idempotent."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _bound(family: int, address: Any) -> socket.socket:
    """Bound without SO_REUSEADDR, so that nobody can share a port that does not listen yet.

    Connections that an earlier service left behind stand in the way of that. With them the option is needed; of two
    that start at once both may then bind, and `listen` decides.
    """
    for reuse in (False, True):
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            made.bind(address)
        except OSError as error:
            made.close()
            if reuse or error.errno != errno.EADDRINUSE:
                raise
        else:
            return made
    raise AssertionError  # the second turn returns or raises


def _taken(name: str, error: OSError) -> PortTaken:
    return PortTaken(
        f"{name} cannot be used ({error.strerror}): another service may run there; stop it, or choose another port "
        "with --port"
    )
