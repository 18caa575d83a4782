"""The client whose calls return when they are answered, over sockets."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar

from memfast.client.base import Base
from memfast.client.call import Call, Download, Pages, Upload
from memfast.client.exchange import Answer, AnswerReader, Broken
from memfast.client.lines import CLOSING_CHUNK, LineSplitter, chunk, parts_of
from memfast.client.problems import error_of
from memfast.client.session import Address, Attempt, Session

__all__ = ["Client"]

_T = TypeVar("_T")
_READ_BYTES = 256 * 1024


class Client(Base):
    """A client for programs that wait for each answer, also inside of a running event loop.

    Threads may share it, and a forked process goes on with it. It opens connections when they are needed and keeps
    them: close it, or use it as a context manager.
    """

    def _open(self) -> None:
        self._pool = _Pool(self._session)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def _perform(self, build: Callable[..., Call[_T]], /, *arguments: Any, **keywords: Any) -> _T:
        call = build(*arguments, **keywords)
        return self._upload(call) if isinstance(call, Upload) else self._run(call)

    def _iterate(self, build: Callable[..., Pages[_T]], /, *arguments: Any, **keywords: Any) -> Iterator[_T]:
        pages = build(*arguments, **keywords)
        call = pages.first()
        while call is not None:
            page = self._run(call)
            yield from page.items
            call = pages.after(page)

    def _run(self, call: Call[_T]) -> _T:
        steps = self._session.converse(call)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Attempt):
                    try:
                        answer = self._pool.exchange(step)
                    except Broken as broken:
                        step = steps.throw(broken)
                    else:
                        step = steps.send(answer)
                else:
                    time.sleep(step.seconds)
                    step = next(steps)
        except StopIteration as done:
            value: _T = done.value
            return value

    def _stream(self, build: Callable[..., Download], /, *arguments: Any, **keywords: Any) -> Iterator[bytes]:
        call = build(*arguments, **keywords)
        lines, answer = LineSplitter(), None
        with self._streaming(call) as connection:
            connection.send(self._session.stream_head(call))
            while answer is None:
                answer = connection.receive()
                yield from lines.feed(parts_of(connection.reader, answer))
            lines.finish(answer)

    def _upload(self, call: Upload[_T]) -> _T:
        if isinstance(call.parts, AsyncIterable):
            raise TypeError("lines: an asynchronous iterable is for AsyncClient")
        answer = None
        with self._streaming(call) as connection:
            try:
                connection.send(self._session.stream_head(call))
                for part in call.parts:
                    connection.send(chunk(part))
                connection.send(CLOSING_CHUNK)
            except Broken as broken:
                if broken.late:
                    raise  # else whoever does not want the rest may have said why
            while answer is None:
                answer = connection.receive()
        if answer.status != 200:
            raise error_of(answer)
        return call.read(answer)

    @contextmanager
    def _streaming(self, call: Call[Any]) -> Iterator[_Connection]:
        """A connection of a stream's own, each step of which has the time of the call."""
        timeout_s = self._session.timeout_s(call)
        try:
            connection = _Connection(self._session.address, timeout_s)
            try:
                yield connection
            finally:
                connection.close()
        except Broken as broken:
            raise self._session.broken_stream(broken, timeout_s) from broken


def _broken(error: OSError, *, sent: bool) -> Broken:
    return Broken(str(error) or type(error).__name__, sent=sent, late=isinstance(error, TimeoutError))


class _Connection:
    """One connection; it is used by one call at a time. What fails is `Broken`."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.reader = AnswerReader()
        try:
            self._socket = _connected(address, timeout_s)
        except OSError as error:
            raise _broken(error, sent=False) from error
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)

    def is_quiet(self) -> bool:
        """Whether the service has neither closed it nor said anything unasked."""
        return not self._poll.poll(0)

    def allow(self, timeout_s: float) -> None:
        """Bound the time of each step from now on."""
        self._socket.settimeout(timeout_s)

    def send(self, data: bytes) -> None:
        """Send all of it."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise _broken(error, sent=True) from error

    def receive(self) -> Answer | None:
        """Take what comes next; the answer when it is complete."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError as error:
            raise _broken(error, sent=True) from error
        if not data:
            raise Broken("the connection was closed before the answer was complete", sent=True)
        return self.reader.feed(data)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def _connected(address: Address, timeout_s: float) -> socket.socket:
    opened = socket.create_connection((address.host, address.port), timeout_s)
    try:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened if address.tls is None else address.tls.wrap_socket(opened, server_hostname=address.host)
    except BaseException:
        opened.close()
        raise


class _Pool:
    """Connections that are kept for the next call, the last one used first."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[_Connection] = deque()
        self._free = threading.BoundedSemaphore(self._session.settings.connections_max)

    def exchange(self, attempt: Attempt) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            Broken: none came.
        """
        if self._pid != os.getpid():
            self._leave_to_parent()
        free, clock = self._free, self._session.settings.clock
        deadline = clock() + attempt.timeout_s
        if not free.acquire(timeout=attempt.timeout_s):
            raise Broken("all connections are busy", sent=False, late=True)
        connection = None
        try:
            connection = self._kept() or _Connection(self._session.address, attempt.timeout_s)
            answer = None
            connection.allow(_left_s(deadline, clock()))
            connection.send(attempt.request)
            while answer is None:
                connection.allow(_left_s(deadline, clock()))
                answer = connection.receive()
            if answer.reusable:
                self._idle.append(connection)
                connection = None
            return answer
        finally:
            if connection is not None:
                connection.close()
            free.release()

    def close(self) -> None:
        """Close those that are not in use."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _kept(self) -> _Connection | None:
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.is_quiet():
                    return connection
                connection.close()
        return None

    def _leave_to_parent(self) -> None:
        """After a fork: the connections are the parent's, which hears nothing of their closing here."""
        idle = self._idle
        self._session.tokens.unlock()
        self._begin()
        for connection in idle:
            connection.close()


def _left_s(deadline: float, now: float) -> float:
    if deadline <= now:
        raise Broken("the time of the call is up", sent=True, late=True)
    return deadline - now
