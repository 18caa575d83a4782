"""Conditions on memories, evaluated over whole columns, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, assert_never

import msgspec
import numpy as np
from numpy.typing import NDArray

from memfast.index.block import AGENT, CREATED, ENTITIES, KIND, RUN, TAGS, UPDATED, Block, Mask, Terms

__all__ = ["AllOf", "AnyOf", "Between", "Filter", "HasAny", "MetadataIs", "Not", "OneOf", "passing"]


@dataclass(frozen=True, slots=True)
class OneOf:
    """The field is one of these values; null never is."""

    field: Literal["kind", "agent_id", "run_id"]
    values: Sequence[str]


@dataclass(frozen=True, slots=True)
class HasAny:
    """The list holds at least one of these values."""

    field: Literal["tags", "entities"]
    values: Sequence[str]


@dataclass(frozen=True, slots=True)
class Between:
    """The field is from `first` to `last`, both included; None is open. Times are microseconds since 1970."""

    field: Literal["importance", "created_at", "updated_at"]
    first: float | None = None
    last: float | None = None


@dataclass(frozen=True, slots=True)
class MetadataIs:
    """The metadata has this JSON value at the path of keys. 1 equals 1.0; true equals nothing but true."""

    path: Sequence[str]
    value: Any


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; without any, every memory passes."""

    parts: Sequence[Filter]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds; without any, no memory passes."""

    parts: Sequence[Filter]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Filter


Filter: TypeAlias = OneOf | HasAny | Between | MetadataIs | AllOf | AnyOf | Not


class _Fragment(msgspec.Struct):
    metadata: dict[str, Any]


_fragment_decoder = msgspec.json.Decoder(_Fragment)


def passing(condition: Filter, block: Block, terms: Terms, within: Mask) -> Mask:
    """The rows of a block that meet a condition.

    Args:
        condition: what is asked.
        block: the rows.
        terms: the codes of their strings.
        within: bool (n,), the rows that are of interest. A condition on metadata reads only their JSON.

    Returns:
        bool (n,), false outside `within`.
    """
    match condition:
        case AllOf(parts):
            passed = within
            for part in sorted(parts, key=_reads_json):
                passed = passing(part, block, terms, passed)
            return passed
        case AnyOf(parts):
            open_rows = within
            for part in sorted(parts, key=_reads_json):
                open_rows = open_rows & ~passing(part, block, terms, open_rows)
            return within & ~open_rows
        case Not(part):
            return within & ~passing(part, block, terms, within)
        case MetadataIs():
            return _metadata_mask(condition, block, within)
        case _:
            return within & _column_mask(condition, block, terms)


def _column_mask(condition: OneOf | HasAny | Between, block: Block, terms: Terms) -> Mask:
    match condition:
        case OneOf(field, values):
            column = {"kind": KIND, "agent_id": AGENT, "run_id": RUN}[field]
            return np.isin(block.codes[column], terms.find(values))
        case HasAny(field, values):
            start, codes = (TAGS, block.tags) if field == "tags" else (ENTITIES, block.entities)
            return _list_mask(block, start, codes, terms.find(values))
        case Between("importance", first, last):
            return _range_mask(block.importance, first, last)
        case Between(field, first, last):
            return _range_mask(block.wide[CREATED if field == "created_at" else UPDATED], first, last)
        case _:
            assert_never(condition)


def _list_mask(block: Block, start: int, codes: NDArray[np.int32], wanted: list[int]) -> Mask:
    matches = np.zeros(len(codes) + 1, np.int32)
    np.cumsum(np.isin(codes, wanted), out=matches[1:])
    held: Mask = matches[block.codes[start + 1]] > matches[block.codes[start]]
    return held


def _range_mask(column: NDArray[Any], first: float | None, last: float | None) -> Mask:
    passed = np.ones(len(column), np.bool_)
    if first is not None:
        passed &= column >= first
    if last is not None:
        passed &= column <= last
    return passed


def _metadata_mask(condition: MetadataIs, block: Block, within: Mask) -> Mask:
    passed = np.zeros(len(block), np.bool_)
    for row in np.flatnonzero(within).tolist():
        value: Any = _fragment_decoder.decode(b"".join((block.fragment(row), b"}"))).metadata
        for key in condition.path:
            if not isinstance(value, dict) or key not in value:
                break
            value = value[key]
        else:
            passed[row] = _same_json(value, condition.value)
    return passed


def _reads_json(condition: Filter) -> bool:
    match condition:
        case AllOf(parts) | AnyOf(parts):
            return any(map(_reads_json, parts))
        case Not(part):
            return _reads_json(part)
        case _:
            return isinstance(condition, MetadataIs)


def _same_json(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same_json(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same_json, left, right))
    return bool(left == right)
