"""A load client that costs little: it shares two cores with the server that it measures."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
import numpy as np
import uvloop
from numpy.typing import NDArray

__all__ = ["JSON", "MSGPACK", "Connection", "Run", "call", "closed_loop", "connections", "encode", "run"]

JSON, MSGPACK = "application/json", "application/msgpack"

_T = TypeVar("_T")
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_ENCODERS = {JSON: msgspec.json.encode, MSGPACK: msgspec.msgpack.encode}


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection that is kept: a request's bytes in, status and body out, one at a time.

    `head` is the start line and the headers of the latest answer, in lower case.
    """

    def __init__(self) -> None:
        self.head = b""
        self._transport: Any = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = bytearray()
        self._body_start = self._end = 0

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take bytes; hand over an answer when all of it has come."""
        self._received += data
        if not self._end:
            self._read_head()
        if self._end and len(self._received) >= self._end and self._answer is not None:
            answer = int(self._received[9:12]), bytes(self._received[self._body_start : self._end])
            self._received.clear()
            self._end = 0
            if not self._answer.done():  # whoever waited may have gone
                self._answer.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail whoever waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server closed the connection"))

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a request made by `encode`; return status and body.

        Raises:
            ConnectionError: the server closed the connection, as it does with one that was idle for long.
        """
        if self._transport.is_closing():
            raise ConnectionError("the server closed the connection before the request")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def _read_head(self) -> None:
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        self.head = bytes(self._received[:head_end]).lower()
        _, found, rest = self.head.partition(b"\r\ncontent-length:")
        self._body_start = head_end + 4
        self._end = self._body_start + (int(rest.partition(b"\r\n")[0]) if found else 0)


@asynccontextmanager
async def connections(address: tuple[str, int], count: int) -> Any:
    """`count` open connections to a server; closed afterwards."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(count):
            _, connection = await loop.create_connection(Connection, *address)
            stack.callback(connection.close)
            opened.append(connection)
        yield opened


def encode(
    method: str, path: str, body: Any = None, *, media_type: str = JSON, headers: Mapping[str, str] = _NO_HEADERS
) -> bytes:
    """A whole request, ready to be sent. Made before the clock runs."""
    content = b"" if body is None else _ENCODERS[media_type](body)
    head = f"{method} {path} HTTP/1.1\r\nhost: bench\r\n"
    if body is not None:
        head += f"content-type: {media_type}\r\ncontent-length: {len(content)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return head.encode() + b"\r\n" + content


async def call(connection: Connection, method: str, path: str, body: Any = None, *, media_type: str = JSON) -> Any:
    """One request outside of a measurement; returns the decoded answer.

    Raises:
        RuntimeError: the status is not one of success.
    """
    status, answer = await connection.send(encode(method, path, body, media_type=media_type))
    if status >= 300:
        raise RuntimeError(f"{method} {path}: {status} {answer[:500].decode('utf-8', 'replace')}")
    return msgspec.json.decode(answer) if answer else None


@dataclass(frozen=True)
class Run:
    """What a closed loop took: seconds in all, and milliseconds of each call in order of completion."""

    seconds: float
    latencies_ms: NDArray[np.float64]

    @property
    def per_second(self) -> float:
        """Calls per second."""
        return len(self.latencies_ms) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the calls, in milliseconds."""
        return float(np.percentile(self.latencies_ms, percent))


async def closed_loop(work: Sequence[_T], clients: Sequence[Callable[[_T], Awaitable[None]]]) -> Run:
    """Give each client the next piece of work when it has done the one before, until all is done."""
    pieces = iter(work)
    latencies_ms: list[float] = []

    async def keep_busy(client: Callable[[_T], Awaitable[None]]) -> None:
        for piece in pieces:
            began = time.perf_counter()
            await client(piece)
            latencies_ms.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for client in itertools.islice(clients, len(work)):
            group.create_task(keep_busy(client))
    return Run(time.perf_counter() - began, np.array(latencies_ms))


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on the loop that the service uses too."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
