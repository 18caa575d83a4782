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
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from memfast.bootstrap import Services
from memfast.config import ServerConfig
from memfast.errors import DeadlineExceeded, InvalidRequest, MemfastError, PayloadTooLarge, RequestTimeout
from memfast.http.exchange import Exchange
from memfast.http.problems import INTERNAL_ERROR, problem_reply
from memfast.service.access import Principal

__all__ = ["EXCHANGE", "Edge"]

_log = logging.getLogger("memfast.http")

EXCHANGE = "memfast.exchange"
"""Where a route finds its `Exchange` in the ASGI scope."""

_PUBLIC = ("/v1/health",)
_NOBODY = Principal("", "", "user")
AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})


class _GoneError(Exception):
    """The client left before its body had arrived."""


class Edge:
    """Wraps the routed application.

    Args:
        application: the Litestar application.
        services: the live services; None until the lifespan has opened them.
        config: bounds on body, time and concurrency.
    """

    def __init__(self, application: Any, config: ServerConfig) -> None:
        self._application = application
        self._config = config
        self._services: Services | None = None
        self._request_prefix = secrets.token_hex(5)
        self._request_number = itertools.count(1)

    def open(self, services: Services) -> None:
        """Begin to serve."""
        self._services = services

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or self._services is None:
            await self._application(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        exchange = Exchange(
            scope,
            headers,
            principal=_NOBODY,
            access=self._services.access,
            body=b"",
            request_id=self._request_id(headers),
            started=started,
        )
        try:
            async with asyncio.timeout(self._config.request_timeout_s):
                await self._admit(exchange, scope, receive)
                scope[EXCHANGE] = exchange
                await self._application(scope, receive, send)
        except _GoneError:
            return
        except TimeoutError:
            late = DeadlineExceeded(f"the request took longer than {self._config.request_timeout_s:g} s")
            await self._refuse(late, exchange, scope, receive, send)
        except MemfastError as error:
            await self._refuse(error, exchange, scope, receive, send)
        except Exception:  # noqa: BLE001 - the face's edge: the client gets a problem, the log the trace
            _log.exception("request %s failed", exchange.request_id)
            await self._refuse(INTERNAL_ERROR, exchange, scope, receive, send)

    async def _admit(self, exchange: Exchange, scope: AsgiScope, receive: Receive) -> None:
        assert self._services is not None
        if not scope["path"].startswith(_PUBLIC):
            exchange.principal = await self._services.access.authenticate(_credential(exchange.headers))
        if scope["method"] not in _BODILESS:
            exchange.body = await self._read_body(exchange.headers, receive)

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        declared = _content_length(headers)
        if declared == 0 and b"transfer-encoding" not in headers:
            return b""
        most = self._config.body_max_bytes
        if declared is not None and declared > most:
            raise PayloadTooLarge(f"the body has {declared} bytes; at most {most} are taken")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _GoneError
                    part = message.get("body", b"")
                    parts.append(part)
                    size += len(part)
                    if size > most:
                        raise PayloadTooLarge(f"the body is larger than {most} bytes")
                    if size == declared or not message.get("more_body", False):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError as error:
            raise RequestTimeout(
                f"the body did not arrive within {self._config.body_timeout_s:g} s ({size} bytes came)"
            ) from error

    def _request_id(self, headers: dict[bytes, bytes]) -> str:
        sent = headers.get(b"x-request-id", b"")
        if 0 < len(sent) <= 128 and sent.isascii() and sent.decode().isprintable():
            return sent.decode()
        return f"{self._request_prefix}-{next(self._request_number):x}"

    async def _refuse(
        self, error: MemfastError, exchange: Exchange, scope: AsgiScope, receive: Receive, send: Send
    ) -> None:
        await problem_reply(error, exchange.standard_headers(), instance=scope["path"])(scope, receive, send)


def _credential(headers: dict[bytes, bytes]) -> str | None:
    scheme, _, credential = headers.get(b"authorization", b"").partition(b" ")
    return credential.strip().decode("latin-1") if scheme.lower() == b"bearer" else None


def _content_length(headers: dict[bytes, bytes]) -> int | None:
    declared = headers.get(b"content-length")
    if declared is None:
        return None if b"transfer-encoding" in headers else 0
    if not declared.isdigit():
        raise InvalidRequest("Content-Length: must be a number")
    return int(declared)
