"""Filters as SQL: named parts of `sql/conditions.sql` and parameters. No value ever stands in the text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import msgspec

from memfast.filters import (
    AllOf,
    AnyOf,
    Compare,
    Contains,
    Exists,
    Field,
    Filter,
    Not,
    OneOf,
    field_kind,
    tests_of,
)
from memfast.store.queries import CONDITIONS

__all__ = ["Condition", "compile_filter", "narrowed"]


class Condition(NamedTuple):
    """An SQL expression over `memories m`, true or false and never null, and its parameters."""

    text: str
    values: list[Any]


def compile_filter(where: Filter | None, first: int) -> Condition:
    """A filter as SQL.

    Args:
        where: what is asked; None = everything.
        first: the number of the first parameter, e.g. 6 where a statement has five of its own.
    """
    values: list[Any] = []
    return Condition(CONDITIONS.everything if where is None else _Compiler(values, first).condition(where), values)


def narrowed(statement: str, where: Filter | None, *parameters: Any) -> tuple[Any, ...]:
    """A statement and its parameters, with the filter in place of its `{where}`.

    Args:
        statement: in which `m` stands for memories.
        where: what is asked; None = everything.
        parameters: the statement's own, $1 and so on; the filter's follow.
    """
    condition = compile_filter(where, len(parameters) + 1)
    return statement.replace("{where}", condition.text), *parameters, *condition.values


class _Compiler:
    """Collects the values of one filter."""

    def __init__(self, values: list[Any], first: int) -> None:
        self._values = values
        self._first = first
        self._metadata = CONDITIONS.metadata

    def condition(self, where: Filter) -> str:
        """The whole: what looks at columns alone, before what looks at the metadata, which is cast once."""
        if sum(map(_looks, tests_of(where))) < 2:
            return self.text(where)
        parts = where.parts if isinstance(where, AllOf) else (where,)
        outer = [part for part in parts if not any(map(_looks, tests_of(part)))]
        inner = AllOf(tuple(part for part in parts if part not in outer))
        texts = [self.text(part) for part in outer]
        self._metadata = CONDITIONS.metadata_cast
        return self._joined(CONDITIONS.all_of, [*texts, CONDITIONS.cast_once.format(part=self.text(inner))])

    def text(self, where: Filter) -> str:
        match where:
            case AllOf(parts):
                texts = [self.text(part) for part in parts]
                return self._joined(CONDITIONS.all_of, texts) if texts else CONDITIONS.everything
            case AnyOf(parts):
                texts = [self.text(part) for part in parts]
                return self._joined(CONDITIONS.any_of, texts) if texts else CONDITIONS.nothing
            case Not(part):
                return str(CONDITIONS.negated.format(part=self.text(part)))
            case Contains(field, value) if field_kind(field) == "json":
                return self._json_contains(field, value)
            case _:
                return self._test(where)

    @staticmethod
    def _joined(joint: str, texts: list[str]) -> str:
        return reduce(lambda rest, first: joint.format(first=first, rest=rest), reversed(texts))

    def _test(self, test: OneOf | Compare | Contains | Exists) -> str:
        kind = field_kind(test.field)
        match test:
            case Exists():
                return self._part(f"{kind}_exists", test.field)
            case OneOf(_, values):
                return self._part(f"{kind}_one_of", test.field, self._all_json(kind, values))
            case Contains(_, value):
                return self._part(f"{kind}_contains", test.field, value)
            case Compare(_, order, str(value)) if kind == "json":
                return self._part(f"json_text_{order}", test.field, value)
            case Compare(_, order, value) if kind == "json":
                return self._part(f"json_number_{order}", test.field, _json(value))
            case Compare(_, order, value):
                return self._part(f"{kind}_{order}", test.field, value)

    def _json_contains(self, field: Field, value: Any) -> str:
        listed = self._part("json_list_contains", field, _json([value]))
        if not isinstance(value, str):
            return listed
        return str(CONDITIONS.any_of.format(first=listed, rest=self._part("json_text_contains", field, value)))

    @staticmethod
    def _all_json(kind: str, values: Sequence[Any]) -> list[Any]:
        return [_json(value) for value in values] if kind == "json" else list(values)

    def _part(self, name: str, field: Field, *value: Any) -> str:
        expression = self._field(field)
        parameter = self._parameter(value[0]) if value else ""
        return str(getattr(CONDITIONS, name).format(field=expression, value=parameter))

    def _field(self, field: Field) -> str:
        if isinstance(field, str):
            return str(getattr(CONDITIONS, field))
        expression = self._metadata
        for key in field:
            expression = CONDITIONS.member.format(field=expression, value=self._parameter(key))
        return str(expression)

    def _parameter(self, value: Any) -> str:
        self._values.append(value)
        return f"${self._first + len(self._values) - 1}"


def _looks(test: OneOf | Compare | Contains | Exists) -> int:
    """How often a condition looks at the metadata."""
    if not isinstance(test.field, tuple):
        return 0
    return 2 if isinstance(test, Compare | Contains) else 1


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
