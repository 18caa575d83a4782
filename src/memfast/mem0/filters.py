"""mem0's filters, taken apart into one filter of memfast for each user that they name.

mem0 searches everything at once and filters by entity; here one user is searched at a time. So a filter has to name the
entities that it is about: for each of them, conditions on entities are decided, and what is left over is a filter of
memfast (docs/filters.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeAlias

from msgspec import Struct

from memfast.errors import InvalidRequest
from memfast.mem0.entities import FIELDS, Kind, native_field, owner_of, read_name, standing
from memfast.service.mem0 import read_moment

__all__ = ["OWNERS_MAX", "Part", "take_apart"]

OWNERS_MAX = 20
"""Entities that one filter may name as owners: so many searches one request makes."""

_DEPTH_MAX = 16
_ORDER = ("gt", "gte", "lt", "lte")
_OPERATORS = ("eq", "ne", "in", "nin", *_ORDER, "contains", "icontains")
_ANY = "*"
_TIMES: Final[Mapping[str, str]] = {
    "created_at": "created_at",
    "updated_at": "updated_at",
    "timestamp": "created_at",
}
_DAY = timedelta(days=1)


class Part(Struct, frozen=True):
    """What a filter asks of one user of memfast: everything, or what passes `where`."""

    owner: str
    where: dict[str, Any] | None


class _Named(Struct, frozen=True):
    """The entity is one of these; None = any, if there is one."""

    kind: Kind
    names: tuple[str, ...] | None


class _Native(Struct, frozen=True):
    """A condition on what is no entity, as memfast writes it."""

    where: dict[str, Any]


class _All(Struct, frozen=True):
    parts: tuple[_Node, ...]


class _One(Struct, frozen=True):
    parts: tuple[_Node, ...]


class _Not(Struct, frozen=True):
    part: _Node


_Node: TypeAlias = _Named | _Native | _All | _One | _Not
_Decided: TypeAlias = bool | dict[str, Any]


def take_apart(filters: Sequence[tuple[Any, str]], *, loose: bool = False) -> list[Part]:
    """What filters that must all hold ask of whom.

    Args:
        filters: each with the path under which the client knows it.
        loose: a name that is no field is a key of the metadata, as for mem0's open-source server.

    Raises:
        InvalidRequest: a filter is not valid, names no entity or too many, or asks for memories of users it does not
            name.
    """
    whole = _All(tuple(_Reader(loose=loose).read(value, path, 1) for value, path in filters))
    owners = list(dict.fromkeys(owner_of(kind, name) for kind, name in _named(whole, asserted=True)))
    if not owners:
        raise InvalidRequest(
            "$.filters: must name a user_id, agent_id, app_id or run_id; memories of all users are never read together",
            path="$.filters",
        )
    if _decide(whole, lambda each: False if each.names is not None else {}) is not False:
        raise InvalidRequest(
            "$.filters: also asks for memories of entities that it does not name; name a user_id, agent_id, app_id or "
            "run_id in every alternative",
            path="$.filters",
        )
    if len(owners) > OWNERS_MAX:
        raise InvalidRequest(
            f"$.filters: names {len(owners)} entities; at most {OWNERS_MAX} are read together", path="$.filters"
        )
    parts = ((owner, _decide(whole, _for(owner))) for owner in owners)
    return [Part(owner, None if where is True else where) for owner, where in parts if where is not False]


class _Reader:
    """Reads one filter."""

    def __init__(self, *, loose: bool) -> None:
        self._loose = loose

    def read(self, value: Any, path: str, depth: int) -> _Node:
        if not isinstance(value, dict):
            raise InvalidRequest(f"{path}: must be an object", path=path)
        if depth > _DEPTH_MAX:
            raise InvalidRequest(f"{path}: is nested too deep", path=path)
        return _All(tuple(self._entry(name, each, f"{path}.{name}", depth) for name, each in value.items()))

    def _entry(self, name: str, value: Any, path: str, depth: int) -> _Node:
        if name in {"AND", "OR", "NOT"}:
            return self._logical(name, value, path, depth)
        if name in FIELDS:
            return _entity(FIELDS[name], value, path)
        if name in _TIMES:
            return _All(tuple(_time(_TIMES[name], *each, path) for each in _asked(value, path)))
        if name == "categories":
            wanted = {"in": value} if isinstance(value, list) else value
            return _All(tuple(_plain("tags", *each, path) for each in _asked(wanted, path)))
        if name == "metadata":
            return _metadata(value, path)
        if self._loose:
            return _metadata({name: value}, path.removesuffix(f".{name}"))
        raise InvalidRequest(
            f"{path}: is no field of a filter; there are AND, OR, NOT, {', '.join(FIELDS)}, metadata, categories, "
            f"{', '.join(_TIMES)}",
            path=path,
        )

    def _logical(self, name: str, value: Any, path: str, depth: int) -> _Node:
        values = [value] if isinstance(value, dict) and name == "NOT" else value
        if not isinstance(values, list):
            raise InvalidRequest(f"{path}: must be a list of objects", path=path)
        parts = tuple(self.read(each, f"{path}[{place}]", depth + 1) for place, each in enumerate(values))
        if name == "AND":
            return _All(parts)
        return _One(parts) if name == "OR" else _Not(_One(parts))


def _entity(kind: Kind, value: Any, path: str) -> _Node:
    nodes: list[_Node] = []
    for operator, operand in _asked(value, path):
        if operator == "exists":
            node: _Node = _Named(kind, None)
            nodes.append(node if operand else _Not(node))
            continue
        if operator not in {"eq", "ne", "in", "nin"}:
            raise InvalidRequest(f"{path}.{operator}: an entity has eq, ne, in, nin and {_ANY}", path=path)
        operands = operand if operator in {"in", "nin"} else [operand]
        if not isinstance(operands, list):
            raise InvalidRequest(f"{path}.{operator}: must be a list", path=path)
        node = _Named(kind, tuple(read_name(each, path) for each in operands))
        nodes.append(_Not(node) if operator in {"ne", "nin"} else node)
    return _All(tuple(nodes))


def _asked(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The operators of a condition with their operands; `exists` stands for `*` and for null."""
    if isinstance(value, dict) and value and set(value) <= set(_OPERATORS):
        for operator, operand in value.items():
            if operator == "icontains":
                raise InvalidRequest(f"{path}.icontains: strings are compared exactly here; use contains", path=path)
            yield ("exists", True) if operator == "eq" and operand == _ANY else (operator, operand)
    elif isinstance(value, dict) and not value:
        raise InvalidRequest(f"{path}: names no operator", path=path)
    else:
        yield ("exists", value is not None) if value in (_ANY, None) else ("eq", value)


def _plain(field: str, operator: str, operand: Any, path: str) -> _Node:
    if operator in _ORDER and field == "tags":
        raise InvalidRequest(f"{path}.{operator}: categories have eq, ne, in, nin, contains and {_ANY}", path=path)
    return _Native({field: {operator: operand}})


def _metadata(value: Any, path: str) -> _Node:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{path}: must be an object of keys and conditions", path=path)
    nodes: list[_Node] = []
    for key, asked in value.items():
        if not key:
            raise InvalidRequest(f"{path}: an empty key cannot be asked for", path=path)
        field = "metadata." + key.replace("\\", "\\\\").replace(".", "\\.")
        nodes.extend(_plain(field, *each, path) for each in _asked(asked, f"{path}.{key}"))
    return _All(tuple(nodes))


def _time(field: str, operator: str, operand: Any, path: str) -> _Node:
    """A condition on a time. A day stands for all of it."""
    if operator == "exists":
        return _Native({field: {"exists": operand}})
    if operator not in {"eq", "ne", *_ORDER} or not isinstance(operand, str):
        raise InvalidRequest(f"{path}: must be a day or a time, by eq, ne, gt, gte, lt or lte", path=path)
    moment = read_moment(operand, path.removeprefix("$."))
    assert moment is not None
    if len(operand) > len("2026-01-01"):
        return _Native({field: {operator: moment.isoformat()}})
    try:
        first, after = moment.isoformat(), (moment + _DAY).isoformat()
    except OverflowError as error:
        raise InvalidRequest(f"{path}: is the last day of the calendar", path=path) from error
    if operator in {"eq", "ne"}:
        day = _Native({field: {"gte": first, "lt": after}})
        return day if operator == "eq" else _Not(day)
    whole = {"gte": ("gte", first), "lt": ("lt", first), "lte": ("lt", after), "gt": ("gte", after)}
    return _Native({field: dict([whole[operator]])})


def _named(node: _Node, *, asserted: bool) -> Iterator[tuple[Kind, str]]:
    """The entities that a filter says the memories are of."""
    match node:
        case _Named(kind, names) if asserted:
            if names is None and kind == "user":
                raise InvalidRequest("user_id: * would read the memories of all users together", path="$.filters")
            yield from ((kind, name) for name in names or ())
        case _All(parts) | _One(parts):
            for part in parts:
                yield from _named(part, asserted=asserted)
        case _Not(part):
            yield from _named(part, asserted=not asserted)


def _for(owner: str) -> Callable[[_Named], _Decided]:
    """What a condition on an entity comes to for the memories of an owner."""
    known = standing(owner)

    def decide(asked: _Named) -> _Decided:
        if asked.kind in known:
            name = known[asked.kind]
            return name is not None and (asked.names is None or name in asked.names)
        field = native_field(asked.kind)
        return {field: {"exists": True}} if asked.names is None else {field: {"in": list(asked.names)}}

    return decide


def _decide(node: _Node, entity: Callable[[_Named], _Decided]) -> _Decided:
    """True, False, or a filter of memfast for what that depends on."""
    match node:
        case _Named():
            return entity(node)
        case _Native(where):
            return where
        case _Not(part):
            decided = _decide(part, entity)
            return not decided if isinstance(decided, bool) else {"NOT": decided}
        case _All(parts):
            return _joined("AND", False, (_decide(part, entity) for part in parts))
        case _One(parts):
            return _joined("OR", True, (_decide(part, entity) for part in parts))


def _joined(name: str, settles: bool, decided: Iterable[_Decided]) -> _Decided:
    """Several parts as one; one that is `settles` settles the whole."""
    left: list[dict[str, Any]] = []
    for each in decided:
        if each is settles:
            return settles
        if not isinstance(each, bool):
            left.append(each)
    if not left:
        return not settles
    return left[0] if len(left) == 1 else {name: left}
