"""The outermost ASGI application: what every request passes before and after its route.

One place instead of guards, dependencies and middleware: the key is checked before the body is read, the body is read
once and stops at its Content-Length, everything has a bound and every error becomes a problem.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeVar

from memfast.bootstrap import Services
from memfast.config import LogConfig, ServerConfig
from memfast.errors import (
    DeadlineExceeded,
    EmbedderChanged,
    InvalidRequest,
    MemfastError,
    ModeRefused,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
)
from memfast.http.addresses import Address, Addresses
from memfast.http.body import GoneError, Receive, Unread, content_length, no_body, receive_body
from memfast.http.exchange import (
    MIN_VERSION,
    Exchange,
    Header,
    Reply,
    StreamReply,
    finished_headers,
    mode_marks,
    sent_path,
    standard_headers,
)
from memfast.http.measures import Measures
from memfast.http.problems import INTERNAL_ERROR, problem_reply
from memfast.http.repeats import asked
from memfast.http.routing import Endpoint, Route, Surface
from memfast.kernels import Trace
from memfast.metrics import CURRENT, NO_REQUEST, valid_parent
from memfast.ports import Clock
from memfast.resilience.deadlines import Deadlines
from memfast.service.access import NOBODY
from memfast.service.modes import Standing

__all__ = ["EXCHANGE", "SERVICES", "Edge"]

_log = logging.getLogger("memfast.http")

EXCHANGE = "memfast.exchange"
"""Where a route finds its `Exchange` in the ASGI scope."""

SERVICES = "memfast.services"
"""Where it finds the services that the request began with."""

_NAMED = "/v1/users/"
"""Where the rest of the path is a user's id, which the route reads from the path as it was sent."""

_RETRY_AFTER_S = 5
"""What a client is told that the mode refuses, in seconds."""

_T = TypeVar("_T")
AsgiScope = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]


class _Use:
    """Services and how many requests use them. `left` is set by the last one once `over` is."""

    __slots__ = ("left", "measures", "over", "requests", "services")

    def __init__(self, services: Services, measures: Measures) -> None:
        self.services = services
        self.measures = measures
        self.requests = 0
        self.over = False
        self.left = asyncio.Event()

    def leave(self) -> None:
        """A request is done with them."""
        self.requests -= 1
        if self.over and not self.requests:
            self.left.set()


class Edge:
    """Wraps the routed application.

    Args:
        application: the Litestar application.
        routes: what is served; those whose paths have no parameters need no router.
        pages: paths that the application serves beside them.
        public: begins of the paths that need no key.
        config: bounds on body, time and number.
        log: what is slow.
        clock: time for the bounds.
        surfaces: other protocols.
    """

    def __init__(
        self,
        application: Any,
        routes: Sequence[Route],
        pages: Sequence[str],
        public: tuple[str, ...],
        config: ServerConfig,
        log: LogConfig,
        clock: Clock,
        surfaces: Sequence[Surface] = (),
    ) -> None:
        self._application = application
        self._routes = routes
        self._pages = pages
        self._log = log
        self._config = config
        self._use: _Use | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.following: Callable[[Services], Awaitable[Services]] | None = None
        self.measuring: Callable[..., Measures] = Measures
        self._surfaces = surfaces
        self._addresses = Addresses(routes, public, surfaces, config)
        self._deadlines = Deadlines(clock)
        self._under_way = 0
        self._request_ids = map((secrets.token_hex(5).encode() + b"-%x").__mod__, itertools.count(1))

    @asynccontextmanager
    async def serving(self, services: Services) -> AsyncIterator[None]:
        """Serve new requests by these services, until others are given; ends when no request uses them any more."""
        self._loop = asyncio.get_running_loop()  # to ask for it again costs a system call
        sweeper = asyncio.create_task(self._deadlines.run())
        measures = self.measuring(services.meter, self._routes, self._pages, self._surfaces, self._log)
        use = self._use = _Use(services, measures)
        try:
            yield
            if self._use is not use and use.requests:
                use.over = True
                with suppress(TimeoutError):
                    await asyncio.wait_for(use.left.wait(), self._config.timeout_max_s)
        finally:
            sweeper.cancel()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        use = self._use
        if scope["type"] != "http" or use is None:
            await self._application(scope, receive, send)
            return
        services, measures = use.services, use.measures
        use.requests += 1
        started = time.perf_counter()
        address, headers = self._addresses.find(scope["method"], scope["path"]), dict(scope["headers"])
        request_id, parent = self._request_id(headers), _parent(headers)
        standing = services.modes.standing()
        exchange, body, unread = None, None, None
        try:
            if standing.mode == "essential":
                _require_essential(address, standing)
            credential = None if address.public else _credential(address, headers)
            known_as = NOBODY if address.public else services.access.recognise(credential)
            principal = known_as or await services.access.authenticate(credential)
            send = partial(self._send_part, send) if address.streams else send
            unread = self._unread(headers, receive) if address.streams else None
            arriving = None if address.streams else self._arriving(headers, receive)
            body = b"" if arriving is None else await arriving
            request, form, made = asked(address, scope["query_string"], headers, principal, body)
            known = None if request is None else services.answers.recognise(request, headers.get(MIN_VERSION))
            if known is not None:
                finished, version, kind = known
                content = finished if made is None else made(finished)
                own = finished_headers(len(content), version, "hot", kind, form)
                standard = standard_headers(parent, request_id, started, mode_marks(standing))
                await send({"type": "http.response.start", "status": 200, "headers": [*own, *standard]})
                await send({"type": "http.response.body", "body": content, "more_body": False})
                measures.hot(scope, kind, request_id, started)
                return
            exchange = Exchange(
                scope,
                headers,
                principal=principal,
                access=services.access,
                body=body,
                trace=Trace(request_id, parent),
                started=started,
                marks=mode_marks(standing),
                parts=None if unread is None else unread.parts(),
            )
            await self._admitted(address, exchange, services, scope, receive, send)
            if request is not None and exchange.target is not None:
                services.answers.note(request, exchange.target)
            measures.ended(exchange, started)
        except GoneError:
            measures.abandoned(scope, exchange, started)
        except Exception as error:  # noqa: BLE001 - the face's edge: the client gets a problem, the log the trace
            named = Trace(request_id, parent) if exchange is None else exchange.trace
            unread = self._unread(headers, receive, error) if body is None else unread
            told = _teller(address.surface, headers, body)
            status = await self._refuse(error, services, told, named, started, unread, scope, receive, send)
            measures.refused(scope, exchange, named, status, started)
        finally:
            use.leave()
        if unread is not None:
            await unread.hear_out()

    async def _refuse(
        self,
        error: Exception,
        services: Services,
        told: Callable[[MemfastError, list[Header], str], Reply],
        named: Trace,
        started: float,
        unread: Unread | None,
        scope: AsgiScope,
        receive: Receive,
        send: Send,
    ) -> int:
        """Answer with what the error is to the client; returns the status."""
        CURRENT.set(named)
        try:
            marks = mode_marks(services.modes.standing())
            standard = standard_headers(named.parent, named.request_id, started, marks)
            reply = told(self._problem(error, named), standard, sent_path(scope))
            if unread is not None and unread.ends:
                reply.headers.append((b"connection", b"close"))
            await reply(scope, receive, send)
        finally:
            CURRENT.set(NO_REQUEST)
        return reply.status

    async def _admitted(
        self,
        address: Address,
        exchange: Exchange,
        services: Services,
        scope: AsgiScope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Serve what no finished answer was found for: so many at once, each in its time, while its client is there."""
        timeout_s = self._timeout_s(address, exchange.headers)
        if self._under_way >= self._config.under_way_max and not address.vital:
            raise Overloaded(f"{self._under_way} requests are under way; nothing was begun", begun=False)
        self._under_way += 1
        CURRENT.set(exchange.trace)
        try:
            work = self._serve(address, exchange, services, scope, receive, send)
            leaves = None if address.uploads else partial(_disconnected, receive)
            await self._within(timeout_s, work, partial(_too_slow, timeout_s), leaves)
        finally:
            CURRENT.set(NO_REQUEST)
            self._under_way -= 1

    def _timeout_s(self, address: Address, headers: Mapping[bytes, bytes]) -> float:
        """The time of a request: what its client asks for, else by what it does."""
        wished = headers.get(b"memfast-timeout-ms")
        if wished is None:
            return address.timeout_s
        most_ms = int(self._config.timeout_max_s * 1000)
        if not wished.isdigit() or not 0 < len(wished) <= 9 or int(wished) < 1:
            raise InvalidRequest(f"Memfast-Timeout-Ms: must be a number from 1 to {most_ms}")
        return min(int(wished), most_ms) / 1000

    async def _within(
        self,
        timeout_s: float,
        work: Coroutine[Any, Any, _T],
        late: Callable[[], MemfastError],
        leaves: Callable[[], Awaitable[object]] | None = None,
    ) -> _T:
        """Do the work in its time and while it is wanted, or raise what `late` says."""
        task = asyncio.current_task(self._loop)
        assert task is not None
        deadlines = self._deadlines
        deadlines.enter(task, timeout_s, leaves)
        try:
            return await work
        except asyncio.CancelledError:
            end = deadlines.leave(task)
            if end == "late":
                raise late() from None
            if end == "gone":
                raise GoneError from None
            raise
        finally:
            deadlines.leave(task)

    async def _serve(
        self, address: Address, exchange: Exchange, services: Services, scope: AsgiScope, receive: Receive, send: Send
    ) -> None:
        """Answer by the endpoint of the very path, else by the router, for which a handler costs 20 µs."""
        if address.endpoint is not None and (address.surface is not None or exchange.path == address.path):
            exchange.operation = address.number
            reply = await self.answer(address.endpoint, exchange, services)
            await reply(scope, receive, send)
            return
        scope[EXCHANGE], scope[SERVICES] = exchange, services
        if exchange.path.startswith(_NAMED) and exchange.path != _NAMED:
            scope["path"] = _NAMED + "-"  # the router would merge, strip and split at slashes of the id
        await self._application(scope, receive, send)

    async def answer(
        self, endpoint: Endpoint, exchange: Exchange, services: Services, **parameters: str
    ) -> Reply | StreamReply:
        """The endpoint's answer, by the services that follow where these were left behind: nothing was done then."""
        try:
            reply = await endpoint(exchange, services, **parameters)
        except EmbedderChanged:
            if self.following is None or exchange.parts is not None:
                raise
            reply = await endpoint(exchange, await self.following(services), **parameters)
        exchange.status = reply.status
        return reply

    def _problem(self, error: Exception, named: Trace) -> MemfastError:
        if isinstance(error, MemfastError):
            return error
        if isinstance(error, TimeoutError):
            return DeadlineExceeded("something that the request needs did not answer in time")
        _log.error("request %s failed", named.request_id.decode(), exc_info=error)
        return INTERNAL_ERROR

    def _arriving(self, headers: Mapping[bytes, bytes], receive: Receive) -> Coroutine[Any, Any, bytes] | None:
        """What reads the body, if there is one: the fewer coroutines wait for each other, the better."""
        declared = content_length(headers)
        if declared == 0:
            return None
        most = self._config.body_max_bytes
        if declared is not None and declared > most:
            raise PayloadTooLarge(f"the body has {declared} bytes; at most {most} are taken")
        timeout_s = self._config.body_timeout_s
        return self._within(timeout_s, receive_body(receive, declared, most), partial(no_body, timeout_s))

    def _unread(self, headers: dict[bytes, bytes], receive: Receive, error: Exception | None = None) -> Unread:
        return Unread(headers, receive, self._config.body_timeout_s, stalled=isinstance(error, RequestTimeout))

    async def _send_part(self, send: Send, message: Any) -> None:
        """Send a part of a stream; the client has as long to take it as for a body."""
        async with asyncio.timeout(self._config.body_timeout_s):
            await send(message)

    def _request_id(self, headers: dict[bytes, bytes]) -> bytes:
        sent = headers.get(b"x-request-id")
        if sent is not None and 0 < len(sent) <= 128 and sent.isascii() and sent.decode().isprintable():
            return sent
        return next(self._request_ids)


def _parent(headers: Mapping[bytes, bytes]) -> bytes | None:
    sent = headers.get(b"traceparent")
    return None if sent is None else valid_parent(sent)


def _credential(address: Address, headers: Mapping[bytes, bytes]) -> bytes | None:
    surface = address.surface
    return headers.get(b"authorization") if surface is None else surface.credential(headers)


def _require_essential(address: Address, standing: Standing) -> None:
    if not address.essential:
        reason = f"only single memories and health are served now: {standing.reason}"
        raise ModeRefused(reason, retry_after_s=_RETRY_AFTER_S, begun=False)


def _teller(
    surface: Surface | None, headers: Mapping[bytes, bytes], body: bytes | None
) -> Callable[[MemfastError, list[Header], str], Reply]:
    """What makes an answer of an error."""
    if surface is None:
        return problem_reply
    refusal = surface.refusal
    if refusal is None or not body:
        return surface.problem
    return lambda error, standard, _path: refusal(error, headers, body, standard)


def _too_slow(timeout_s: float) -> MemfastError:
    return DeadlineExceeded(f"the request took longer than its {timeout_s:g} s")


async def _disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
