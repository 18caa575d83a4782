"""The lines of an export, out of the parts in which they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from memfast.client.exchange import Answer, AnswerReader, Broken
from memfast.client.problems import error_of

__all__ = ["CLOSING_CHUNK", "LineSplitter", "chunk", "parts_of"]

CLOSING_CHUNK = b"0\r\n\r\n"
"""The end of a body that is sent in chunks."""


class _Last(Struct):
    """The last line of an export."""

    type: str
    detail: str = ""


class LineSplitter:
    """Cuts parts into lines, and knows whether the last one is the end of an export."""

    def __init__(self) -> None:
        self._rest = b""
        self._last = b""

    def feed(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        """The lines that have come, each with its newline."""
        for part in parts:
            *whole, self._rest = (self._rest + part).split(b"\n")
            for line in whole:
                self._last = line
                yield line + b"\n"

    def finish(self, answer: Answer) -> None:
        """Check the end.

        Raises:
            MemfastError: the answer is a refusal.
            Broken: it is not the end of an export.
        """
        if answer.status != 200:
            raise error_of(answer)
        try:
            last = msgspec.json.decode(self._last, type=_Last)
        except msgspec.DecodeError:
            last = _Last("")
        if last.type != "trailer" or self._rest:
            raise Broken(f"the export broke off: {last.detail or 'its end is missing'}", sent=True)


def parts_of(reader: AnswerReader, answer: Answer | None) -> list[bytes]:
    """What has come of a stream since the last time; of a refusal nothing, it is read as a whole."""
    if reader.status not in {0, 200}:
        return []
    return reader.take() if answer is None else [answer.body]


def chunk(part: bytes) -> bytes:
    """A part of a body that is sent in chunks; nothing for an empty one, which would be the end."""
    return b"%x\r\n%b\r\n" % (len(part), part) if part else b""
