"""Both clients behind one form, so that each test has one body for the two."""

import asyncio
import contextlib
import inspect
import sys
from pathlib import Path

import pytest

from memfast import AsyncClient, Client

sys.path.insert(0, str(Path(__file__).parents[3]))  # `bench` stands beside `tests` and is not installed

_END = object()


async def _in_threads(items):
    """An iterator whose every step runs in a thread."""
    while (item := await asyncio.to_thread(next, items, _END)) is not _END:
        yield item


class Awaited:
    """A `Client` whose methods are awaited: they run in threads, while the test's event loop goes on."""

    def __init__(self, *arguments, **settings):
        self.own = Client(*arguments, **settings)

    def __getattr__(self, name):
        method = getattr(self.own, name)
        if not callable(method) or name == "token":
            return method
        if name in {"list", "links", "history", "users", "export"}:
            return lambda *arguments, **keywords: _in_threads(method(*arguments, **keywords))

        async def run(*arguments, **keywords):
            return await asyncio.to_thread(method, *arguments, **keywords)

        return run


class Direct:
    """An `AsyncClient` as it is."""

    def __init__(self, *arguments, **settings):
        self.own = AsyncClient(*arguments, **settings)

    def __getattr__(self, name):
        return getattr(self.own, name)


@pytest.fixture(params=[Awaited, Direct], ids=["Client", "AsyncClient"])
async def connect(request):
    """Function: make a client of either kind, which is closed at the end."""
    made = []

    def make(*arguments, **settings):
        made.append(request.param(*arguments, **settings))
        return made[-1]

    yield make
    for each in made:
        closing = each.own.close()
        if inspect.isawaitable(closing):
            await closing


@pytest.fixture
def client(connect, shared):
    """A client of the module's service, of either kind."""
    return connect(shared.url)


@pytest.fixture
def user(request):
    """A user of the test's own."""
    return f"user of {request.node.name}"


class Scripted:
    """A server of few words: each answer is bytes, or None to say nothing. `requests` are those that came, whole."""

    def __init__(self):
        self.answers = []
        self.requests = []
        self.connections = 0

    async def __aenter__(self):
        self._writers = []
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_details):
        self._server.close()
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                size = next((line for line in head.split("\r\n") if line.startswith("content-length:")), ":0")
                body = await reader.readexactly(int(size.partition(":")[2]))
                self.requests.append((head, body))
                answer = self.answers.pop(0)
                if answer is None:
                    continue
                writer.write(answer)
                await writer.drain()


def said(status, body=b"{}", *headers, media_type="application/json"):
    """An answer as bytes."""
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", f"content-type: {media_type}", *headers]
    return "\r\n".join([*lines, "\r\n"]).encode() + body


@pytest.fixture
async def scripted():
    """A server that answers as it is told."""
    async with Scripted() as server:
        yield server


@pytest.fixture(name="said")
def said_fixture():
    """Function: an answer as bytes."""
    return said
