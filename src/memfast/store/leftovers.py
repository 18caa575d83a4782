"""Looking for what a forgotten scope may have left: in rows, in the planner's samples, and in files as bytes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from memfast.model import Scope
from memfast.store.queries import FORGET

__all__ = [
    "TEXT_BYTES_MIN",
    "Needles",
    "look_into_rows",
    "look_into_statistics",
    "needles_of",
    "prepare_files",
    "search_file",
]

TEXT_BYTES_MIN = 8
"""Shorter texts, or names, stand in files by chance."""

_PROBE_BYTES = 48
"""What is looked for of a long text at its begin, in its middle and at its end: pages and chunks cut it anywhere."""

_ANSWERS = "idempotency"
_SHORT_VALUE = 126
"""PostgreSQL puts one byte with the length before a value of so many bytes or less."""


class Needles(Struct, frozen=True, kw_only=True):
    """What is looked for in files: parts of `texts`, the user's `names`, and its `scope` in any notation."""

    texts: list[bytes]
    names: list[bytes]
    scope: list[bytes]


def needles_of(scope: Scope, texts: Sequence[str]) -> Needles:
    """What a scope with these texts would be recognised by."""
    namespace, user_id = scope.namespace.encode(), scope.user_id.encode()
    names = [user_id] if len(user_id) >= TEXT_BYTES_MIN else []
    if max(len(namespace), len(user_id)) <= _SHORT_VALUE:  # as the two columns stand in a row and in an index
        names.append(b"".join(bytes([2 * len(name) + 3]) + name for name in (namespace, user_id)))
    return Needles(
        texts=list(dict.fromkeys(probe for text in texts for probe in _probes(text))),
        names=names,
        scope=[scope.id.bytes, scope.id.hex.encode(), str(scope.id).encode()],
    )


def _probes(text: str) -> Iterator[bytes]:
    for form in (text.encode(), msgspec.json.encode(text)[1:-1]):
        if len(form) <= _PROBE_BYTES:
            yield form
            continue
        middle = (len(form) - _PROBE_BYTES) // 2
        yield from (form[:_PROBE_BYTES], form[middle : middle + _PROBE_BYTES], form[-_PROBE_BYTES:])
    compressed = _compressed_begin(text.encode())
    if compressed:
        yield compressed


def _compressed_begin(value: bytes) -> bytes:
    """How PostgreSQL's own compression begins a value; empty where three bytes of it come again early.

    Until they do it leaves bytes as they are, and puts a zero before each eight of them.
    """
    known, length = set(), 0
    while length < 2 * _PROBE_BYTES // 3 and length + 3 <= len(value):
        triple = value[length : length + 3]
        if triple in known:
            break
        known.add(triple)
        length += 1
    groups = [value[start : start + 8] for start in range(0, length // 8 * 8, 8)]
    return b"".join(b"\0" + group for group in groups) if len(groups) > 1 else b""


async def look_into_rows(connection: Any, scope: Scope, texts: Sequence[str]) -> list[str]:
    """Where rows of the scope are, or rows that name the user or say one of the texts: a line each.

    The answer that is kept to the request which forgot it is none of these.
    """
    own = await _counts(connection, FORGET.questions_of_scope, scope.id)
    named = await _counts(connection, FORGET.questions_of_name, scope.namespace, scope.user_id)
    forms = [form for text in texts for form in _row_forms(text)]
    saying = await _counts(connection, FORGET.questions_of_text, forms) if forms else []
    found = [f"{name}: {rows} rows of the user" for name, rows in own if rows > (name == _ANSWERS)]
    found += [f"{name}: {rows} rows name the user" for name, rows in named if rows]
    return found + [f"{name}: {rows} rows say it" for name, rows in saying if rows]


async def _counts(connection: Any, questions: str, *values: Any) -> list[tuple[str, int]]:
    """What each table answers."""
    asked = await connection.fetch(questions)
    return [(row["name"], await connection.fetchval(row["question"], *values)) for row in asked]


async def look_into_statistics(connection: Any, scope: Scope, texts: Sequence[str]) -> list[str]:
    """Columns of whose values the planner keeps samples that say one of the texts, or are the user's id."""
    forms = [form for text in texts for form in _row_forms(text)]
    return [row["name"] for row in await connection.fetch(FORGET.statistics_with, forms, scope.user_id)]


def _row_forms(text: str) -> list[str]:
    """A text as it stands in a row that is written as text: in a column, in JSON, in an array, or in bytes."""
    escaped = msgspec.json.encode(text)[1:-1]
    forms = [text, text.replace("\\", "\\\\").replace('"', '""'), text.replace("\\", "\\\\").replace('"', '\\"')]
    forms += [escaped.decode().replace("\\", "\\\\").replace('"', '""'), text.encode().hex(), escaped.hex()]
    return list(dict.fromkeys(forms))


async def prepare_files(connection: Any) -> dict[str, tuple[str, str]]:
    """Bring the files up to date; gives the name of what lies in each and the table it belongs to, by its path."""
    await connection.execute(FORGET.checkpoint)
    rows = await connection.fetch(FORGET.relation_files)
    return {row["path"]: (row["name"], row["owner"]) for row in rows}


def search_file(path: Path, wanted: Sequence[bytes]) -> bool | None:
    """Whether a file holds one of these; None where it cannot be read. One that is gone meanwhile holds nothing."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return any(content.find(each) >= 0 for each in wanted)
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return None
