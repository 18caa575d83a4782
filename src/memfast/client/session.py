"""The course of a call: what is sent, when it is sent again, how long all of it may take. No sockets here.

A session is driven by a client: it yields attempts and pauses, and is given answers or `Broken`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Generator
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlsplit

from msgspec import Struct

from memfast import __version__
from memfast.client.call import Call
from memfast.client.exchange import Answer, Broken, header_line
from memfast.client.problems import error_of
from memfast.client.tokens import Tokens
from memfast.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MemfastError,
    OtherLineage,
    OutcomeUnknown,
    ServiceUnreachable,
    Unavailable,
    UnexpectedAnswer,
    VersionAhead,
)

__all__ = ["DEFAULT_URL", "Address", "Attempt", "Pause", "Session", "Settings"]

DEFAULT_URL = "http://127.0.0.1:8077"
DEFAULT_TIMEOUT_S = 30.0
_FIRST_BACKOFF_S = 0.05
_BACKOFF_MAX_S = 2.0
_KEY_BITS = 128

_T = TypeVar("_T")


class Settings(Struct, frozen=True, kw_only=True):
    """How a client behaves: see `Base`."""

    url: str | None
    api_key: str | None
    timeout_s: float | None
    retries: int
    connections_max: int
    users_max: int
    tls: ssl.SSLContext | None
    clock: Callable[[], float]
    random: Random


class Address(Struct, frozen=True):
    """Where a service listens; `prefix` stands before every path, `tls` is None for plain HTTP."""

    host: str
    port: int
    prefix: str
    authority: str
    tls: ssl.SSLContext | None


class Attempt(Struct, frozen=True):
    """Send this and give the answer, or `Broken`, within so many seconds."""

    request: bytes
    timeout_s: float


class Pause(Struct, frozen=True):
    """Wait so many seconds."""

    seconds: float


Steps = Generator[Attempt | Pause, Answer, _T]


class Session:
    """What all calls of a client have in common."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = (settings.url or os.environ.get("MEMFAST_URL") or DEFAULT_URL).rstrip("/")
        self.address = _address(self.url, settings.tls)
        self.tokens = Tokens(settings.users_max)
        key = os.environ.get("MEMFAST_API_KEY", "") if settings.api_key is None else settings.api_key
        if not (key.isascii() and key.isprintable()):
            raise InvalidRequest("api_key: must be printable ASCII characters", path="api_key")
        self._fixed = (
            f"host: {self.address.authority}\r\nuser-agent: memfast-python/{__version__}\r\n"
            "accept: application/msgpack\r\n" + (f"authorization: Bearer {key}\r\n" if key else "")
        )

    def timeout_s(self, call: Call[Any]) -> float:
        """Seconds that a call may take."""
        own = self.settings.timeout_s if call.timeout_s is None else call.timeout_s
        return DEFAULT_TIMEOUT_S if own is None else own

    def converse(self, call: Call[_T]) -> Steps[_T]:
        """The steps of a call; it returns what the answer says.

        Raises:
            Rejected: the request cannot be served.
            Unavailable: not now, and not within the time and the tries that there are.
            OutcomeUnknown: the same of a write that may have happened.
            UnexpectedAnswer: what answered is not memfast.
        """
        settings = self.settings
        timeout_s = self.timeout_s(call)
        deadline = settings.clock() + timeout_s
        token = call.min_version or (self.tokens.get(call.user_id) if call.kind == "read" else None)
        head = self._head(call, token)
        unknown = False
        failure: Unavailable | None = None
        for attempt in range(settings.retries + 1):
            left_s = deadline - settings.clock()
            if left_s <= 0:
                break
            try:
                answer = yield Attempt(self._request(call, head, left_s), left_s)
            except Broken as broken:
                unknown = unknown or broken.sent
                failure = _unreachable(self.url, broken, timeout_s)
            else:
                if answer.status < 300 or answer.status in call.statuses:
                    return self._answered(call, answer)
                failure = self._refused(call, answer, token)
                unknown = unknown or isinstance(failure, OutcomeUnknown)
            pause_s = self._pause_s(attempt, failure)
            hopeless = attempt == settings.retries or isinstance(failure, DeadlineExceeded)
            if hopeless or pause_s >= deadline - settings.clock():
                break
            yield Pause(pause_s)
        failure = failure or DeadlineExceeded(f"timeout_s is {timeout_s:g}: nothing was sent", retry_after_s=0)
        raise _last(call, failure, unknown=unknown)

    def _head(self, call: Call[Any], token: str | None) -> str:
        """What every attempt of a call begins with: the same key each time."""
        lines = [f"{call.method} {self.address.prefix}{call.target} HTTP/1.1\r\n{self._fixed}"]
        if call.body:
            lines.append("content-type: application/msgpack\r\n")
        if call.body or call.method != "GET":
            lines.append(f"content-length: {len(call.body)}\r\n")
        if call.kind == "write":
            key = call.idempotency_key
            new = f"{self.settings.random.getrandbits(_KEY_BITS):032x}" if key is None else key
            lines.append(header_line("idempotency-key", new))
        if call.if_match is not None:
            lines.append(f'if-match: "{call.if_match}"\r\n')
        if token is not None:
            lines.append(header_line("memfast-min-version", token))
        if call.consistency is not None:
            lines.append(header_line("memfast-consistency", call.consistency))
        return "".join(lines)

    def _request(self, call: Call[Any], head: str, left_s: float) -> bytes:
        if call.timeout_s is not None or self.settings.timeout_s is not None:
            head += f"memfast-timeout-ms: {max(1, int(left_s * 1000))}\r\n"
        return f"{head}\r\n".encode("ascii") + call.body

    def stream_head(self, call: Call[Any]) -> bytes:
        """The head of a request whose body or answer is a stream."""
        head = f"{call.method} {self.address.prefix}{call.target} HTTP/1.1\r\n{self._fixed}"
        if call.method == "POST":
            head += "content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n"
        return f"{head}\r\n".encode("ascii")

    def broken_stream(self, broken: Broken, timeout_s: float) -> MemfastError:
        """The error of a stream that came to no end."""
        return _unreachable(self.url, broken, timeout_s)

    def _answered(self, call: Call[_T], answer: Answer) -> _T:
        token = answer.headers.get(b"memfast-token")
        if token is not None and call.user_id is not None:
            self.tokens.note(call.user_id, token.decode("ascii"))
        return call.read(answer)

    def _refused(self, call: Call[Any], answer: Answer, token: str | None) -> Unavailable:
        """The error of an answer; only what may succeed later is returned."""
        if answer.status < 400:
            raise UnexpectedAnswer(f"the service at {self.url} answered {answer.status}; is the address right?")
        failure = error_of(answer)
        if isinstance(failure, OtherLineage | VersionAhead) and token is not None and call.user_id is not None:
            self.tokens.drop(call.user_id, token)  # said once: that database has lost what was written
        if not isinstance(failure, Unavailable):
            raise failure
        return failure

    def _pause_s(self, attempt: int, failure: Unavailable) -> float:
        """What the service asks for, and a share of what doubles each time, so that clients do not come at once."""
        longest_s = min(_BACKOFF_MAX_S, _FIRST_BACKOFF_S * 2.0**attempt)
        return failure.retry_after_s + self.settings.random.random() * longest_s


def _unreachable(url: str, broken: Broken, timeout_s: float) -> Unavailable:
    if broken.late:
        return DeadlineExceeded(f"the service at {url} did not answer within {timeout_s:g} s", retry_after_s=0)
    return ServiceUnreachable(f"the service at {url} cannot be reached: {broken}", retry_after_s=0)


def _last(call: Call[Any], failure: Unavailable, *, unknown: bool) -> MemfastError:
    """What a call that was given up raises: of a write that may have happened, that nobody knows."""
    if call.kind == "read" or not unknown or isinstance(failure, OutcomeUnknown):
        return failure
    told = OutcomeUnknown(f"{failure}; whether the write has happened is not known", retry_after_s=0)
    told.problem = failure.problem
    return told


def _address(url: str, trusted: ssl.SSLContext | None) -> Address:
    """Where a URL leads.

    Raises:
        InvalidRequest: it is not http or https, or names no host.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise InvalidRequest(f"url: {error}", path="url") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or not url.isascii():
        raise InvalidRequest(f"url: {url!r} is not http://host:port or https://host", path="url")
    tls = (trusted or ssl.create_default_context()) if parts.scheme == "https" else None
    authority = parts.netloc.rpartition("@")[2]
    return Address(parts.hostname, port or (80 if tls is None else 443), parts.path, authority, tls)
