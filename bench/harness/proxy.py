"""A network that fails on demand: it stands between clients and a server, and passes bytes on as its faults say.

    async with Proxy(target) as proxy:          # a Unix socket's path, or host and port
        ... connect to proxy.address ...
        proxy.faults.append(Delay(0.05))        # from now on, on every connection

A fault is given each piece of bytes with its direction, and returns what goes on; it may wait, send by itself, or cut.
Several act one after another. `cut` breaks every connection at once, `accepting = False` turns new ones away.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import weakref
from collections.abc import Awaitable, Callable
from enum import Enum
from pathlib import Path
from typing import Literal, Protocol, Self

__all__ = ["Address", "AtCommit", "BlackHole", "Break", "Delay", "Drip", "Fault", "Link", "Proxy", "Way"]

Address = Path | tuple[str, int]
Break = Literal["before", "after", "silent", "withheld"]

_PIECE_BYTES = 65536
_END_S = 10.0
_RESET = struct.pack("ii", 1, 0)
_COMMIT = b"COMMIT;\0"
"""How a COMMIT ends in PostgreSQL's protocol, as asyncpg sends it: in one piece."""


class Way(Enum):
    """Where bytes go: up to the server, or down to the client."""

    UP = "up"
    DOWN = "down"


class Fault(Protocol):
    """What happens to bytes on their way."""

    async def carry(self, link: Link, way: Way, data: bytes) -> bytes:
        """What of a piece goes on now; nothing when it is lost, or was sent by the fault itself."""
        ...


class Link:
    """One connection of a client, and the one to the server that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers = {Way.UP: server, Way.DOWN: client}

    async def send(self, way: Way, data: bytes) -> None:
        """Send bytes on and wait until there is room for more."""
        if data:
            self._writers[way].write(data)
            await self._writers[way].drain()

    def cut(self) -> None:
        """Break it at once, on both sides; over TCP with a reset."""
        for writer in self._writers.values():
            own = writer.get_extra_info("socket")
            if own is not None and own.family == socket.AF_INET:
                with contextlib.suppress(OSError):
                    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    def close(self) -> None:
        """End it in order: what was sent on still arrives."""
        for writer in self._writers.values():
            writer.close()


class Proxy:
    """Runs while it is entered.

    Args:
        target: the server.
        listen: where clients connect; without it, a port of loopback that is free.

    Attributes:
        faults: what acts on every piece, in order. May be changed at any time.
        accepting: whether new connections are let through; others are closed at once.
        connected: connections that were let through.
    """

    def __init__(self, target: Address, listen: Address = ("127.0.0.1", 0)) -> None:
        self.faults: list[Fault] = []
        self.accepting = True
        self.connected = 0
        self._target = target
        self._listen = listen
        self._links: weakref.WeakSet[Link] = weakref.WeakSet()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen."""
        if isinstance(self._listen, Path):
            self._server = await asyncio.start_unix_server(self._accept, self._listen)
        else:
            self._server = await asyncio.start_server(self._accept, *self._listen)
        return self

    async def __aexit__(self, *_details: object) -> None:
        """Listen no more and break every connection; what runs while one breaks may end."""
        assert self._server is not None
        self._server.close()
        if isinstance(self._listen, Path):
            self._listen.unlink(missing_ok=True)
        self.cut()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_END_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @property
    def address(self) -> Address:
        """Where clients connect."""
        if isinstance(self._listen, Path):
            return self._listen
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return host, port

    def cut(self) -> None:
        """Break every connection at once."""
        for link in list(self._links):
            link.cut()

    async def _accept(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(from_client, to_client)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, one side broke, or the proxy ends: in every case the connection does
        finally:
            to_client.close()
            self._tasks.discard(task)

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        if not self.accepting:
            return
        self.connected += 1
        if isinstance(self._target, Path):
            from_server, to_server = await asyncio.open_unix_connection(self._target)
        else:
            from_server, to_server = await asyncio.open_connection(*self._target)
        link = Link(to_client, to_server)
        self._links.add(link)
        try:
            # Both to their end: a fault of one way may still be at work when the other has ended.
            await asyncio.gather(self._carry(link, Way.UP, from_client), self._carry(link, Way.DOWN, from_server))
        finally:
            link.close()

    async def _carry(self, link: Link, way: Way, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_PIECE_BYTES):
                for fault in tuple(self.faults):
                    data = await fault.carry(link, way, data)
                await link.send(way, data)
        link.close()


class Delay:
    """Every piece waits, in both directions or one.

    Args:
        seconds: how long.
        jitter_s: up to so much longer, drawn anew for each piece.
        way: the direction that is slow; None is both.
        chance: draws the jitter.
    """

    def __init__(
        self, seconds: float, *, jitter_s: float = 0.0, way: Way | None = None, chance: random.Random | None = None
    ) -> None:
        self._seconds = seconds
        self._jitter_s = jitter_s
        self._way = way
        self._chance = chance or random.Random(0)

    async def carry(self, _link: Link, way: Way, data: bytes) -> bytes:
        """See `Fault`."""
        if self._way in (None, way):
            await asyncio.sleep(self._seconds + self._chance.uniform(0, self._jitter_s))
        return data


class BlackHole:
    """Nothing arrives any more, and nobody is told: connections stay open.

    Args:
        way: the direction; None is both.

    Attributes:
        swallowed: bytes that were lost in it.
    """

    def __init__(self, way: Way | None = None) -> None:
        self.swallowed = 0
        self._way = way

    async def carry(self, _link: Link, way: Way, data: bytes) -> bytes:
        """See `Fault`."""
        if self._way not in (None, way):
            return data
        self.swallowed += len(data)
        return b""


class Drip:
    """Bytes arrive in small pieces with a pause between them. `way` is the direction, None both."""

    def __init__(self, piece_bytes: int = 1, pause_s: float = 0.01, *, way: Way | None = None) -> None:
        self._piece_bytes = piece_bytes
        self._pause_s = pause_s
        self._way = way

    async def carry(self, link: Link, way: Way, data: bytes) -> bytes:
        """See `Fault`."""
        if self._way not in (None, way):
            return data
        for start in range(0, len(data), self._piece_bytes):
            await link.send(way, data[start : start + self._piece_bytes])
            await asyncio.sleep(self._pause_s)
        return b""


class AtCommit:
    """Breaks a connection to PostgreSQL at a COMMIT.

    before: the server never sees it. after: the server commits, and its answer is lost with the connection. silent: the
    server commits, the answer never comes, the connection stays. withheld: neither side hears anything any more.

    Args:
        choose: called at each COMMIT; says how it breaks, or None.
        meanwhile: runs at the moment of the break, before the client hears of it.

    Attributes:
        commits: those that were seen.
        broken: those that broke.
    """

    def __init__(
        self, choose: Callable[[], Break | None], meanwhile: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.commits = 0
        self.broken = 0
        self._choose = choose
        self._meanwhile = meanwhile
        self._state: weakref.WeakKeyDictionary[Link, Break] = weakref.WeakKeyDictionary()

    async def carry(self, link: Link, way: Way, data: bytes) -> bytes:
        """See `Fault`."""
        if way is Way.UP and _COMMIT in data:
            self.commits += 1
            chosen = self._choose()
            if chosen is not None:
                self.broken += 1
                self._state[link] = chosen
        state = self._state.get(link)
        if state is None:
            return data
        if (state, way) in {("before", Way.UP), ("after", Way.DOWN)}:
            self._state[link] = "withheld"  # what else comes while it breaks is lost
            if self._meanwhile is not None:
                await self._meanwhile()
            link.cut()
            return b""
        return data if way is Way.UP and state != "withheld" else b""
