"""Filters as clients write them, checked and made one condition. The language is in docs/filters.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from memfast.errors import InvalidRequest
from memfast.filters import (
    EVERYTHING,
    FIELD_KINDS,
    Compare,
    Contains,
    Exists,
    Field,
    FieldKind,
    Filter,
    TagsMode,
    all_of,
    any_of,
    field_kind,
    negated,
    one_of,
    tagged,
)
from memfast.service.limits import Limits

__all__ = ["METADATA_PATTERN", "OPERATORS", "narrowing", "read_filter"]

METADATA_PATTERN: Final = r"metadata(\.([^.\\]|\\[.\\])+)+"
"""The name of a value of the metadata: the keys that lead to it, with `\\` before a key's own dot or backslash."""

_METADATA = re.compile(METADATA_PATTERN)
_KEY = re.compile(r"\.((?:[^.\\]|\\[.\\])+)")
_ESCAPED = re.compile(r"\\(.)")

_ORDERED = ("eq", "ne", "in", "nin", "gt", "gte", "lt", "lte", "exists")
OPERATORS: Final[Mapping[FieldKind, tuple[str, ...]]] = {
    "text": (*_ORDERED, "contains"),
    "list": ("eq", "ne", "in", "nin", "contains", "exists"),
    "number": _ORDERED,
    "time": _ORDERED,
    "json": (*_ORDERED, "contains"),
}
"""What each kind of field can be asked."""

_TYPE_NAMES = {
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
_NEGATIONS = {"ne": "eq", "nin": "in"}
_SHOWN_CHARS = 64
"""So much of a wrong name is repeated."""


def read_filter(value: Any, limits: Limits, path: str) -> Filter:
    """The condition that a client wrote.

    Args:
        value: the filter as decoded JSON or msgpack.
        limits: its bounds: `filter_depth`, `filter_conditions`, `filter_values`, and those of metadata.
        path: where it stands in the request.

    Raises:
        InvalidRequest: with the path of what is wrong.
    """
    return _Reader(limits).read(value, path, 1)


def narrowing(where: dict[str, Any] | None, tags: Sequence[str], mode: TagsMode, limits: Limits) -> Filter | None:
    """The condition of a search by its `filter`, `tags` and `tags_mode`; None where every memory passes.

    Raises:
        InvalidRequest: with the path of what is wrong.
    """
    if not where and not tags:
        return None
    read = EVERYTHING if where is None else read_filter(where, limits, "$.filter")
    both = all_of([read, tagged(limits.tags(tags, "$.tags"), mode)])
    return None if both == EVERYTHING else both


class _Reader:
    """Reads one filter, and counts its conditions."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._config = limits.config
        self._conditions = 0

    def read(self, value: Any, path: str, depth: int) -> Filter:
        if not isinstance(value, dict):
            raise InvalidRequest(f"{path}: must be an object, it is {_type_name(value)}", path=path)
        if depth > self._config.filter_depth:
            raise InvalidRequest(f"{path}: must be nested at most {self._config.filter_depth} levels deep", path=path)
        if not value:
            self._count(path)
        return all_of([self._entry(name, each, path, depth) for name, each in value.items()])

    def _entry(self, name: Any, value: Any, path: str, depth: int) -> Filter:
        here = f"{path}.{_shown(name)}"
        if name not in {"AND", "OR", "NOT"}:
            return self._conditions_on(name, value, here)
        self._count(here)
        if name == "NOT" and isinstance(value, dict):
            return negated(self.read(value, here, depth + 1))
        if not isinstance(value, list):
            wanted = "an object or a list of them" if name == "NOT" else "a list of objects"
            raise InvalidRequest(f"{here}: must be {wanted}, it is {_type_name(value)}", path=here)
        parts = [self.read(each, f"{here}[{place}]", depth + 1) for place, each in enumerate(value)]
        if name == "AND":
            return all_of(parts)
        return any_of(parts) if name == "OR" else negated(any_of(parts))

    def _conditions_on(self, name: Any, value: Any, path: str) -> Filter:
        field = self._field(name, path)
        if not isinstance(value, dict):
            return self._condition(field, "eq", value, path)
        if not value:
            raise InvalidRequest(f"{path}: names no operator; one of {_listed(field)}", path=path)
        parts = []
        for operator, operand in value.items():
            here = f"{path}.{_shown(operator)}"
            if operator not in OPERATORS[field_kind(field)]:
                raise InvalidRequest(f"{here}: no operator of this field; it has {_listed(field)}", path=here)
            parts.append(self._condition(field, operator, operand, here))
        return all_of(parts)

    def _field(self, name: Any, path: str) -> Field:
        if not isinstance(name, str):
            raise InvalidRequest(f"{path}: the names of an object must be strings", path=path)
        if name in FIELD_KINDS:
            return name
        if not name.startswith("metadata"):
            known = ", ".join(FIELD_KINDS)
            raise InvalidRequest(f"{path}: unknown field; one of {known}, metadata.<key>, AND, OR, NOT", path=path)
        if not _METADATA.fullmatch(name):
            raise InvalidRequest(rf"{path}: must be metadata.<key>.<key>…, with \. for a dot of a key", path=path)
        self._limits.json(name, path)
        keys = tuple(_ESCAPED.sub(r"\1", key) for key in _KEY.findall(name))
        if len(keys) > self._config.metadata_depth:
            most = self._config.metadata_depth
            raise InvalidRequest(f"{path}: metadata is at most {most} levels deep, this names {len(keys)}", path=path)
        return keys

    def _condition(self, field: Field, operator: str, operand: Any, path: str) -> Filter:
        if operator in _NEGATIONS:
            return negated(self._condition(field, _NEGATIONS[operator], operand, path))
        self._count(path)
        if operator == "exists":
            if not isinstance(operand, bool):
                raise InvalidRequest(f"{path}: must be true or false, it is {_type_name(operand)}", path=path)
            return Exists(field) if operand else negated(Exists(field))
        if operator == "eq":
            return negated(Exists(field)) if operand is None else one_of(field, [self._value(field, operand, path)])
        if operator == "in":
            return one_of(field, self._values(field, operand, path))
        value = self._value(field, operand, path)
        if operator == "contains":
            return self._contains(field, value, path)
        if isinstance(value, bool | list | dict):
            raise InvalidRequest(f"{path}: must be a string or a number, it is {_type_name(value)}", path=path)
        order: Any = operator
        return Compare(field, order, value)

    def _contains(self, field: Field, value: Any, path: str) -> Filter:
        if field_kind(field) == "list":
            return one_of(field, [value])
        if isinstance(value, list | dict):
            raise InvalidRequest(
                f"{path}: must be a string, a number or a boolean, it is {_type_name(value)}", path=path
            )
        return Contains(field, value)

    def _values(self, field: Field, operand: Any, path: str) -> list[Any]:
        if not isinstance(operand, list):
            raise InvalidRequest(f"{path}: must be a list, it is {_type_name(operand)}", path=path)
        most = self._config.filter_values
        if len(operand) > most:
            raise InvalidRequest(f"{path}: must have at most {most} values, it has {len(operand)}", path=path)
        return [self._value(field, each, f"{path}[{place}]") for place, each in enumerate(operand)]

    def _value(self, field: Field, value: Any, path: str) -> Any:
        """A value of the field's type in the form that `filters` asks for."""
        if value is None:
            raise InvalidRequest(f"{path}: must not be null; ask exists, eq or ne for what is not there", path=path)
        kind = field_kind(field)
        if kind == "time":
            return self._time(value, path)
        if kind in {"text", "list"} and not isinstance(value, str):
            raise InvalidRequest(f"{path}: must be a string, it is {_type_name(value)}", path=path)
        if kind == "number" and _type_name(value) != "a number":
            raise InvalidRequest(f"{path}: must be a number, it is {_type_name(value)}", path=path)
        self._limits.json(value, path)
        return _floats(value)

    def _time(self, value: Any, path: str) -> datetime:
        try:
            moment = msgspec.convert(value, datetime)
        except msgspec.ValidationError as error:
            detail = str(error) if isinstance(value, str) else f"it is {_type_name(value)}"
            raise InvalidRequest(f"{path}: must be a time as in RFC 3339: {detail}", path=path) from error
        return self._limits.time(moment, path)

    def _count(self, path: str) -> None:
        self._conditions += 1
        most = self._config.filter_conditions
        if self._conditions > most:
            raise InvalidRequest(
                f"{path}: a filter has at most {most} conditions, each AND, OR and NOT being one", path=path
            )


def _floats(value: Any) -> Any:
    """The same with all numbers as floats, of which -0.0 is 0.0: so equal values have equal bytes."""
    if isinstance(value, list):
        return [_floats(each) for each in value]
    if isinstance(value, dict):
        return {name: _floats(each) for name, each in value.items()}
    return value if isinstance(value, bool | str | None) else value + 0.0


def _type_name(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), type(value).__name__)


def _listed(field: Field) -> str:
    return ", ".join(OPERATORS[field_kind(field)])


def _shown(name: Any) -> str:
    text = str(name)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
