"""A route as data: what serves it, and what the OpenAPI document says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

from memfast.http.exchange import Reply, StreamReply
from memfast.http.wire import NoParameters

__all__ = ["Endpoint", "Route", "Success"]

Endpoint = Callable[..., Awaitable[Reply | StreamReply]]


class Success(Struct, frozen=True):
    """One successful answer: its body's type (None = empty) and what it means.

    `written` = it is that of a write: it carries a token, and is kept under the request's idempotency key;
    `told` = `Memfast-Status` tells what became of the request.
    """

    kind: Any
    text: str
    written: bool = False
    told: bool = False
    media_type: str | None = None


class Route(Struct, frozen=True, kw_only=True):
    """A method and a path, the coroutine behind them, and their contract.

    `endpoint(exchange, services, **path_parameters)` gives the reply. `problems` are the statuses it may refuse with,
    beside those that every route has. `reads` = a POST that only reads; it has the time of a read. `streams` = its body
    or its answer is a stream of lines: there is no bound on its size, and its time is bounded part by part.
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
