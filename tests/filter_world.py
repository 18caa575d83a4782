"""The plain reading of filters as clients write them, one memory at a time, and strategies that make both."""

from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import strategies as st

from memfast.config import LimitsConfig
from memfast.filters import FIELD_KINDS
from memfast.service.filters import OPERATORS, read_filter
from memfast.service.limits import Limits

LIMITS = Limits(LimitsConfig(), 8)
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

NAMES = ["a", "b", "Z", "ä", "10", "9", 'ä\n"quoted"', "b,", "null", "😀", "\uffff", "%"]
"""Strings whose order by code point is not the order of a language, nor that of UTF-16."""
WORDS = [*NAMES, "", "unheard of"]
METADATA = [
    {},
    {"n": 1},
    {"n": 1.0},
    {"n": -0.0},
    {"n": True},
    {"n": False},
    {"n": None},
    {"n": 0.1},
    {"n": 1e300},
    {"n": "1"},
    {"n": ""},
    {"n": 'ä\n"quoted"}'},
    {"n": "😀"},
    {"n": "\uffff"},
    {"n": []},
    {"n": {}},
    {"n": [1, True, "b", None, [1], {"a": 1}]},
    {"n": {"0": "zero"}},
    {"n": ["b", "b,"]},
    {"deep": {"list": [1, True, "x"]}},
    {"deep": {"list": [1.0, 1, "x"], "b": 2}},
    {"deep": {"list": {"b": 1, "a": 2.0}}},
    {"deep.list": "dotted", "deep\\": {"list": "slashed"}},
    {"metadata": {"n": 1}},
]
PATHS = {
    r"metadata.n": ["n"],
    r"metadata.n.0": ["n", "0"],
    r"metadata.deep.list": ["deep", "list"],
    r"metadata.deep\.list": ["deep.list"],
    r"metadata.deep\\.list": ["deep\\", "list"],
    r"metadata.metadata.n": ["metadata", "n"],
    r"metadata.nowhere": ["nowhere"],
}
TIMES = ("created_at", "updated_at", "expires_at")

memory_fields = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(NAMES),
        "tags": st.lists(st.sampled_from(NAMES), max_size=3, unique=True),
        "entities": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        "importance": st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]),
        "metadata": st.sampled_from(METADATA).map(msgspec.json.encode).map(msgspec.Raw),
        "agent_id": st.none() | st.sampled_from(NAMES),
        "run_id": st.none() | st.sampled_from(NAMES),
        "source": st.none() | st.sampled_from(NAMES),
        "created_at": st.integers(0, 9).map(lambda seconds: EPOCH + timedelta(seconds=seconds)),
        "updated_at": st.integers(0, 9).map(lambda steps: EPOCH + timedelta(microseconds=steps)),
        "expires_at": st.none() | st.integers(0, 9).map(lambda seconds: EPOCH + timedelta(seconds=seconds)),
    }
)
"""The fields of a memory that a filter may ask for."""


def _tests(values, *, ordered=None, contained=None, nullable=True):
    """Objects of operators over a field."""
    missing = st.none() if nullable else st.nothing()
    operators = {
        "eq": values | missing,
        "ne": values | missing,
        "in": st.lists(values, max_size=4),
        "nin": st.lists(values, max_size=4),
        "exists": st.booleans(),
    }
    operators |= {} if ordered is None else dict.fromkeys(("gt", "gte", "lt", "lte"), ordered)
    operators |= {} if contained is None else {"contains": contained}
    return st.sampled_from(sorted(operators)).flatmap(lambda name: st.tuples(st.just(name), operators[name])).map(
        lambda pair: dict([pair])
    ) | st.fixed_dictionaries({}, optional=operators).filter(bool)


words = st.sampled_from(WORDS)
numbers = st.sampled_from([0, 0.0, -0.0, 0.1, 0.25, 0.3, 1, 1.0, 2, -1e300, 1e300])
times = st.builds(
    lambda seconds, micro, zone: (
        (EPOCH + timedelta(seconds=seconds, microseconds=micro))
        .astimezone(datetime.strptime(zone, "%z").tzinfo)
        .isoformat()
    ),
    st.integers(-1, 10),
    st.integers(0, 9),
    st.sampled_from(["+0000", "+0530", "-1100"]),
)
scalars = st.one_of(words, numbers, st.booleans())
values = scalars | st.sampled_from(
    [[], {}, [1, True, "x"], [True, 1, "x"], ["b", "b,"], {"a": 2, "b": 1}, {"0": "zero"}, [None]]
)
_field_tests = st.one_of(
    *(st.fixed_dictionaries({name: words | _tests(words, ordered=words, contained=words)}) for name in ("kind",)),
    *(
        st.fixed_dictionaries({name: st.none() | words | _tests(words, ordered=words, contained=words)})
        for name in ("agent_id", "run_id", "source")
    ),
    *(
        st.fixed_dictionaries({name: st.none() | words | _tests(words, contained=words)})
        for name in ("tags", "entities")
    ),
    st.fixed_dictionaries({"importance": numbers | _tests(numbers, ordered=numbers)}),
    *(st.fixed_dictionaries({name: st.none() | times | _tests(times, ordered=times)}) for name in TIMES),
    *(
        st.fixed_dictionaries(
            {
                path: st.none()
                | scalars
                | _tests(values, ordered=st.one_of(words, numbers), contained=scalars)
            }
        )
        for path in PATHS
    ),
)  # fmt: skip
wire_filters = st.recursive(
    _field_tests,
    lambda parts: st.one_of(
        st.fixed_dictionaries({"AND": st.lists(parts, max_size=3)}),
        st.fixed_dictionaries({"OR": st.lists(parts, max_size=3)}),
        st.fixed_dictionaries({"NOT": parts | st.lists(parts, max_size=2)}),
        st.tuples(parts, parts).map(lambda pair: pair[0] | pair[1]),
    ),
    max_leaves=5,
)
"""Filters in their JSON form."""


EDGE_TIMES = ["2026-01-01T00:00:04Z", "2026-01-01T00:00:00.000004Z", "2026-01-01T05:30:05+05:30"]
EDGE_NUMBERS = [0, 0.1, 0.25, 1, 1e300]
EDGE_VALUES = [*EDGE_NUMBERS, True, False, "", "1", "b", "😀", [], {}, [1, True, "x"], {"0": "zero"}, {"a": 2, "b": 1}]
_EDGES = {"text": NAMES, "list": NAMES, "number": EDGE_NUMBERS, "time": EDGE_TIMES, "json": EDGE_VALUES}


def every_condition():
    """Filters of one condition: each field with each operator and each value that makes a difference."""
    kinds = {**FIELD_KINDS, **dict.fromkeys(PATHS, "json")}
    for name, kind in kinds.items():
        for operator in OPERATORS[kind]:
            for operand in [True, False] if operator == "exists" else _EDGES[kind]:
                scalar = not isinstance(operand, list | dict)
                if operator in {"gt", "gte", "lt", "lte"} and not (
                    scalar and operand is not True and operand is not False
                ):
                    continue
                if operator == "contains" and not scalar:
                    continue
                yield {name: {operator: [operand, _EDGES[kind][0]] if operator in {"in", "nin"} else operand}}
        yield {name: None}
        yield {name: {"ne": None}}
        yield {name: {"in": []}}


def every_memory():
    """The fields of memories that tell the conditions apart."""
    for number, metadata in enumerate(METADATA * 2):
        yield {
            "kind": NAMES[number % len(NAMES)],
            "tags": [NAMES[place % len(NAMES)] for place in range(number, number + number % 3)],
            "entities": [NAMES[number * 5 % len(NAMES)]] if number % 2 else [],
            "importance": [0.0, 0.1, 0.25, 0.5, 1.0][number % 5],
            "metadata": msgspec.Raw(msgspec.json.encode(metadata)),
            "agent_id": None if number % 4 == 0 else NAMES[number * 7 % len(NAMES)],
            "run_id": None if number % 5 == 0 else NAMES[number // 2 % len(NAMES)],
            "source": None if number % 3 == 0 else NAMES[(number + 3) % len(NAMES)],
            "created_at": EPOCH + timedelta(seconds=number % 10),
            "updated_at": EPOCH + timedelta(microseconds=number % 10),
            "expires_at": EPOCH + timedelta(seconds=number % 10) if number % 2 else None,
        }


def read(where):
    """The condition of a filter in its JSON form; None stays None."""
    return None if where is None else read_filter(where, LIMITS, "$.filter")


def passes(where, memory):
    """Whether a memory passes a filter in its JSON form: the definition, read from the documentation."""
    return all(_entry(name, value, memory) for name, value in where.items())


def _entry(name, value, memory):
    if name == "AND":
        return all(passes(part, memory) for part in value)
    if name == "OR":
        return any(passes(part, memory) for part in value)
    if name == "NOT":
        return not any(passes(part, memory) for part in (value if isinstance(value, list) else [value]))
    tests = value if isinstance(value, dict) else {"eq": value}
    return all(_test(name, operator, operand, memory) for operator, operand in tests.items())


def _test(name, operator, operand, memory):
    if operator in {"ne", "nin"}:
        return not _test(name, {"ne": "eq", "nin": "in"}[operator], operand, memory)
    held = _held(name, memory)
    missing = held is None or (name in {"tags", "entities"} and not held)
    if operator == "exists":
        return operand is not missing
    if operator == "eq" and operand is None:
        return missing
    if missing:
        return False
    if name in TIMES:
        operand = [_moment(each) for each in operand] if isinstance(operand, list) else _moment(operand)
    if name in {"tags", "entities"}:
        return any(each in held for each in (operand if operator == "in" else [operand]))
    return _value_passes(operator, operand, held)


def _value_passes(operator, operand, held):
    match operator:
        case "eq":
            return same(held, operand)
        case "in":
            return any(same(held, each) for each in operand)
        case "contains" if isinstance(held, str):
            return isinstance(operand, str) and operand in held
        case "contains":
            return isinstance(held, list) and any(same(each, operand) for each in held)
    if _order_kind(held) != _order_kind(operand) or _order_kind(held) is None:
        return False
    return {"gt": held > operand, "gte": held >= operand, "lt": held < operand, "lte": held <= operand}[operator]


def _order_kind(value):
    if isinstance(value, bool):
        return None
    return next((kind for kind in ((int, float), str, datetime) if isinstance(value, kind)), None)


def _held(name, memory):
    if name not in PATHS:
        return getattr(memory, name)
    value = msgspec.json.decode(memory.metadata)
    for key in PATHS[name]:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _moment(text):
    return datetime.fromisoformat(text)


def same(left, right):
    """Equality of two values: by the text of both, with whole floats as integers."""

    def plain(value):
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list) else value

    def text(value):
        return repr(plain(value)) if isinstance(value, int | float) else msgspec.json.encode(value, order="sorted")

    if isinstance(left, datetime):
        return left == right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return text(left) == text(right)
