"""Filters evaluated over whole columns, exactly: what each condition means is said in `memfast.filters`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from memfast.filters import (
    AllOf,
    AnyOf,
    Compare,
    Contains,
    Exists,
    Filter,
    Not,
    OneOf,
    Order,
    field_kind,
    reads_json,
)
from memfast.index.block import (
    AGENT,
    CREATED,
    ENTITIES,
    EXPIRES,
    KIND,
    NEVER_US,
    NO_TERM,
    RUN,
    TAGS,
    UPDATED,
    Block,
    Mask,
    Terms,
    microseconds,
)
from memfast.index.columns import json_passing

__all__ = ["passing"]

_Test = OneOf | Compare | Contains | Exists

_TEXTS = {"kind": KIND, "agent_id": AGENT, "run_id": RUN}
_LISTS = {"tags": TAGS, "entities": ENTITIES}
_TIMES = {"created_at": CREATED, "updated_at": UPDATED, "expires_at": EXPIRES}
_ORDERS: dict[Order, Callable[[Any, Any], Any]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_TEXT = frozenset({str})
_NUMBERS = frozenset({int, float})
_SCALARS = _TEXT | _NUMBERS
"""Types by name, which leave out bool."""


def passing(where: Filter, block: Block, terms: Terms, within: Mask) -> Mask:
    """The rows of a block that pass a filter.

    Args:
        where: what is asked.
        block: the rows.
        terms: the codes of their strings.
        within: bool (n,), the rows that are of interest. Where few are, a condition on metadata or
            source reads only their JSON.

    Returns:
        bool (n,), false outside `within`.
    """
    match where:
        case AllOf(parts):
            passed = within
            for part in sorted(parts, key=reads_json):
                passed = passing(part, block, terms, passed)
            return passed
        case AnyOf(parts):
            open_rows = within
            for part in sorted(parts, key=reads_json):
                open_rows = open_rows & ~passing(part, block, terms, open_rows)
            return within & ~open_rows
        case Not(part):
            return within & ~passing(part, block, terms, within)
        case _:
            if reads_json(where):
                return json_passing(block, where.field, _test_of(where), within)
            return within & _mask(where, block, terms)


def _mask(test: _Test, block: Block, terms: Terms) -> Mask:
    match field_kind(test.field):
        case "text":
            return _text_mask(test, block.codes[_TEXTS[str(test.field)]], terms)
        case "list":
            return _list_mask(test, block, terms)
        case "number":
            return _number_mask(test, block.importance)
        case _:
            return _time_mask(test, block.wide[_TIMES[str(test.field)]])


def _text_mask(test: _Test, codes: NDArray[np.int32], terms: Terms) -> Mask:
    passed: Mask = codes != NO_TERM
    if isinstance(test, Exists):
        return passed
    if isinstance(test, OneOf):
        return np.isin(codes, terms.find(test.values))
    names = list(terms)  # a copy in one step: another thread may add
    passes = _test_of(test)
    return np.isin(codes, [code for code in np.unique(codes[passed]).tolist() if passes(names[code])])


def _list_mask(test: _Test, block: Block, terms: Terms) -> Mask:
    start = _LISTS[str(test.field)]
    starts, ends = block.codes[start], block.codes[start + 1]
    held: Mask = ends > starts
    if not isinstance(test, OneOf):
        return held
    codes = block.tags if start == TAGS else block.entities
    matches = np.zeros(len(codes) + 1, np.int32)
    np.cumsum(np.isin(codes, terms.find(test.values)), out=matches[1:])
    np.greater(matches[ends], matches[starts], out=held)
    return held


def _number_mask(test: _Test, column: NDArray[np.float64]) -> Mask:
    match test:
        case OneOf(_, values):
            return np.isin(column, values)
        case Compare(_, order, value):
            passed: Mask = _ORDERS[order](column, value)
            return passed
        case _:
            return np.ones(len(column), np.bool_)


def _time_mask(test: _Test, column: NDArray[np.int64]) -> Mask:
    passed: Mask = column != NEVER_US
    match test:
        case OneOf(_, values):
            return np.isin(column, np.array([microseconds(value) for value in values], np.int64))
        case Compare(_, order, value):
            passed &= _ORDERS[order](column, microseconds(value))
    return passed


def _test_of(test: _Test) -> Callable[[Any], bool]:
    """Function: whether one JSON value, which is not null, passes."""
    match test:
        case Exists():
            return lambda _value: True
        case OneOf(_, values):
            return _membership(values)
        case Contains(_, wanted):
            among = _membership((wanted,))
            return lambda value: wanted in value if _both_text(value, wanted) else _any_member(value, among)
        case Compare(_, order, limit):
            compare, kinds = _ORDERS[order], _TEXT if isinstance(limit, str) else _NUMBERS
            return lambda value: type(value) in kinds and compare(value, limit)
        case _:
            assert_never(test)


def _membership(values: Sequence[Any]) -> Callable[[Any], bool]:
    """Function: whether a value is one of these. Strings and numbers are looked up, however many there are."""
    scalars = frozenset(value for value in values if isinstance(value, str | float))
    others = [value for value in values if not isinstance(value, str | float)]

    def among(value: Any) -> bool:
        if type(value) in _SCALARS:
            return value in scalars
        return any(_same(value, each) for each in others)

    return among


def _any_member(value: Any, among: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and any(map(among, value))


def _both_text(value: Any, wanted: Any) -> bool:
    return isinstance(value, str) and isinstance(wanted, str)


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON values."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)
