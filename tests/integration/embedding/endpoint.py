"""A real HTTP/1.1 server that speaks `POST /v1/embeddings`, well or badly, in the test's own event loop."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DIMENSIONS = 8


def vector_of(text: str, dimensions: int = DIMENSIONS) -> np.ndarray:
    """The endpoint's model: float32 (dimensions,), one fixed vector for each text, not of norm 1."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    return (3 * np.random.default_rng(seed).standard_normal(dimensions)).astype(np.float32)


@dataclass
class Reply:
    """One answer. `body` is cut after `cut_after` bytes; the connection is then silent, or sends blanks for ever."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    drip_s: float | None = None


def embeddings(request: dict[str, Any], *, form: str | None = None, dimensions: int = DIMENSIONS) -> Reply:
    """What a good endpoint answers, as `form` or as asked."""
    form = form or request.get("encoding_format", "float")
    rows = [
        {"object": "embedding", "index": index, "embedding": as_form(vector_of(text, dimensions), form)}
        for index, text in enumerate(request["input"])
    ]
    return listing(rows)


def listing(rows: list[dict[str, Any]]) -> Reply:
    """Wrap rows as the protocol does."""
    return Reply(json.dumps({"object": "list", "data": rows, "model": "m", "usage": {}}).encode())


def as_form(vector: np.ndarray, form: str) -> Any:
    """One vector as base64 of little-endian float32, or as a list."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()


class Endpoint:
    """Counts what clients do. Set `answer` to change what it says, clear `release` to make it wait first."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], Reply] = embeddings
        self.release = asyncio.Event()
        self.release.set()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.connections = 0
        self.waiting = 0
        self.most_waiting = 0
        self.arrived = asyncio.Condition()
        self.base_url = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def wait_for_waiting(self, count: int) -> None:
        """Return when `count` requests are held back by `release`."""
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: self.waiting >= count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, kept alive."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def listen(self) -> None:
        """Take connections, after a death at the same address."""
        port = int(self.base_url.rpartition(":")[2].partition("/")[0] or 0)
        self._server = await asyncio.start_server(self.serve, "127.0.0.1", port)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def die(self) -> None:
        """Drop all connections and take no more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if server is not None:
            await server.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        line = (await reader.readline()).decode()
        if not line:
            return False
        headers: dict[str, str] = {}
        while header := (await reader.readline()).decode().strip():
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        request = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.requests.append(request)
        self.headers.append(headers)
        self.paths.append(line.split()[1])
        await self._hold()
        reply = self.answer(request)
        head = f"HTTP/1.1 {reply.status} Whatever\r\nContent-Length: {len(reply.body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        writer.write(head.encode() + b"\r\n" + reply.body[: reply.cut_after])
        await writer.drain()
        while reply.drip_s is not None:
            await asyncio.sleep(reply.drip_s)
            writer.write(b" ")
            await writer.drain()
        if reply.cut_after is not None:
            await reader.read()  # silent until the client goes
        return True

    async def _hold(self) -> None:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        async with self.arrived:
            self.arrived.notify_all()
        try:
            await self.release.wait()
        finally:
            self.waiting -= 1


@asynccontextmanager
async def serving() -> AsyncIterator[Endpoint]:
    """An endpoint on a free loopback port."""
    endpoint = Endpoint()
    await endpoint.listen()
    try:
        yield endpoint
    finally:
        await endpoint.die()
