"""A real service in a process of its own, and what one may ask of it from outside."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import psutil

from memfast.store.embedded import Cluster

__all__ = ["READY", "Plantable", "Planted", "Program", "Service", "free_port", "scratch_dir"]

READY = b"GET /v1/health/ready HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n"

_CPU_CLOCK = 2
"""With the id of a process, Linux makes a clock of its CPU time in nanoseconds of this: clock_getcpuclockid(3)."""
_POLL_S = 0.002
_START_S = 120.0
_STOP_S = 60.0
_TAIL_BYTES = 2000


class Program:
    """A server program: started on entry, answering on exit from `wait_for`, stopped by SIGTERM at the end.

    Args:
        command: the command line.
        port: where it will listen, on loopback.
        log_file: takes what it prints.
        environment: variables beside those of this process.
    """

    def __init__(
        self, command: list[str], port: int, log_file: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.port = port
        self.address = ("127.0.0.1", port)
        self._command = command
        self._log_file = log_file
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0

    def __enter__(self) -> Self:
        """Start it; `started_at` is the moment, by `time.perf_counter`."""
        with self._log_file.open("ab") as log:
            self.started_at = time.perf_counter()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )
        return self

    def __exit__(self, *_details: object) -> None:
        """Stop it and wait until it has ended."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def reap(self) -> None:
        """Collect a process that was killed."""
        if self._process is not None:
            self._process.wait(_STOP_S)

    def wait_for(self, request: bytes, *, timeout_s: float = _START_S) -> float:
        """Send a request again and again until it is answered with 200.

        Returns:
            Seconds from the start of the program to that answer.

        Raises:
            RuntimeError: the program ended, or gave no such answer in time; with the end of its log.
        """
        assert self._process is not None
        deadline = time.perf_counter() + timeout_s
        while time.perf_counter() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"ended with code {self._process.returncode}: {self._log_tail()}")
            if _status(self.address, request) == 200:
                return time.perf_counter() - self.started_at
            time.sleep(_POLL_S)
        raise RuntimeError(f"gave no answer within {timeout_s:g} s: {self._log_tail()}")

    @property
    def pid(self) -> int:
        """The id of the started process."""
        assert self._process is not None
        return self._process.pid

    def worker_cpu_s(self) -> float:
        """CPU time that the workers have used, user and system, in seconds; PostgreSQL is not in it."""
        assert self._process is not None
        workers = [child for child in psutil.Process(self._process.pid).children() if child.name() != "postgres"]
        return sum(time.clock_gettime(~worker.pid << 3 | _CPU_CLOCK) for worker in workers)

    def _log_tail(self) -> str:
        return self._log_file.read_bytes()[-_TAIL_BYTES:].decode("utf-8", errors="replace")


class Plantable(Protocol):
    """A fault that a service can be started with."""

    def program(self) -> list[str]:
        """The module that runs such a service, and its first arguments."""
        ...


@dataclass(frozen=True)
class Planted:
    """CPU time that a service is made to lose, in seconds: once at its start, and with every `every`-th request."""

    start_s: float = 0.0
    request_s: float = 0.0
    every: int = 1

    def program(self) -> list[str]:
        """The module that runs such a service, and its first arguments."""
        return ["bench.harness.planted", str(self.start_s), str(self.request_s), str(self.every)]


class Service(Program):
    """`memfast serve` on a data directory, ready on entry unless `wait` is False.

    Args:
        data_dir: its data directory.
        settings: further words of its command line.
        planted: a fault that a gate must catch.
        wait: whether to return only when it is ready.
        port: where it listens; 0 is any that is free.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: tuple[str, ...] = (),
        planted: Plantable | None = None,
        wait: bool = True,
        port: int = 0,
        environment: dict[str, str] | None = None,
    ) -> None:
        port = port or free_port()
        program = ["memfast"] if planted is None else planted.program()
        command = [sys.executable, "-m", *program, "serve", "--port", str(port), "--data-dir", str(data_dir), *settings]
        super().__init__(command, port, data_dir.with_suffix(".log"), environment)
        self.data_dir = data_dir
        self.url = f"http://127.0.0.1:{port}"
        self._wait = wait

    def __enter__(self) -> Self:
        """Start it and wait until it can commit."""
        super().__enter__()
        try:
            if self._wait:
                self.wait_for(READY)
        except BaseException:
            self.__exit__()
            raise
        return self

    def database(self) -> dict[str, Any]:
        """Arguments for `asyncpg.connect` to the service's own PostgreSQL."""
        endpoint = Cluster(self.data_dir).running()
        assert endpoint is not None
        return dict(endpoint.connect_arguments())


def free_port() -> int:
    """A TCP port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def scratch_dir() -> Iterator[Path]:
    """A directory that is gone afterwards. Others may pass through it: as root, PostgreSQL runs as another user."""
    path = Path(tempfile.mkdtemp(prefix="memfast-bench-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _status(address: tuple[str, int], request: bytes) -> int:
    """The status of the answer; 0 when nobody listens."""
    try:
        with socket.create_connection(address, timeout=10.0) as connection:
            connection.sendall(request)
            head = connection.recv(64)
    except OSError:
        return 0
    return int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0
