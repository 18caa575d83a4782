"""A service of a program's own: started with a client, stopped with it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self

from memfast.client.awaiting import AsyncClient
from memfast.client.blocking import Client
from memfast.errors import ServiceUnreachable, Unavailable

__all__ = ["LocalAsyncClient", "LocalClient", "local", "local_async"]

START_S = 120.0
"""How long a start may take; the first one in a directory makes a database."""

_STOP_S = 30.0
_LOOK_S = 0.05
_TAIL_BYTES = 2000


class _Service:
    """A `memfast serve` on a free port of loopback, which ends with this process whatever becomes of it."""

    def __init__(self, data_dir: str | os.PathLike[str] | None, settings: Mapping[str, object]) -> None:
        self._given = None if data_dir is None else Path(data_dir)
        self._settings = settings
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._end: weakref.finalize[[int, subprocess.Popen[bytes], Path | None, IO[bytes]], _Service] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready; again after a stop, with the same directory if one was given.

        Raises:
            ServiceUnreachable: it ended, or was not ready in time; with the end of what it printed.
        """
        if self._end is not None and self._end.alive:
            return
        temporary = None if self._given is not None else _new_folder()
        data_dir = self._given or (temporary or Path()) / "data"
        chosen = [word for name, value in self._settings.items() for word in ("--set", f"{name}={value}")]
        words = [sys.executable, "-m", "memfast", "serve", "--with-stdin", "--host", "127.0.0.1"]
        words += ["--port", str(self._port), "--data-dir", str(data_dir), *chosen]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMFAST_")}
        log = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the service
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
        self._end = weakref.finalize(self, _stop, os.getpid(), process, temporary, log)
        try:
            self._wait(process, log)
        except BaseException:
            self.stop()
            raise

    def _wait(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        deadline = time.monotonic() + START_S
        with Client(self.url, "", retries=0, timeout_s=5.0) as client:
            while process.poll() is None and time.monotonic() < deadline:
                try:
                    if client.health().status == "ready":
                        return
                except Unavailable:
                    pass
                time.sleep(_LOOK_S)
        log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
        told = log.read().decode("utf-8", "replace")
        raise ServiceUnreachable(f"the local service did not start (exit code {process.poll()}): {told}")

    def stop(self) -> None:
        """Stop it, and wait until it has ended."""
        if self._end is not None:
            self._end()


def _new_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="memfast-"))
    if os.geteuid() == 0:
        folder.chmod(0o755)  # PostgreSQL runs as another user then, and must pass through
    return folder


def _stop(owner: int, process: subprocess.Popen[bytes], temporary: Path | None, log: IO[bytes]) -> None:
    """End a service in order, and remove its directory unless that was given."""
    if os.getpid() != owner:  # a forked child ends: the service is its parent's
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()
    if temporary is not None:
        shutil.rmtree(temporary, ignore_errors=True)


class LocalClient(Client):
    """A client with a service of its own, which `close` stops."""

    def __init__(self, service: _Service, api_key: str | None, timeout_s: float | None) -> None:
        super().__init__(service.url, api_key, timeout_s=timeout_s)
        self._service = service

    def close(self) -> None:
        """Close the connections and stop the service."""
        super().close()
        self._service.stop()


class LocalAsyncClient(AsyncClient):
    """A client with a service of its own, which runs from `async with` on and which `close` stops."""

    def __init__(self, service: _Service, api_key: str | None, timeout_s: float | None) -> None:
        super().__init__(service.url, api_key, timeout_s=timeout_s)
        self._service = service

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._service.start)
        return self

    async def close(self) -> None:
        """Close the connections and stop the service."""
        await super().close()
        await asyncio.to_thread(self._service.stop)


def local(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    api_key: str | None = "",
    timeout_s: float | None = None,
    settings: Mapping[str, object] | None = None,
) -> LocalClient:
    """Start a service for this process and give a client of it.

    It ends when the client is closed, and at the latest with the process, also one that is killed. MEMFAST_* variables
    are not for it.

    Args:
        data_dir: where its database lies and stays; without it in a temporary directory, removed at the end.
        api_key: needed where keys were made in that directory.
        timeout_s: see `Client`.
        settings: any settings by their names, e.g. `{"embedding.provider": "none"}`.

    Raises:
        ServiceUnreachable: it does not start, with what it printed.
    """
    service = _Service(data_dir, settings or {})
    service.start()
    return LocalClient(service, api_key, timeout_s)


def local_async(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    api_key: str | None = "",
    timeout_s: float | None = None,
    settings: Mapping[str, object] | None = None,
) -> LocalAsyncClient:
    """As `local`, awaited: the service is started by `async with`."""
    return LocalAsyncClient(_Service(data_dir, settings or {}), api_key, timeout_s)
