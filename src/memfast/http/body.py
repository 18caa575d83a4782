"""The body of a request: read whole or in parts, and what becomes of one that the answer did not wait for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from memfast.errors import InvalidRequest, PayloadTooLarge, RequestTimeout

__all__ = ["GoneError", "Receive", "Unread", "content_length", "no_body", "receive_body"]

Receive = Callable[[], Awaitable[Any]]

_HEARD_BYTES = 256 * 1024
"""Most bytes of a body that are taken and thrown away behind an answer."""

_LINGER_S = 1.0
"""How long that may take where the connection ends anyway, in seconds."""


class GoneError(Exception):
    """The client left before its body had arrived."""


class Unread:
    """What has not been read of a body.

    The next request of the connection stands behind it, and the server closes a connection whose body nobody reads to
    its end: without a word, in the middle of the client's next request, or before the client has seen the answer. So
    the rest of a body is heard out behind the answer, where that is little; else the answer says that the connection
    ends.

    Args:
        headers: of the request.
        receive: gives the messages of the body.
        timeout_s: time that each part has, and the rest, in seconds.
        stalled: nothing came for that long.
    """

    __slots__ = ("_held", "_left", "_receive", "_timeout_s")

    def __init__(
        self, headers: Mapping[bytes, bytes], receive: Receive, timeout_s: float, *, stalled: bool = False
    ) -> None:
        try:
            declared = content_length(headers)
        except InvalidRequest:
            declared = None
        self._left = math.inf if declared is None else declared
        self._held = stalled or b"expect" in headers
        self._receive = receive
        self._timeout_s = timeout_s

    @property
    def ends(self) -> bool:
        """Whether the connection ends with the answer: the rest is large, of unknown size, or may never be sent."""
        return self._left > _HEARD_BYTES or (self._held and self._left > 0)

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, of any size.

        Raises:
            GoneError: the client has left.
            RequestTimeout: it stalls.
        """
        while self._left > 0:
            try:
                async with asyncio.timeout(self._timeout_s):
                    part = await self._take()
            except TimeoutError as error:
                self._held = True
                raise no_body(self._timeout_s) from error
            yield part

    async def hear_out(self) -> None:
        """Throw away what is still on its way, within bounds; whoever waits for leave to send it is not given that."""
        if self._held:
            return
        heard = 0
        with suppress(GoneError, TimeoutError):
            async with asyncio.timeout(min(self._timeout_s, _LINGER_S) if self.ends else self._timeout_s):
                while self._left > 0 and heard < _HEARD_BYTES:
                    heard += len(await self._take())

    async def _take(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._left = 0
            raise GoneError
        part: bytes = message.get("body", b"")
        self._left = self._left - len(part) if message.get("more_body", False) else 0
        return part


async def receive_body(receive: Receive, declared: int | None, most: int) -> bytes:
    """The body, read up to its declared length: one event less than waiting for the last, empty one.

    Raises:
        GoneError: the client has left.
        PayloadTooLarge: it has more than `most` bytes.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > most:
            raise PayloadTooLarge(f"the body is larger than {most} bytes")
        if size == declared or not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def no_body(timeout_s: float) -> RequestTimeout:
    """What a client is told whose body does not come."""
    return RequestTimeout(f"the body did not arrive within {timeout_s:g} s")


def content_length(headers: Mapping[bytes, bytes]) -> int | None:
    """How many bytes a body announces; None where it is sent without saying.

    Raises:
        InvalidRequest: the header is no number.
    """
    declared = headers.get(b"content-length")
    if declared is None:
        return None if b"transfer-encoding" in headers else 0
    if not declared.isdigit() or len(declared) > 18:
        raise InvalidRequest("Content-Length: must be a number")
    return int(declared)
