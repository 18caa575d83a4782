"""HTTP/1.1 as bytes: a request's, and answers out of what comes. No sockets here.

Parsed by httptools, which is llhttp: h11 in its place makes a round trip twice as long, httpx as a whole six times
(ARCHITECTURE.md).
"""

from __future__ import annotations

from httptools import HttpParserError, HttpResponseParser
from msgspec import Struct

from memfast.errors import InvalidRequest

__all__ = ["Answer", "AnswerReader", "Broken", "header_line"]


class Broken(Exception):
    """An exchange came to no answer. `sent` = the service may have got the request; `late` = its time was up."""

    def __init__(self, detail: str, *, sent: bool, late: bool = False) -> None:
        super().__init__(detail)
        self.sent = sent
        self.late = late


class Answer(Struct):
    """An answer; names of headers are in lower case. `reusable` = its connection may be used again."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    reusable: bool


class AnswerReader:
    """Puts the answers of one connection together, one after another, out of bytes as they come.

    `status` is 0 until the head of an answer is there. `take` hands out what has come of a body that is streamed.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self._parser = HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._finished: Answer | None = None

    def feed(self, data: bytes) -> Answer | None:
        """Take bytes; the answer when all of it has come.

        Raises:
            Broken: they are not HTTP.
        """
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            raise Broken(f"what came is not HTTP: {error}", sent=True) from error
        answer, self._finished = self._finished, None
        return answer

    def take(self) -> list[bytes]:
        """The parts of the body that came since the last time."""
        parts, self._parts = self._parts, []
        return parts

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self.status, self.headers, self._parts = 0, {}, []

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self.status = self._parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        """Called by the parser."""
        self._parts.append(part)

    def on_message_complete(self) -> None:
        """Called by the parser; what comes before the answer (1xx) is passed over."""
        if self.status >= 200:
            body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._finished = Answer(self.status, self.headers, body, self._parser.should_keep_alive())


def header_line(name: str, value: str) -> str:
    """A header of a request.

    Raises:
        InvalidRequest: the value would end its line.
    """
    if not (value.isascii() and value.isprintable()):
        raise InvalidRequest(f"{name}: must be printable ASCII characters", path=name)
    return f"{name}: {value}\r\n"
