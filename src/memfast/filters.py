"""Conditions on memories as data. Made by the functions here they have one form, whatever way they were written.

A filter is evaluated over columns by `index.filters` and compiled to SQL by `store.conditions`; what each condition
means is said here, and to clients in docs/filters.md. Every condition holds or does not: for a field that is null,
missing or of another type none does but a `Not`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

__all__ = [
    "EVERYTHING",
    "FIELD_KINDS",
    "AllOf",
    "AnyOf",
    "Compare",
    "Contains",
    "Exists",
    "Field",
    "FieldKind",
    "Filter",
    "Not",
    "OneOf",
    "Order",
    "TagsMode",
    "all_of",
    "any_of",
    "encoded",
    "field_kind",
    "negated",
    "one_of",
    "reads_json",
    "tagged",
    "tests_of",
]

FieldKind = Literal["text", "list", "number", "time", "json"]
Order = Literal["gt", "gte", "lt", "lte"]
TagsMode = Literal["any", "all", "any_strict", "all_strict"]

Field: TypeAlias = str | tuple[str, ...]
"""A name of `FIELD_KINDS`, or the keys that lead to a value of the metadata."""

FIELD_KINDS: Final[Mapping[str, FieldKind]] = {
    "kind": "text",
    "agent_id": "text",
    "run_id": "text",
    "source": "text",
    "tags": "list",
    "entities": "list",
    "importance": "number",
    "created_at": "time",
    "updated_at": "time",
    "expires_at": "time",
}


class OneOf(Struct, frozen=True, array_like=True, tag="one_of"):
    """The field is one of these values; a list holds at least one of them.

    Values are strings for a text or a list, floats for a number, aware datetimes for a time, and JSON values for the
    metadata: 1 equals 1.0, true equals nothing but true, lists and objects are equal in all of their parts.
    """

    field: Field
    values: tuple[Any, ...]


class Compare(Struct, frozen=True, array_like=True, tag="compare"):
    """The field lies on this side of a value of its own type. Strings are ordered by code point."""

    field: Field
    order: Order
    value: Any


class Contains(Struct, frozen=True, array_like=True, tag="contains"):
    """The text has this part, or the metadata's list this member: a string, a number or a boolean."""

    field: Field
    value: Any


class Exists(Struct, frozen=True, array_like=True, tag="exists"):
    """The field is not null, the list not empty."""

    field: Field


class AllOf(Struct, frozen=True, array_like=True, tag="all"):
    """Every part holds; without any, every memory passes."""

    parts: tuple[Filter, ...]


class AnyOf(Struct, frozen=True, array_like=True, tag="any"):
    """At least one part holds; without any, no memory passes."""

    parts: tuple[Filter, ...]


class Not(Struct, frozen=True, array_like=True, tag="not"):
    """The part does not hold."""

    part: Filter


Filter: TypeAlias = OneOf | Compare | Contains | Exists | AllOf | AnyOf | Not

EVERYTHING: Final = AllOf(())
"""Every memory passes."""

_encode = msgspec.msgpack.Encoder(order="sorted").encode


def field_kind(field: Field) -> FieldKind:
    """What a field holds."""
    return "json" if isinstance(field, tuple) else FIELD_KINDS[field]


def encoded(where: Filter | None) -> bytes:
    """The bytes of a filter: equal for filters that are equal, however they were written."""
    return b"" if where is None else _encode(where)


def one_of(field: Field, values: Iterable[Any]) -> Filter:
    """The field is one of these values."""
    return OneOf(field, _each_once(values))


def all_of(parts: Iterable[Filter]) -> Filter:
    """Every part holds. Nested ones are one, equal parts stand once, their order does not matter."""
    flat = _each_once(inner for part in parts for inner in (part.parts if isinstance(part, AllOf) else (part,)))
    return flat[0] if len(flat) == 1 else AllOf(flat)


def any_of(parts: Iterable[Filter]) -> Filter:
    """At least one part holds; otherwise as `all_of`."""
    flat = _each_once(inner for part in parts for inner in (part.parts if isinstance(part, AnyOf) else (part,)))
    return flat[0] if len(flat) == 1 else AnyOf(flat)


def negated(part: Filter) -> Filter:
    """The part does not hold."""
    return part.part if isinstance(part, Not) else Not(part)


def tagged(tags: Sequence[str], mode: TagsMode) -> Filter:
    """Memories with any or all of these tags; only the strict modes leave out those that have no tag at all."""
    if not tags:
        return EVERYTHING
    wanted = one_of("tags", tags)
    if mode.startswith("all"):
        wanted = all_of(one_of("tags", [tag]) for tag in tags)
    return wanted if mode.endswith("strict") else any_of([wanted, negated(Exists("tags"))])


def reads_json(where: Filter | None) -> bool:
    """Whether it asks for what a shard keeps as JSON alone, the metadata and the source: a microsecond a row."""
    return any(isinstance(test.field, tuple) or test.field == "source" for test in tests_of(where))


def tests_of(where: Filter | None) -> Iterator[OneOf | Compare | Contains | Exists]:
    """The conditions on fields that a filter is made of."""
    match where:
        case None:
            return
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from tests_of(part)
        case Not(part):
            yield from tests_of(part)
        case _:
            yield where


def _each_once(values: Iterable[Any]) -> tuple[Any, ...]:
    """Those that differ, in the order of their bytes."""
    return tuple(value for _, value in sorted({_encode(value): value for value in values}.items()))
