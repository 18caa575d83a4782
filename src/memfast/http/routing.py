"""A route as data: what serves it, and what the OpenAPI document says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from memfast.errors import MemfastError
from memfast.http.exchange import Header, Reply, StreamReply
from memfast.http.wire import NoParameters
from memfast.service.access import Principal
from memfast.service.answers import Kind

__all__ = ["Asked", "Endpoint", "Route", "Success", "Surface"]

Endpoint = Callable[..., Awaitable[Reply | StreamReply]]
Asked = tuple[bytes, Callable[[bytes], bytes]]


class Success(Struct, frozen=True):
    """One successful answer: its body's type (None = empty) and what it means.

    `written` = it is that of a write: it carries a token, and is kept under the request's idempotency key;
    `told` = `Memfast-Status` tells what became of the request; `media_types` are those of a text, which is no JSON.
    """

    kind: Any
    text: str
    written: bool = False
    told: bool = False
    media_types: tuple[str, ...] = ()


class Route(Struct, frozen=True, kw_only=True):
    """A method and a path, the coroutine behind them, and their contract.

    `endpoint(exchange, services, **path_parameters)` gives the reply. `problems` are the statuses it may refuse with,
    beside those that every route has. `reads` = a POST that only reads; it has the time of a read. `streams` = its body
    or its answer is a stream of lines: there is no bound on its size, and its time is bounded part by part. `kind` =
    a success is a finished answer of that kind, which may be kept; no two routes with parameters have the same.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    endpoint: Endpoint
    summary: str
    group: str
    answers: Mapping[int, Success]
    parameters: type[Struct] = NoParameters
    body: type[Struct] | None = None
    problems: tuple[int, ...] = ()
    public: bool = False
    reads: bool = False
    streams: bool = False
    kind: Kind | None = None


class Surface(Struct, frozen=True, kw_only=True):
    """Another protocol, below a prefix of its own: it reads its paths itself, and the edge protects it as every route.

    Attributes:
        prefix: what its paths begin with, e.g. `/other/`.
        endpoint: `endpoint(exchange, services)` answers every request below it.
        credential: what of the headers is sent as `Authorization: Bearer` elsewhere, in that form; it may refuse them.
        problem: an error as its clients read it, of the error, the standard headers and the path.
        reads: paths of those POSTs that only read; they have the time of a read.
        refusal: the same as `problem` for a request whose body has arrived, of the error, the request's headers, its
            body and the standard headers; None = `problem` tells that too.
        asked: of the headers, the principal and the body of a POST: a digest of everything that its answer depends on,
            and what makes the answer of a finished one; None where no answer may be given unseen.
    """

    prefix: str
    endpoint: Endpoint
    credential: Callable[[Mapping[bytes, bytes]], bytes | None]
    problem: Callable[[MemfastError, list[Header], str], Reply]
    reads: frozenset[str] = frozenset()
    refusal: Callable[[MemfastError, Mapping[bytes, bytes], bytes, list[Header]], Reply] | None = None
    asked: Callable[[Mapping[bytes, bytes], Principal, bytes], Asked | None] | None = None
