"""Streams of lines: how many are under way, and where their lines end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from memfast.errors import Overloaded

__all__ = ["SentLine", "Streams", "split_lines"]


class Streams:
    """Bounds the exports and imports that are under way in a worker; one more is refused."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """One of them.

        Raises:
            Overloaded: as many as may are under way.
        """
        if self._open >= self._most:
            detail = f"{self._open} exports and imports are under way; nothing was begun"
            raise Overloaded(detail, retry_after_s=5, begun=False)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


class SentLine(NamedTuple):
    """A line without its end, counted from 1; `text` is None where it was too long to be kept."""

    number: int
    text: bytes | None


async def split_lines(chunks: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[list[SentLine]]:
    """The lines of a stream, as many at a time as its parts bring; the last one needs no end.

    Args:
        chunks: the stream, in parts of any size.
        most_bytes: of a line; no more of it is ever held.
    """
    number = 0
    rest: bytes | None = b""  # None while the rest of a line is thrown away
    async for chunk in chunks:
        pieces = chunk.split(b"\n")
        lines: list[SentLine] = []
        for piece in pieces[:-1]:
            number += 1
            text = None if rest is None else rest + piece
            lines.append(SentLine(number, None if text is None or len(text) > most_bytes else text))
            rest = b""
        if rest is not None:
            rest += pieces[-1]
            rest = None if len(rest) > most_bytes else rest
        if lines:
            yield lines
    if rest != b"":
        yield [SentLine(number + 1, rest)]
