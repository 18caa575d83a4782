"""The client whose calls are awaited, over asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, TypeVar

from memfast.client.base import Base
from memfast.client.call import Call, Download, Pages, Upload
from memfast.client.exchange import Answer, AnswerReader, Broken
from memfast.client.lines import CLOSING_CHUNK, LineSplitter, chunk, parts_of
from memfast.client.problems import error_of
from memfast.client.session import Attempt, Session

__all__ = ["AsyncClient"]

_T = TypeVar("_T")


class AsyncClient(Base):
    """A client for asyncio. It may be made anywhere, and belongs to the event loop in which it is used first.

    It opens connections when they are needed and keeps them: close it there, or use it as a context manager.
    """

    def _open(self) -> None:
        self._pool = _Pool(self._session)

    async def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        await self._pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_details: object) -> None:
        await self.close()

    async def _perform(self, build: Callable[..., Call[_T]], /, *arguments: Any, **keywords: Any) -> _T:
        call = build(*arguments, **keywords)
        return await (self._upload(call) if isinstance(call, Upload) else self._run(call))

    async def _iterate(self, build: Callable[..., Pages[_T]], /, *arguments: Any, **keywords: Any) -> AsyncIterator[_T]:
        pages = build(*arguments, **keywords)
        call = pages.first()
        while call is not None:
            page = await self._run(call)
            for item in page.items:
                yield item
            call = pages.after(page)

    async def _run(self, call: Call[_T]) -> _T:
        steps = self._session.converse(call)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Attempt):
                    try:
                        answer = await self._pool.exchange(step)
                    except Broken as broken:
                        step = steps.throw(broken)
                    else:
                        step = steps.send(answer)
                else:
                    await asyncio.sleep(step.seconds)
                    step = next(steps)
        except StopIteration as done:
            value: _T = done.value
            return value

    async def _stream(
        self, build: Callable[..., Download], /, *arguments: Any, **keywords: Any
    ) -> AsyncIterator[bytes]:
        call = build(*arguments, **keywords)
        lines, answer = LineSplitter(), None
        async with self._streaming(call) as stream:
            await stream.send(self._session.stream_head(call))
            while answer is None:
                answer = await stream.receive()
                for line in lines.feed(parts_of(stream.reader, answer)):
                    yield line
            lines.finish(answer)

    async def _upload(self, call: Upload[_T]) -> _T:
        answer = None
        async with self._streaming(call) as stream:
            try:
                await stream.send(self._session.stream_head(call))
                if isinstance(call.parts, AsyncIterable):
                    async for part in call.parts:
                        await stream.send(chunk(part))
                else:
                    for part in call.parts:
                        await stream.send(chunk(part))
                await stream.send(CLOSING_CHUNK)
            except Broken as broken:
                if broken.late:
                    raise  # else whoever does not want the rest may have said why
            while answer is None:
                answer = await stream.receive()
        if answer.status != 200:
            raise error_of(answer)
        return call.read(answer)

    @asynccontextmanager
    async def _streaming(self, call: Call[Any]) -> AsyncIterator[_Stream]:
        """A connection of a stream's own, each step of which has the time of the call."""
        timeout_s, address = self._session.timeout_s(call), self._session.address
        try:
            try:
                async with asyncio.timeout(timeout_s):
                    reader, writer = await asyncio.open_connection(address.host, address.port, ssl=address.tls)
            except OSError as error:
                raise _broken(error, sent=False) from error
            try:
                yield _Stream(reader, writer, timeout_s)
            finally:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
        except Broken as broken:
            raise self._session.broken_stream(broken, timeout_s) from broken


def _broken(error: OSError, *, sent: bool) -> Broken:
    return Broken(str(error) or type(error).__name__, sent=sent, late=isinstance(error, TimeoutError))


class _Stream:
    """A connection whose parts are sent and taken one by one. What fails is `Broken`."""

    def __init__(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, timeout_s: float) -> None:
        self.reader = AnswerReader()
        self._source = source
        self._sink = sink
        self._timeout_s = timeout_s

    async def send(self, data: bytes) -> None:
        """Send bytes and wait until there is room for more."""
        try:
            async with asyncio.timeout(self._timeout_s):
                self._sink.write(data)
                await self._sink.drain()
        except OSError as error:
            raise _broken(error, sent=True) from error

    async def receive(self) -> Answer | None:
        """Take what comes next; the answer when it is complete."""
        try:
            async with asyncio.timeout(self._timeout_s):
                data = await self._source.read(_READ_BYTES)
        except OSError as error:
            raise _broken(error, sent=True) from error
        if not data:
            raise Broken("the connection was closed before the answer was complete", sent=True)
        return self.reader.feed(data)


_READ_BYTES = 256 * 1024


class _Connection(asyncio.Protocol):
    """One connection; it is used by one call at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()  # to ask for it with every call costs a system call
        self.closed = self._loop.create_future()
        self._reader = AnswerReader()
        self._transport: Any = None
        self._answer: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what comes; hand the answer over when it is complete."""
        waiting = self._answer
        if waiting is None:  # nobody has asked
            self.close()
            return
        try:
            answer = self._reader.feed(data)
        except Broken as broken:
            self._fail(broken)
            self.close()
            return
        if answer is not None and not waiting.done():
            waiting.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail whoever waits."""
        self._fail(Broken(str(error or "the connection was closed before the answer was complete"), sent=True))
        if not self.closed.done():
            self.closed.set_result(None)

    async def exchange(self, request: bytes, deadline: float) -> Answer:
        """Send a request and wait for its answer, until a moment of the loop's clock.

        Raises:
            Broken: none came.
        """
        waiting: asyncio.Future[Answer] = self._loop.create_future()
        self._answer = waiting
        timer = self._loop.call_at(deadline, self._late)
        self._transport.write(request)
        try:
            return await waiting
        finally:
            timer.cancel()
            self._answer = None

    def is_open(self) -> bool:
        """Whether nobody has closed it."""
        return not self._transport.is_closing()

    def close(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def _late(self) -> None:
        self._fail(Broken("no answer came in time", sent=True, late=True))

    def _fail(self, broken: Broken) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(broken)


class _Pool:
    """Connections that are kept for the next call, the last one used first."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: list[_Connection] = []
        self._free = asyncio.Semaphore(session.settings.connections_max)

    async def exchange(self, attempt: Attempt) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            Broken: none came.
            RuntimeError: another event loop has used the client.
        """
        deadline = self._bind().time() + attempt.timeout_s
        connection, sent = None, False
        try:
            if self._free.locked():
                async with asyncio.timeout_at(deadline):
                    await self._free.acquire()
            else:
                await self._free.acquire()
            try:
                connection = self._kept()
                if connection is None:
                    async with asyncio.timeout_at(deadline):
                        connection = await self._connect()
                sent = True
                answer = await connection.exchange(attempt.request, deadline)
                if answer.reusable and connection.is_open():
                    self._idle.append(connection)
                    connection = None
                return answer
            finally:
                self._free.release()
                if connection is not None:
                    connection.close()
        except OSError as error:
            raise _broken(error, sent=sent) from error

    async def close(self) -> None:
        """Close those that are not in use."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        for connection in idle:
            await connection.closed

    def _bind(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                raise RuntimeError("this AsyncClient was used in another event loop; make one in each")
            self._loop = loop
        return loop

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
        return None

    async def _connect(self) -> _Connection:
        address = self._session.address
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection, address.host, address.port, ssl=address.tls
        )
        return connection
