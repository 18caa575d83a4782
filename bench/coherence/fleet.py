"""Connections that are bound to the workers of a service, one by one."""

from __future__ import annotations

import asyncio
import os
import signal
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import psutil

from bench.harness.load import Connection, encode

__all__ = ["Answer", "Fleet", "Worker"]

SPARE_MAX = 32
"""Idle connections of a worker that are kept."""

SETTLE_S = 60.0
"""How long to wait for a worker, or for a connection of a certain one: which worker takes one is chance."""
_POLL_S = 0.02


class Answer(NamedTuple):
    """What came back. `version` is that of the header `Memfast-Version`, or 0; `token` is a write's."""

    status: int
    tier: str
    version: int
    body: bytes
    token: str = ""


class _Line(Connection):
    """A connection that keeps the head of the last answer."""

    head = b""

    def _read_head(self) -> None:
        super()._read_head()
        if self._end:
            self.head = bytes(self._received[: self._body_start]).lower()

    async def ask(self, request: bytes) -> Answer:
        status, body = await self.send(request)
        version = int(_field(self.head, b"memfast-version") or 0)
        return Answer(status, _field(self.head, b"memfast-tier"), version, body, _field(self.head, b"memfast-token"))

    def close(self) -> None:
        """Close it at once; nobody waits for what is not sent yet."""
        self._transport.abort()

    @property
    def closed(self) -> bool:
        return bool(self._transport.is_closing())


def _field(head: bytes, name: bytes) -> str:
    _, _, rest = head.partition(b"\r\n" + name + b": ")
    return rest.partition(b"\r\n")[0].decode()


class Worker:
    """One place among a service's workers: whoever holds it now answers.

    Attributes:
        pid: the process.
        alive: set while there is one.
    """

    def __init__(self, fleet: Fleet, pid: int) -> None:
        self._fleet = fleet
        self._idle: list[_Line] = []
        self.pid = pid
        self.alive = asyncio.Event()
        self.alive.set()

    async def ask(
        self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] = MappingProxyType({})
    ) -> Answer:
        """One request to this worker, on a connection that is kept.

        Raises:
            ConnectionError: the worker died.
        """
        line = await self._line()
        try:
            answer = await line.ask(encode(method, path, body, headers=headers))
        except BaseException:
            line.close()
            raise
        self.give(line)
        return answer

    def give(self, line: _Line) -> None:
        """Keep a connection of this worker for the next request, or close it where there are enough."""
        if len(self._idle) < SPARE_MAX:
            self._idle.append(line)
        else:
            line.close()

    def dead(self) -> None:
        """The process was killed."""
        self.alive.clear()
        while self._idle:
            self._idle.pop().close()

    async def _line(self) -> _Line:
        await self.alive.wait()
        while self._idle:
            line = self._idle.pop()
            if not line.closed:
                return line
        return await self._fleet.line_to(self)


class Fleet:
    """The workers of a service.

    Args:
        address: where it listens.
        parent_pid: the process whose children the workers are.
    """

    def __init__(self, address: tuple[str, int], parent_pid: int) -> None:
        self._address = address
        self._parent_pid = parent_pid
        self._opened: weakref.WeakSet[_Line] = weakref.WeakSet()
        self.workers = [Worker(self, pid) for pid in self._pids()]

    async def line_to(self, worker: Worker) -> _Line:
        """A new connection that this worker has taken; those that others took are theirs to keep.

        Raises:
            ConnectionError: the worker that took it died.
            TimeoutError: the wanted one takes none.
        """
        async with asyncio.timeout(SETTLE_S):
            while True:
                _, line = await asyncio.get_running_loop().create_connection(_Line, *self._address)
                self._opened.add(line)
                answer = await line.ask(encode("GET", "/v1/health"))
                pid = msgspec.json.decode(answer.body)["pid"]
                if pid == worker.pid:
                    return line
                for other in self.workers:
                    if other.pid == pid:
                        other.give(line)

    async def kill(self, worker: Worker) -> None:
        """End a worker as a crash would, and wait until another has its place.

        Raises:
            TimeoutError: none came.
        """
        others = {other.pid for other in self.workers} - {worker.pid}
        os.kill(worker.pid, signal.SIGKILL)
        worker.dead()
        async with asyncio.timeout(SETTLE_S):
            while len(fresh := [pid for pid in self._pids() if pid not in others | {worker.pid}]) != 1:
                await asyncio.sleep(_POLL_S)
        worker.pid = fresh[0]
        worker.alive.set()

    def close(self) -> None:
        """Close every connection, also one whose request was given up."""
        for line in list(self._opened):
            line.close()

    def _pids(self) -> list[int]:
        children = psutil.Process(self._parent_pid).children()
        return [
            child.pid
            for child in children
            if child.is_running() and child.status() != psutil.STATUS_ZOMBIE and child.name() != "postgres"
        ]
