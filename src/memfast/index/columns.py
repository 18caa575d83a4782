"""Columns of what rows keep as JSON alone, made when a filter first asks for one and kept with the block.

Reading a field of 10,000 rows' JSON takes 10 ms, comparing its distinct values less than a tenth of that. A block keeps
the columns that were asked for last, in at most an eighth of its own size. Several threads may ask for the same column
at once: each makes it, and any of the equal ones is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from sys import getsizeof
from typing import Any

import msgspec
import numpy as np

from memfast.filters import Field
from memfast.index.block import Block, JsonColumn, Mask

__all__ = ["json_passing"]

SHARE = 8
"""Columns take at most one part in so many of their block's bytes."""
READ_ALONE_SHARE = 8
"""Fewer rows than one in so many are read one by one, where there is no column yet."""

_CHUNK_ROWS = 500
"""Rows whose JSON is decoded at once: about half a millisecond, for which no other thread runs."""
_JSON_BYTES_FACTOR = 8
"""A decoded list or object takes about so many times the bytes of its JSON."""
_MISSING = -1

_encode = msgspec.json.Encoder(order="sorted").encode


class _Metadata(msgspec.Struct):
    metadata: dict[str, Any]


class _Source(msgspec.Struct):
    source: str | None


_metadata_rows = msgspec.json.Decoder(list[_Metadata])
_source_rows = msgspec.json.Decoder(list[_Source])


def json_passing(block: Block, field: Field, passes: Callable[[Any], bool], within: Mask) -> Mask:
    """The rows whose field is there, is not null and passes.

    Args:
        block: the rows.
        field: `source`, or keys of the metadata.
        passes: whether a value passes.
        within: bool (n,), the rows that are of interest.

    Returns:
        bool (n,), false outside `within`.
    """
    column = block.columns.get(field)
    if column is None:
        wanted = np.flatnonzero(within)
        if len(wanted) * READ_ALONE_SHARE < len(block):
            passed = np.zeros(len(block), np.bool_)
            passed[wanted] = [value is not None and passes(value) for value in _values(block, field, wanted.tolist())]
            return passed
        column = _column(block, field)
        _keep(block, field, column)
    table = np.zeros(len(column.values) + 1, np.bool_)  # the last entry stands for what is missing
    table[: len(column.values)] = [passes(value) for value in column.values]
    held: Mask = table[column.codes] & within
    return held


def _column(block: Block, field: Field) -> JsonColumn:
    codes: dict[Any, int] = {}
    values: list[Any] = []
    rows = np.empty(len(block), np.int32)
    size = rows.nbytes
    for row, value in enumerate(_values(block, field, range(len(block)))):
        if value is None:
            rows[row] = _MISSING
            continue
        key = _key(value)
        code = codes.setdefault(key, len(codes))
        if code == len(values):
            values.append(value)
            size += _bytes(value)
        rows[row] = code
    return JsonColumn(rows, values, size)


def _key(value: Any) -> Any:
    """Equal for equal values alone: 1 and 1.0 are, true and 1 are not."""
    return (_encode(value),) if isinstance(value, bool | list | dict) else value


def _bytes(value: Any) -> int:
    """About what a value and its place take."""
    inner = _JSON_BYTES_FACTOR * len(_encode(value)) if isinstance(value, list | dict) else 0
    return 8 + getsizeof(value) + inner


def _values(block: Block, field: Field, rows: Any) -> Iterator[Any]:
    """The field's value in each of these rows, None where it is missing."""
    for start in range(0, len(rows), _CHUNK_ROWS):
        fragments = block.fragments_of(rows[start : start + _CHUNK_ROWS])
        encoded = b"".join((b"[", b"},".join(fragments), b"}]"))
        if field == "source":
            yield from (row.source for row in _source_rows.decode(encoded))
        else:
            yield from (_at(row.metadata, field) for row in _metadata_rows.decode(encoded))


def _at(value: Any, keys: Field) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _keep(block: Block, field: Field, column: JsonColumn) -> None:
    """Keep a column, and of those before it as many of the youngest as there is room for."""
    left = block.own_bytes // SHARE - column.nbytes
    if left < 0:
        return
    for older, kept in reversed(block.columns.copy().items()):
        left -= kept.nbytes
        if left < 0:
            block.columns.pop(older, None)
    block.columns[field] = column
