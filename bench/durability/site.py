"""A data directory with the service on it, which is killed in every way and started again as a user would."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.durability.clients import Client
from bench.durability.journal import DIMENSIONS
from bench.durability.planted import Unsafe
from bench.harness.service import READY, Service, free_port
from memfast.store.embedded import holder_pids
from memfast.store.embedded.account import Account
from memfast.store.embedded.process import read_postmaster, servers_in

__all__ = ["BACK_S", "Site", "processes_of", "site"]

BACK_S = 60.0
"""How long it may take until a write succeeds again."""

_POLL_S = 0.02
SETTINGS = (
    "--set",
    "server.workers=2",
    "--set",
    "embedding.provider=none",
    "--set",
    f"embedding.dimensions={DIMENSIONS}",
    "--set",
    "links.similar=0",  # the model knows every version: none may come by itself
    "--set",
    "links.entities=0",
)


class Site:
    """A service of two workers on a data directory, always at the same port.

    Args:
        data_dir: the data directory.
        settings: further words of the command line.
        unsafe: a promise that is broken.
        environment: variables beside those of this process.
        template: a stopped data directory to begin with a copy of; else an empty one.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: tuple[str, ...] = (),
        unsafe: Unsafe | None = None,
        environment: dict[str, str] | None = None,
        template: Path | None = None,
    ) -> None:
        if template is not None:
            subprocess.run(["cp", "-a", template, data_dir], check=True)
        self.data_dir = data_dir
        self.pgdata = data_dir / "postgres"
        self._port = free_port()
        self._settings = (*SETTINGS, *settings)
        self._unsafe = unsafe
        self._environment = environment
        self._service: Service | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return ("127.0.0.1", self._port)

    @property
    def service(self) -> Service:
        """The service that was started last."""
        assert self._service is not None
        return self._service

    def start(self) -> None:
        """Start it and wait until it is ready. What ran before must have been killed."""
        self._service = Service(
            self.data_dir,
            settings=self._settings,
            planted=self._unsafe,
            port=self._port,
            environment=self._environment,
            wait=False,
        )
        self._service.__enter__()
        self._service.wait_for(READY)

    def reap_and_start(self) -> None:
        """Start it again after its parent was killed, as a user would; whatever else still runs is the start's affair."""
        self.service.reap()
        self.start()

    def stop(self) -> None:
        """Stop it as a user would."""
        self.service.__exit__()

    def workers(self) -> list[int]:
        """The ids of its workers."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.service.pid).children()
            return [each.pid for each in children if _lives(each) and each.name() != "postgres"]
        return []

    def kill(self, fault: str, chance: random.Random) -> None:
        """Kill -9 what the fault names; see `kills.FAULTS`."""
        if fault == "worker":
            targets = [chance.choice(self.workers())]
        elif fault == "parent":
            targets = [self.service.pid]
        elif fault == "everything":
            targets = processes_of(self.data_dir)
        else:
            targets = self._server_processes(fault, chance)
        for pid in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill every process that works in the data directory, and wait until they are gone."""
        deadline = time.monotonic() + BACK_S
        while pids := processes_of(self.data_dir):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self._service is not None:
                self._service.reap()
            assert time.monotonic() < deadline, f"processes do not end: {pids}"
            time.sleep(_POLL_S)
        if self._service is not None:
            self._service.reap()

    async def written(self) -> float:
        """Write again and again until a write succeeds; returns the seconds that took.

        Raises:
            TimeoutError: it took longer than `BACK_S`.
        """
        client, began = Client(self.address), time.monotonic()
        body = {"user_id": "probe", "text": "probe", "embedding": [1.0] * DIMENSIONS}
        try:
            async with asyncio.timeout(BACK_S):
                while True:
                    with contextlib.suppress(ConnectionError):
                        status, _, _ = await client.ask("POST", "/v1/memories", body)
                        if status == 201:
                            return time.monotonic() - began
                    await asyncio.sleep(_POLL_S)
        finally:
            client.close()

    def _server_processes(self, fault: str, chance: random.Random) -> list[int]:
        postmaster = read_postmaster(self.pgdata)
        assert postmaster is not None
        if fault == "postmaster":
            return [postmaster.pid]
        children = [each for each in psutil.Process(postmaster.pid).children() if _lives(each)]
        backends = [each.pid for each in children if "[local]" in "".join(each.cmdline())]
        others = [each.pid for each in children if each.pid not in backends]
        return [chance.choice(backends if fault == "backend" else others)]


def processes_of(data_dir: Path) -> list[int]:
    """The processes that serve a data directory: those that hold its lock, and those of its PostgreSQL."""
    pgdata, servers = data_dir / "postgres", []
    with contextlib.suppress(OSError):
        status = pgdata.stat()
        servers = servers_in(pgdata, Account("", status.st_uid, status.st_gid) if os.geteuid() == 0 else None)
    return [*holder_pids(data_dir), *servers]


@contextmanager
def site(data_dir: Path, **options: object) -> Iterator[Site]:
    """A started site; nothing of it is left afterwards."""
    made = Site(data_dir, **options)  # type: ignore[arg-type]
    try:
        made.start()
        yield made
    finally:
        made.end()


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
