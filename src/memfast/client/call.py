"""A call as data, and how one description of it serves both clients.

Each method of the API is written once: it makes a `Call` out of its arguments. `operation` gives it to a blocking
client as a function that returns the answer, and to an awaiting one as a coroutine function; type checkers see either
signature.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, Self, TypeVar, overload

from msgspec import Struct

from memfast.client.answers import Page
from memfast.client.exchange import Answer

__all__ = ["Awaiting", "Blocking", "Call", "Download", "Pages", "Upload", "download", "listing", "operation"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

Lines = Iterable[bytes] | AsyncIterable[bytes]


class Call(Struct, Generic[_T], frozen=True, kw_only=True):
    """A request and how its answer is read.

    A `read` may be sent again as often as one likes, and is told how new its answer must be; a `write` has an
    idempotency key. `timeout_s` is that of the call, None = the client's; `statuses` beyond 299 are answers too.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    target: str
    read: Callable[[Answer], _T]
    kind: Literal["read", "write"]
    user_id: str | None = None
    body: bytes = b""
    timeout_s: float | None = None
    idempotency_key: str | None = None
    if_match: int | None = None
    min_version: str | None = None
    consistency: str | None = None
    statuses: tuple[int, ...] = ()


class Pages(Generic[_T]):
    """A listing as calls, one a page.

    Args:
        page: the call for the page at a cursor, of so many items at most.
        limit: items in all; None = every one.
        page_items: items of a page.
    """

    def __init__(self, page: Callable[[str | None, int], Call[Page[_T]]], limit: int | None, page_items: int) -> None:
        self._page = page
        self._left = limit
        self._page_items = page_items

    def first(self) -> Call[Page[_T]] | None:
        """The first call; None where nothing is wanted."""
        return self._at(None)

    def after(self, page: Page[_T]) -> Call[Page[_T]] | None:
        """The call that follows a page; None after the last one."""
        if self._left is not None:
            self._left -= len(page.items)
        return None if page.next_cursor is None else self._at(page.next_cursor)

    def _at(self, cursor: str | None) -> Call[Page[_T]] | None:
        if self._left is None:
            return self._page(cursor, self._page_items)
        return self._page(cursor, min(self._page_items, self._left)) if self._left > 0 else None


class Upload(Call[_T], Generic[_T], frozen=True, kw_only=True):
    """A call whose body is sent while it is made. It is sent once: its parts may be gone then."""

    parts: Lines


class Download(Call[None], frozen=True, kw_only=True):
    """A call whose answer is a stream of lines."""


class Blocking(Protocol):
    """A client whose calls return when they are answered."""

    def _perform(self, build: Callable[..., Call[Any]], /, *arguments: Any, **keywords: Any) -> Any: ...

    def _iterate(self, build: Callable[..., Pages[Any]], /, *arguments: Any, **keywords: Any) -> Iterator[Any]: ...

    def _stream(self, build: Callable[..., Download], /, *arguments: Any, **keywords: Any) -> Iterator[bytes]: ...


class Awaiting(Protocol):
    """A client whose calls are awaited."""

    async def _perform(self, build: Callable[..., Call[Any]], /, *arguments: Any, **keywords: Any) -> Any: ...

    def _iterate(self, build: Callable[..., Pages[Any]], /, *arguments: Any, **keywords: Any) -> AsyncIterator[Any]: ...

    def _stream(self, build: Callable[..., Download], /, *arguments: Any, **keywords: Any) -> AsyncIterator[bytes]: ...


class _Described(Generic[_P]):
    """A method as it is written, and the way in which clients run it."""

    _way = ""

    def __init__(self, build: Callable[Concatenate[Any, _P], Any]) -> None:
        self._build = build
        functools.update_wrapper(self, build)

    def __call__(self, client: Any, *arguments: _P.args, **keywords: _P.kwargs) -> Any:
        """As a plain function, with the client as the first argument."""
        return self.__get__(client, type(client))(*arguments, **keywords)

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self
        return functools.partial(getattr(client, self._way), self._build, client)


class operation(_Described[_P], Generic[_P, _T]):  # noqa: N801 - a decorator
    """A method that is one request."""

    _way = "_perform"

    def __init__(self, build: Callable[Concatenate[Any, _P], Call[_T]]) -> None:
        super().__init__(build)

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[_P, _T]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[_P, Coroutine[Any, Any, _T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        """The method of a client."""
        return super().__get__(client, owner)


class listing(_Described[_P], Generic[_P, _T]):  # noqa: N801 - a decorator
    """A method that gives items, page by page."""

    _way = "_iterate"

    def __init__(self, build: Callable[Concatenate[Any, _P], Pages[_T]]) -> None:
        super().__init__(build)

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[_P, Iterator[_T]]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[_P, AsyncIterator[_T]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        """The method of a client."""
        return super().__get__(client, owner)


class download(_Described[_P]):  # noqa: N801 - a decorator
    """A method that gives lines while they come."""

    _way = "_stream"

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[_P, Iterator[bytes]]: ...
    @overload
    def __get__(self, client: Awaiting, owner: type) -> Callable[_P, AsyncIterator[bytes]]: ...
    def __get__(self, client: Any, owner: type) -> Any:
        """The method of a client."""
        return super().__get__(client, owner)


Options = Mapping[str, Any]
