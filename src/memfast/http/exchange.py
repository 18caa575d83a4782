"""One request and its answer, as plain data between the edge and the routes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import Any, Literal, TypeVar
from urllib.parse import parse_qsl, quote, unquote
from uuid import UUID

import msgspec

from memfast.claims import Written
from memfast.errors import InvalidRequest, NotFound
from memfast.http.codec import NDJSON, BodyDecoder, encode_json, request_form, response_form
from memfast.kernels import Trace
from memfast.metrics import STAGES
from memfast.model import Scope
from memfast.search.encode import Form, recode
from memfast.service.access import Access, Principal
from memfast.service.answers import Answer, Kind, Target, Tier
from memfast.service.freshness import Demand
from memfast.service.modes import Standing
from memfast.service.tokens import Token, read_token, write_token

__all__ = [
    "CONSISTENCY",
    "MIN_VERSION",
    "Exchange",
    "Header",
    "Reply",
    "StreamReply",
    "finished_headers",
    "mode_marks",
    "sent_path",
    "standard_headers",
]

_log = logging.getLogger("memfast.http")

_T = TypeVar("_T")
_ENTITY_TAG = re.compile(rb'[ \t]*(?:(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|\Z)')
_VERSION = re.compile(rb"0|[1-9]\d{0,17}")
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
Header = tuple[bytes, bytes]

MIN_VERSION = b"memfast-min-version"
"""The header with a write's token: the answer must not be older."""

CONSISTENCY = b"memfast-consistency"
"""The header that asks for the newest state, whoever wrote it: `strong`."""

_REMEMBERED = 4096
"""Combinations of headers that are kept made."""
_CONTENT_TYPES: dict[Form, bytes] = {"json": b"application/json", "msgpack": b"application/msgpack"}


class Reply:
    """An answer that is an ASGI application: status, headers and bytes, sent as they are."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


class StreamReply:
    """An answer of any length: status 200, headers, and parts that are sent as they are made.

    What fails after the first part can only break the stream off.
    """

    __slots__ = ("_first", "_headers", "_rest")
    status = 200

    def __init__(self, headers: list[tuple[bytes, bytes]], first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        self._headers = headers
        self._first = first
        self._rest = rest

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        """Send it."""
        async with aclosing(self._rest):
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self._headers})
                await send({"type": "http.response.body", "body": self._first, "more_body": True})
                async for part in self._rest:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except Exception:  # noqa: BLE001 - the face's edge: the stream has no end, the log has the trace
                _log.warning("a stream broke off", exc_info=True)


class Exchange:
    """A request whose key was checked and whose body has arrived, or is to be read from `parts`.

    `path` is as it was sent, percent-encoded. `operation` is the number of its route; `status`, `tier` and
    `version` are those of its answer, as far as they are known.
    """

    __slots__ = (
        "_access",
        "_fields",
        "_marks",
        "_repeatable",
        "_started",
        "_timed",
        "body",
        "headers",
        "method",
        "operation",
        "parts",
        "path",
        "principal",
        "query",
        "status",
        "target",
        "tier",
        "trace",
        "version",
    )

    def __init__(
        self,
        scope: Mapping[str, Any],
        headers: dict[bytes, bytes],
        *,
        principal: Principal,
        access: Access,
        body: bytes,
        trace: Trace,
        started: float,
        marks: tuple[Header, ...] = (),
        parts: AsyncGenerator[bytes, None] | None = None,
    ) -> None:
        self.method: str = scope["method"]
        self.path = sent_path(scope)
        self.query: bytes = scope["query_string"]
        self.headers = headers
        self.principal = principal
        self.body = body
        self.parts = parts
        self.trace = trace
        self.target: Target | None = None
        self.operation: int | None = None
        self.status = 200
        self.tier: Tier | Literal["none"] = "none"
        self.version: int | None = None
        self._access = access
        self._fields: Iterable[Header] = scope["headers"]
        self._repeatable = True
        self._started = started
        self._timed = False
        self._marks = marks

    @property
    def form(self) -> Form:
        """How the body is encoded."""
        return request_form(self.headers.get(b"content-type", b""))

    def read(self, decoder: BodyDecoder[_T]) -> _T:
        """The body, decoded and checked."""
        self.trace.start()
        return decoder.decode(self.body, self.form)

    def parameters(self, kind: type[_T]) -> _T:
        """The query string, checked: unknown and repeated parameters are refused.

        Raises:
            InvalidRequest: with the parameter's name.
        """
        values: dict[str, str] = {}
        if _BROKEN_ESCAPE.search(self.query):
            raise InvalidRequest("the query string is not valid: % must be followed by two hexadecimal digits")
        try:
            pairs = parse_qsl(
                self.query.decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(self.query),
                errors="strict",
            )
        except (UnicodeDecodeError, ValueError) as error:
            raise InvalidRequest(f"the query string is not valid: {error}") from error
        for name, value in pairs:
            if name in values:
                raise InvalidRequest(f"{name}: the parameter is given twice", path=name)
            if "\0" in value:
                raise InvalidRequest(f"{name}: must not contain the character NUL (U+0000)", path=name)
            values[name] = value
        try:
            return msgspec.convert(values, kind, strict=False)
        except msgspec.ValidationError as error:
            message, _, path = str(error).rpartition(" - at `")
            path = path.rstrip("`").removeprefix("$.").removeprefix("$")
            detail = message or str(error)
            raise InvalidRequest(f"{path}: {detail}" if path else detail, path=path or None) from error

    def path_name(self, prefix: str) -> str:
        """What follows the prefix in the path, decoded here: the router has lost "%2F" and doubled slashes.

        Raises:
            InvalidRequest: it is not percent-encoded UTF-8.
            NotFound: it has a slash that is not encoded.
        """
        encoded = self.path.removeprefix(prefix)
        if "/" in encoded:
            raise NotFound(f"there is no route {self.path}; a slash in an id is sent as %2F")
        if _BROKEN_ESCAPE.search(encoded.encode("latin-1")):
            raise InvalidRequest("user_id: % must be followed by two hexadecimal digits", path="user_id")
        try:
            return unquote(encoded, errors="strict")
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"user_id: is not UTF-8: {error}", path="user_id") from error

    def path_id(self, text: str) -> UUID:
        """The id in the path.

        Raises:
            InvalidRequest: it is not a UUID.
        """
        try:
            return msgspec.convert(text, UUID, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidRequest("id: must be a UUID, e.g. 0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e01", path="id") from error

    @property
    def condition(self) -> bytes | None:
        """`If-Match` as it was sent; several lines of it are one list (RFC 9110, 5.3). None without it."""
        lines = [value for name, value in self._fields if name == b"if-match"]
        return b", ".join(lines) if lines else None

    def if_match(self) -> frozenset[int] | None:
        """The versions of which `If-Match` asks for one; None without it, or for `*` (RFC 9110, 13.1.1).

        The comparison is the strong one: weak ETags match nothing, and neither do those that are none of ours. A bare
        number is taken for the ETag that it was copied from.

        Raises:
            InvalidRequest: it is not a list of ETags.
        """
        value = (b"*" if self.condition is None else self.condition).strip()
        if value == b"*":
            return None
        if _VERSION.fullmatch(value):
            return frozenset([int(value)])
        tags = _entity_tags(value)
        return frozenset(int(tag) for weak, tag in tags if not weak and _VERSION.fullmatch(tag))

    def demand(self, min_version: str | None, consistency: str | None) -> Demand | None:
        """How new the answer must be: by the fields given here, or by the headers of the same meaning.

        Raises:
            InvalidRequest: a header is not valid.
        """
        if min_version is not None or consistency is not None:
            self._repeatable = False  # the digest of a request leads past its fields; headers are looked at each time
        wished = self.headers.get(CONSISTENCY) if consistency is None else consistency.encode()
        if wished not in {None, b"strong"}:
            raise InvalidRequest("Memfast-Consistency: must be strong, or left out", path="Memfast-Consistency")
        text = self.headers.get(MIN_VERSION) if min_version is None else min_version.encode()
        token = None if text is None else read_token(text)
        if text is not None and token is None:
            raise InvalidRequest(
                "Memfast-Min-Version: must be the Memfast-Token of a write", path="Memfast-Min-Version"
            )
        return None if token is None and wished is None else Demand(token, wished is not None)

    def scope(self, user_id: str) -> Scope:
        """The user's scope, as far as the key reaches."""
        scope = self._access.scope(self.principal, user_id)
        self.trace.scope_id = scope.id
        return scope

    @property
    def answer_form(self) -> Form:
        """How the answer is to be encoded."""
        return response_form(self.headers.get(b"accept", b""))

    def answered(self, answer: Answer, target: Target, *, timed: bool = False) -> Reply:
        """A finished answer; the same request may be answered from `target` from now on.

        One that is `timed` tells the time of its stages whichever tier it is of; else only a cold one does.
        """
        if self._repeatable:
            self.target = target
        self._timed = timed or answer.tier == "cold"
        self.unconfirmed(answer.unconfirmed_s)
        self.tier, self.version = answer.tier, answer.version
        own = finished_headers(len(answer.body), answer.version, answer.tier, target.kind, self.answer_form)
        return Reply(200, [*own, *self.standard_headers()], answer.body)

    def unconfirmed(self, seconds: float) -> None:
        """Something of the answer was not confirmed for so long; 0 marks nothing."""
        if seconds:
            self._marks = mode_marks(Standing("cache_only", "postgresql does not confirm copies", int(seconds) + 1))

    def reply(self, value: Any, *, status: int = 200, version: int | None = None) -> Reply:
        """An answer in the format that the client accepts."""
        headers = [] if version is None else [(b"memfast-version", b"%d" % version)]
        return self._reply(status, headers, encode_json(value))

    def text(self, body: bytes, content_type: bytes) -> Reply:
        """An answer that is no JSON."""
        own = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        return Reply(200, [*own, *self.standard_headers()], body)

    def written(self, answer: Written, body: bytes, *, replayed: bool = False) -> Reply:
        """The answer to a write: with the token that later reads may send along, and whether it was given before."""
        headers = list(answer.headers)
        if answer.version:
            self.version = answer.version
            token = write_token(Token(self._access.facts.lineage, answer.version))
            headers += [(b"memfast-token", token), (b"memfast-version", b"%d" % answer.version)]
        if replayed:
            headers.append((b"idempotent-replayed", b"true"))
        return self._reply(answer.status, headers, body)

    def _reply(self, status: int, headers: list[Header], body: bytes) -> Reply:
        """An answer whose body is this JSON; empty for none."""
        if body:
            form = self.answer_form
            body = recode(body, form)
            headers.append((b"content-type", _CONTENT_TYPES[form]))
        if status != 204:
            headers.append((b"content-length", b"%d" % len(body)))
        headers.extend(self.standard_headers())
        return Reply(status, headers, body)

    def stream(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> StreamReply:
        """An answer of lines."""
        own = [(b"content-type", NDJSON), (b"cache-control", b"no-store")]
        return StreamReply([*own, *self.standard_headers()], first, rest)

    def standard_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer: the request's id, its trace, and the time spent; by stages where that is wanted."""
        standard = standard_headers(self.trace.parent, self.trace.request_id, self._started, self._marks)
        if self._timed:  # what is fast has no time for it unless somebody asks
            stages = zip(STAGES, self.trace.spent, strict=True)
            told = b"".join(b", %b;dur=%.3f" % (name.encode(), spent * 1e3) for name, spent in stages if spent >= 0)
            standard = [(name, value + told if name == b"server-timing" else value) for name, value in standard]
        return standard


def _entity_tags(value: bytes) -> list[tuple[bytes, bytes]]:
    """The ETags of a list, each with its mark if it is weak; empty elements are skipped (RFC 9110, 5.6.1)."""
    tags: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(value):
        match = _ENTITY_TAG.match(value, position)
        if match is None:
            raise InvalidRequest('If-Match: must be ETags of a memory, e.g. "42", or *', path="If-Match")
        if match[2] is not None:
            tags.append((match[1] or b"", match[2]))
        position = match.end()
    if not tags:
        raise InvalidRequest('If-Match: names no ETag; send one, e.g. "42", or *', path="If-Match")
    return tags


def standard_headers(
    parent: bytes | None, request_id: bytes, started: float, marks: tuple[Header, ...] = ()
) -> list[tuple[bytes, bytes]]:
    """See `Exchange.standard_headers`.

    Args:
        parent: the request's `traceparent`, if it has a valid one.
        request_id: its id.
        started: seconds of `time.perf_counter`.
        marks: of the mode that the service is in.
    """
    standard = [(b"x-request-id", request_id), *_timing(int((time.perf_counter() - started) * 1e6)), *marks]
    if parent is not None:
        standard.append((b"traceparent", parent))
    return standard


def mode_marks(standing: Standing) -> tuple[Header, ...]:
    """Headers of an answer that is given in any mode but `full`: which, why, and how old it may be."""
    if standing.mode == "full":
        return ()
    reason = standing.reason.encode("ascii", "replace").replace(b"\n", b" ").replace(b"\r", b" ")
    marks = ((b"memfast-mode", standing.mode.encode()), (b"memfast-mode-reason", reason))
    return (*marks, (b"age", b"%d" % standing.age_s)) if standing.age_s else marks


@lru_cache(_REMEMBERED)
def _timing(elapsed_us: int) -> tuple[Header, Header]:
    """Headers of the time spent. Few requests take long, and so few times are all there are."""
    return (
        (b"x-process-time", b"%.6f" % (elapsed_us / 1e6)),
        (b"server-timing", b"total;dur=%.3f" % (elapsed_us / 1e3)),
    )


@lru_cache(_REMEMBERED)
def finished_headers(size: int, version: int, tier: Tier, kind: Kind, form: Form) -> tuple[Header, ...]:
    """Headers of a finished answer of so many bytes, without the standard ones."""
    etag = ((b"etag", b'"%d"' % version),) if kind == "get" else ()
    return (
        (b"content-type", _CONTENT_TYPES[form]),
        (b"content-length", b"%d" % size),
        (b"memfast-tier", tier.encode()),
        (b"memfast-version", b"%d" % version),
        *etag,
    )


def sent_path(scope: Mapping[str, Any]) -> str:
    """The path as it was sent: the router rewrites `scope["path"]`, which is decoded before that."""
    return (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")
