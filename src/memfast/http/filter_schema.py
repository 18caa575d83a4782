"""The JSON Schema of a filter: `service.filters` in the words of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from memfast.config import LimitsConfig
from memfast.filters import FIELD_KINDS, FieldKind
from memfast.service.filters import METADATA_PATTERN, OPERATORS

__all__ = ["build_filter_schemas"]

Schema = dict[str, Any]

_NEGATIONS = {"ne": "eq", "nin": "in"}


def build_filter_schemas(limits: LimitsConfig, reference: str) -> dict[str, Schema]:
    """The schema of a filter and those of the conditions on each kind of field, by name.

    Args:
        limits: the configured bounds.
        reference: how a schema is referred to, with `{name}` for its name.
    """
    itself = {"$ref": reference.format(name="Filter")}
    parts = {"type": "array", "items": itself, "maxItems": limits.filter_conditions}
    conditions: dict[FieldKind, str] = {
        "text": "TextCondition",
        "list": "ListCondition",
        "number": "NumberCondition",
        "time": "TimeCondition",
        "json": "MetadataCondition",
    }
    fields = {name: {"$ref": reference.format(name=conditions[kind])} for name, kind in FIELD_KINDS.items()}
    whole = {
        "title": "Filter",
        "description": "what a memory must meet: every entry of the object; see docs/filters.md",
        "type": "object",
        "properties": {"AND": parts, "OR": parts, "NOT": {"anyOf": [itself, parts]}, **fields},
        "patternProperties": {f"^{METADATA_PATTERN}$": {"$ref": reference.format(name=conditions["json"])}},
        "additionalProperties": False,
    }
    return {"Filter": whole} | {name: _condition(kind, name, limits) for kind, name in conditions.items()}


def _condition(kind: FieldKind, title: str, limits: LimitsConfig) -> Schema:
    """A value, null, or an object of operators."""
    value = _value(kind, limits)
    operands = {
        "eq": _or_null(value),
        "in": {"type": "array", "items": value, "maxItems": limits.filter_values},
        "exists": {"type": "boolean"},
        "contains": _scalar(limits) if kind == "json" else value,
    }
    operands |= dict.fromkeys(("gt", "gte", "lt", "lte"), _ordered(limits) if kind == "json" else value)
    operators: Schema = {
        "type": "object",
        "properties": {name: operands[_NEGATIONS.get(name, name)] for name in OPERATORS[kind]},
        "additionalProperties": False,
        "minProperties": 1,
    }
    short = {"anyOf": [_scalar(limits), {"type": "array"}]} if kind == "json" else value
    return {"title": title, "anyOf": [operators, _or_null(short)]}


def _value(kind: FieldKind, limits: LimitsConfig) -> Schema:
    match kind:
        case "number":
            return {"type": "number"}
        case "time":
            return {"type": "string", "format": "date-time"}
        case "json":
            return {"not": {"type": "null"}}
        case _:
            return _text(limits)


def _ordered(limits: LimitsConfig) -> Schema:
    return {"anyOf": [_text(limits), {"type": "number"}]}


def _scalar(limits: LimitsConfig) -> Schema:
    return {"anyOf": [_text(limits), {"type": "number"}, {"type": "boolean"}]}


def _text(limits: LimitsConfig) -> Schema:
    return {"type": "string", "maxLength": limits.metadata_bytes}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}
