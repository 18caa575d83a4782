"""Files of lines: plain or gzip, standard input and output, and JSON documents of mem0."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
from msgspec import Raw, Struct

from memfast.errors import CommandFailed

__all__ = ["STDIO", "LineFile", "opened_for_reading", "opened_for_writing"]

STDIO = "-"
"""In place of a file: standard input or output."""

_BUFFER_BYTES = 1024 * 1024


class _Results(Struct):
    """What mem0's `get_all` gives."""

    results: list[Raw]


class _Kind(Struct):
    """What tells lines apart."""

    type: str | None = None
    memory: Any = None


class LineFile:
    """Lines of a file that is to be imported, counted from 1.

    Attributes:
        form: whose lines they are: memfast or mem0.
        total: bytes to read, or None where nobody knows.
    """

    def __init__(self, raw: BinaryIO, stream: BinaryIO, total: int | None, form: str) -> None:
        self.total = total
        self._raw = raw
        self._lines: Iterator[bytes] = iter(stream)
        first = next(self._lines, b"")
        kind = _kind(first)
        found = "mem0" if kind is not None and kind.type is None and kind.memory is not None else "memfast"
        self.form = found if form == "auto" else form
        if form != "memfast" and first and (kind is None or (kind.type is None and kind.memory is None)):
            items = _items(first + stream.read())
            if items is not None:
                self.form, self._lines, first = "mem0", iter(items), b""
            elif form == "mem0":
                raise CommandFailed("the file is neither one JSON document of mem0 nor one memory a line")
        self._first = first

    def __iter__(self) -> Iterator[bytes]:
        """The lines, without their ends."""
        if self._first:
            yield self._first.rstrip(b"\r\n")
        for line in self._lines:
            yield line.rstrip(b"\r\n")

    @property
    def position(self) -> int:
        """Bytes read so far, compressed where the file is."""
        return 0 if self.total is None else self._raw.tell()


def _kind(line: bytes) -> _Kind | None:
    try:
        return msgspec.json.decode(line, type=_Kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _items(document: bytes) -> list[bytes] | None:
    """The memories of a JSON document, one a line; None where it is none."""
    try:
        found = msgspec.json.decode(document, type=_Results | list[Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    items = found.results if isinstance(found, _Results) else found
    return [msgspec.json.format(item, indent=-1) for item in items]


@contextmanager
def opened_for_reading(name: str, form: str) -> Iterator[LineFile]:
    """Open what is to be imported.

    Args:
        name: a file, plain or `.gz`, or `-`.
        form: auto, memfast or mem0.

    Raises:
        CommandFailed: it cannot be read.
    """
    _require_known(name)
    try:
        if name == STDIO:
            yield LineFile(sys.stdin.buffer, sys.stdin.buffer, None, form)
            return
        with Path(name).open("rb", buffering=_BUFFER_BYTES) as raw:
            total = Path(name).stat().st_size
            if not name.endswith(".gz"):
                yield LineFile(raw, raw, total, form)
                return
            with gzip.GzipFile(fileobj=raw) as unpacked:
                buffered = io.BufferedReader(cast("io.RawIOBase", unpacked), _BUFFER_BYTES)
                yield LineFile(raw, cast("BinaryIO", buffered), total, form)
    except (OSError, EOFError) as error:
        raise CommandFailed(f"{name}: cannot be read: {error}") from error


@contextmanager
def opened_for_writing(name: str) -> Iterator[BinaryIO]:
    """Open what an export is written to: a file that gets its name only when all of it is there.

    Raises:
        CommandFailed: it cannot be written.
    """
    _require_known(name)
    if name == STDIO:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    partial = Path(f"{name}.partial")
    try:
        with partial.open("wb", buffering=_BUFFER_BYTES) as raw:
            if name.endswith(".gz"):
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6) as packed:
                    yield cast("BinaryIO", packed)
            else:
                yield raw
        partial.replace(name)
    except OSError as error:
        raise CommandFailed(f"{name}: cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _require_known(name: str) -> None:
    if name.endswith((".zst", ".zstd")):
        raise CommandFailed(f"{name}: Zstandard is not built in; use .gz, or pipe through zstd with - as the file")
