"""Filters as clients write them: what they become, and what is refused where."""

import datetime as dt

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_world import LIMITS, METADATA, memory_fields, passes, read, wire_filters
from memfast.config import LimitsConfig
from memfast.errors import InvalidRequest
from memfast.filters import EVERYTHING, FIELD_KINDS, encoded, reads_json
from memfast.model import Memory
from memfast.service.filters import narrowing, read_filter
from memfast.service.limits import Limits
from memfast.service.question import Query

SAME = [
    [{"kind": "a", "agent_id": "b"}, {"agent_id": "b", "kind": "a"}, {"AND": [{"agent_id": "b"}, {"kind": "a"}]}],
    [
        {"kind": "a"},
        {"kind": {"eq": "a"}},
        {"kind": {"in": ["a"]}},
        {"kind": {"in": ["a", "a"]}},
        {"OR": [{"kind": "a"}]},
    ],
    [{"kind": {"in": ["a", "b"]}}, {"kind": {"in": ["b", "a", "b"]}}],
    [{"metadata.n": 1}, {"metadata.n": 1.0}, {"metadata.n": {"in": [1, 1.0]}}],
    [{"metadata.n": 0}, {"metadata.n": -0.0}],
    [{"metadata.n": {"eq": {"a": 1, "b": [2]}}}, {"metadata.n": {"eq": {"b": [2.0], "a": 1.0}}}],
    [{"importance": {"gt": 0.5, "lt": 1}}, {"AND": [{"importance": {"lt": 1.0}}, {"importance": {"gt": 0.5}}]}],
    [{"kind": {"ne": "a"}}, {"NOT": {"kind": "a"}}, {"NOT": [{"kind": "a"}]}, {"kind": {"nin": ["a"]}}],
    [{"kind": "z"}, {"NOT": {"kind": {"ne": "z"}}}, {"NOT": {"NOT": {"kind": "z"}}}],
    [{"source": None}, {"source": {"eq": None}}, {"source": {"exists": False}}, {"NOT": {"source": {"exists": True}}}],
    [{"NOT": [{"kind": "a"}, {"source": "b"}]}, {"NOT": {"OR": [{"source": "b"}, {"kind": "a"}]}}],
    [
        {"metadata.n": {"eq": {"x": 1, "y": 2}}},
        {"metadata.n": {"in": [{"y": 2, "x": 1}, {"x": 1, "y": 2}]}},
    ],
    [{"source": {"ne": None}}, {"source": {"exists": True}}],
    [{"tags": "a"}, {"tags": {"contains": "a"}}, {"tags": {"in": ["a"]}}],
    [{}, {"AND": []}, {"AND": [{}, {"AND": []}]}],
    [{"OR": []}, {"OR": [{"OR": []}]}],
    [{"OR": [{"kind": "a"}, {"OR": [{"kind": "b"}, {"kind": "c"}]}]}, {"OR": [{"kind": k} for k in "cab"]}],
    [
        {"created_at": "2026-01-01T00:00:00Z"},
        {"created_at": {"eq": "2026-01-01T05:30:00.000+05:30"}},
        {"created_at": dt.datetime(2025, 12, 31, 23, tzinfo=dt.timezone(-dt.timedelta(hours=1)))},
    ],
]


@pytest.mark.parametrize("filters", SAME, ids=lambda filters: str(filters[0]))
def test_equal_filters_have_equal_bytes(filters):
    """However they are written, and their bytes differ from those of every other filter here."""
    assert len({encoded(read(each)) for each in filters}) == 1
    assert len({encoded(read(each[0])) for each in SAME}) == len(SAME)


DIFFERENT = [
    {"metadata.n": 1},
    {"metadata.n": True},
    {"metadata.n": "1"},
    {"metadata.n": [1]},
    {"metadata.n.n": 1},
    {r"metadata.n\.n": 1},
    {"kind": "1"},
    {"agent_id": "1"},
    {"kind": {"gt": "1"}},
    {"kind": {"gte": "1"}},
    {"kind": {"contains": "1"}},
    {"kind": {"ne": "1"}},
    {"AND": [{"kind": "1"}, {"kind": "2"}]},
    {"OR": [{"kind": "1"}, {"kind": "2"}]},
    {"kind": {"in": ["1", "2"]}},
    {"NOT": [{"kind": "1"}, {"kind": "2"}]},
    {"NOT": {"kind": "1", "agent_id": "2"}},
    {},
    {"OR": []},
]


def test_different_filters_have_different_bytes():
    """Also where Python takes their values for equal."""
    assert len({encoded(read(each)) for each in DIFFERENT}) == len(DIFFERENT)


def memory_of(fields):
    """A memory of these fields."""
    return Memory(**fields, id=None, user_id="u", text="t", version=1)


def roomy(wire):
    """The bytes of a filter that may be larger than the service takes."""
    limits = Limits(LimitsConfig(filter_conditions=1000, filter_depth=32), 8)
    return encoded(read_filter(wire, limits, "$.filter"))


@given(memory_fields, wire_filters, wire_filters)
def test_filters_with_equal_bytes_pass_the_same_memories(fields, one, two):
    """The canonical form loses nothing, and negation is exact."""
    memory = memory_of(fields)
    if encoded(read(one)) == encoded(read(two)):
        assert passes(one, memory) == passes(two, memory)
    assert roomy({"AND": [one, two, one]}) == roomy({"AND": [two, one]})
    assert roomy({"NOT": {"NOT": one}}) == roomy(one)


WRONG = [
    ([], "$.filter", "must be an object, it is a list"),
    ("kind", "$.filter", "a string"),
    ({"colour": "red"}, "$.filter.colour", "unknown field; one of kind,"),
    ({"and": []}, "$.filter.and", "AND"),
    ({"text": "x"}, "$.filter.text", "unknown field"),
    ({"id": "x"}, "$.filter.id", "unknown field"),
    ({"user_id": "x"}, "$.filter.user_id", "unknown field"),
    ({"x" * 100: 1}, f"$.filter.{'x' * 64}…", "unknown field"),
    ({1: 1}, "$.filter.1", "must be strings"),
    ({"metadata": 1}, "$.filter.metadata", "metadata.<key>"),
    ({"metadata.": 1}, "$.filter.metadata.", "metadata.<key>"),
    ({"metadata..a": 1}, "$.filter.metadata..a", "metadata.<key>"),
    ({"metadata.a.": 1}, "$.filter.metadata.a.", "metadata.<key>"),
    ({"metadata.a\\": 1}, "$.filter.metadata.a\\", "metadata.<key>"),
    ({"metadata.a\\b": 1}, "$.filter.metadata.a\\b", "metadata.<key>"),
    ({"metadatax": 1}, "$.filter.metadatax", "metadata.<key>"),
    ({"metadata.a\0": 1}, "$.filter.metadata.a\0", "NUL"),
    ({"metadata.a" + ".a" * 8: 1}, "$.filter.metadata.a" + ".a" * 8, "at most 8 levels deep"),
    ({"AND": {}}, "$.filter.AND", "must be a list of objects, it is an object"),
    ({"OR": None}, "$.filter.OR", "null"),
    ({"NOT": "x"}, "$.filter.NOT", "an object or a list"),
    ({"NOT": [1]}, "$.filter.NOT[0]", "a number"),
    ({"AND": [{"importance": {"gt": "1"}}]}, "$.filter.AND[0].importance.gt", "must be a number, it is a string"),
    ({"OR": [{}, {"NOT": {"kind": 1}}]}, "$.filter.OR[1].NOT.kind", "must be a string, it is a number"),
    ({"kind": {}}, "$.filter.kind", "names no operator; one of eq"),
    ({"kind": {"above": "a"}}, "$.filter.kind.above", "no operator of this field"),
    ({"kind": {1: "a"}}, "$.filter.kind.1", "no operator"),
    ({"kind": ["a"]}, "$.filter.kind", "must be a string, it is a list"),
    ({"kind": {"in": "abc"}}, "$.filter.kind.in", "must be a list, it is a string"),
    ({"kind": {"in": ["a", 1]}}, "$.filter.kind.in[1]", "must be a string"),
    ({"kind": {"in": [None]}}, "$.filter.kind.in[0]", "must not be null"),
    ({"kind": {"gt": None}}, "$.filter.kind.gt", "must not be null"),
    ({"kind": {"eq": "a\0"}}, "$.filter.kind.eq", "NUL"),
    ({"kind": {"eq": "a" * 20000}}, "$.filter.kind.eq", "at most 16384 bytes"),
    ({"kind": {"exists": 1}}, "$.filter.kind.exists", "true or false, it is a number"),
    ({"kind": {"exists": None}}, "$.filter.kind.exists", "null"),
    ({"tags": ["a"]}, "$.filter.tags", "must be a string, it is a list"),
    ({"tags": {"gt": "a"}}, "$.filter.tags.gt", "no operator of this field; it has eq, ne, in"),
    ({"tags": {"contains": 1}}, "$.filter.tags.contains", "must be a string"),
    ({"importance": True}, "$.filter.importance", "must be a number, it is a boolean"),
    ({"importance": {"contains": 1}}, "$.filter.importance.contains", "no operator"),
    ({"importance": float("nan")}, "$.filter.importance", "finite"),
    ({"importance": {"lt": 2**53}}, "$.filter.importance.lt", "2^53"),
    ({"created_at": 1700000000}, "$.filter.created_at", "RFC 3339: it is a number"),
    ({"created_at": "yesterday"}, "$.filter.created_at", "RFC 3339"),
    ({"created_at": "2026-01-01"}, "$.filter.created_at", "RFC 3339"),
    ({"created_at": "2026-01-01T00:00:00"}, "$.filter.created_at", "must name its offset"),
    ({"created_at": dt.datetime(2026, 1, 1)}, "$.filter.created_at", "must name its offset"),  # noqa: DTZ001 - the point
    ({"expires_at": {"in": ["2026-13-01T00:00:00Z"]}}, "$.filter.expires_at.in[0]", "RFC 3339"),
    ({"updated_at": {"lt": "0001-01-01T00:00:00+01:00"}}, "$.filter.updated_at.lt", "outside the years"),
    ({"created_at": {"contains": "2026"}}, "$.filter.created_at.contains", "no operator"),
    ({"metadata.a": {"gt": True}}, "$.filter.metadata.a.gt", "a string or a number, it is a boolean"),
    ({"metadata.a": {"lte": [1]}}, "$.filter.metadata.a.lte", "it is a list"),
    ({"metadata.a": {"contains": [1]}}, "$.filter.metadata.a.contains", "it is a list"),
    ({"metadata.a": {"contains": None}}, "$.filter.metadata.a.contains", "null"),
    ({"metadata.a": {"b": 1}}, "$.filter.metadata.a.b", "no operator"),
    ({"metadata.a": {"eq": {"b": {1: 2}}}}, "$.filter.metadata.a.eq.b", "must be strings"),
    ({"metadata.a": {"eq": b"x"}}, "$.filter.metadata.a.eq", "bytes is not a JSON value"),
    ({"metadata.a": {"eq": dt.datetime.now(dt.UTC)}}, "$.filter.metadata.a.eq", "datetime is not a JSON value"),
    ({"metadata.a": {"eq": [[[[[[[[[1]]]]]]]]]}}, "$.filter.metadata.a.eq[0][0][0][0][0][0][0][0]", "levels deep"),
    ({"metadata.a": {"in": [2**60]}}, "$.filter.metadata.a.in[0]", "2^53"),
    ({"kind": {"in": ["a"] * 1001}}, "$.filter.kind.in", "at most 1000 values, it has 1001"),
    ({"AND": [{"kind": "a"}] * 64}, "$.filter.AND[63].kind", "at most 64 conditions"),
    ({"AND": [{}] * 64}, "$.filter.AND[63]", "at most 64 conditions"),
    ({"OR": [{"AND": []}] * 64}, "$.filter.OR[63].AND", "at most 64 conditions"),
    ({"NOT": {"NOT": {"NOT": {"NOT": {"NOT": {"NOT": {"NOT": {"NOT": {}}}}}}}}}, "$.filter" + ".NOT" * 8, "8 levels"),
]


@pytest.mark.parametrize(("where", "path", "says"), WRONG, ids=[f"{path}-{says}"[:70] for _, path, says in WRONG])
def test_what_is_wrong_is_refused_with_its_path(where, path, says):
    """The type, the operator, the field or a bound."""
    with pytest.raises(InvalidRequest) as caught:
        read(where)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_bounds_are_reached():
    """As many conditions, levels and values as are allowed, and the settings are what decides."""
    read({"AND": [{"kind": str(number)} for number in range(63)]})
    read({"NOT": {"NOT": {"NOT": {"NOT": {"NOT": {"NOT": {"NOT": {}}}}}}}})
    read({"kind": {"in": [str(number) for number in range(1000)]}})
    read({"metadata.a" + ".a" * 7: 1})
    tight = Limits(LimitsConfig(filter_conditions=2, filter_depth=2, filter_values=1), 8)
    read_filter({"AND": [{"kind": "a"}]}, tight, "$")
    for where in ({"AND": [{"kind": "a", "source": "b"}]}, {"NOT": {"NOT": {}}}, {"kind": {"in": ["a", "b"]}}):
        with pytest.raises(InvalidRequest):
            read_filter(where, tight, "$")


def test_a_question_with_a_filter_can_be_asked_again():
    """As the access statistics keep it."""
    query = Query(text="x", filter={"metadata.n": [1, True, None], "source": None}, tags=["a"], tags_mode="all")
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(query), type=Query)
    assert again == query
    before = msgspec.msgpack.encode({"text": "x", "limit": 3})
    assert msgspec.msgpack.decode(before, type=Query) == Query(text="x", limit=3)


TAGGED = {
    "any": [(), "a", "ab", "abc", "b"],
    "all": [(), "ab", "abc"],
    "any_strict": ["a", "ab", "abc", "b"],
    "all_strict": ["ab", "abc"],
}


@pytest.mark.parametrize("mode", TAGGED)
def test_tags_modes(mode):
    """The strict modes leave out memories without tags; all asks for each of the tags."""
    fields = dict.fromkeys(FIELD_KINDS) | {"metadata": msgspec.Raw(b"{}"), "entities": []}
    fields |= dict.fromkeys(("created_at", "updated_at"), dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    where = narrowing(None, ["a", "b"], mode, LIMITS)
    said = {
        "any": {"OR": [{"tags": {"in": ["a", "b"]}}, {"tags": None}]},
        "all": {"OR": [{"AND": [{"tags": "a"}, {"tags": "b"}]}, {"tags": None}]},
        "any_strict": {"tags": {"in": ["a", "b"]}},
        "all_strict": {"tags": "a", "AND": [{"tags": "b"}]},
    }[mode]
    assert encoded(where) == encoded(read(said))
    held = [(), "a", "ab", "abc", "b", "c", "cd"]
    assert [tags for tags in held if passes(said, memory_of(fields | {"tags": list(tags)}))] == TAGGED[mode]


def test_nothing_asked_is_no_filter():
    """So that the statement and the key are those of a search without one."""
    assert narrowing(None, [], "all_strict", LIMITS) is None
    assert narrowing({}, [], "any", LIMITS) is None
    assert narrowing({"AND": [{}]}, [], "any", LIMITS) is None
    assert read({}) == EVERYTHING
    assert encoded(None) == b""


def test_tags_and_filter_both_hold():
    """A search by tags is one by a filter."""
    both = narrowing({"kind": "a"}, ["x"], "any_strict", LIMITS)
    assert encoded(both) == encoded(read({"kind": "a", "tags": "x"}))
    with pytest.raises(InvalidRequest) as caught:
        narrowing(None, [""], "any", LIMITS)
    assert caught.value.path == "$.tags[0]"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"kind": "a", "tags": "b", "expires_at": None}, False),
        ({"kind": "a", "NOT": {"OR": [{"tags": "b"}, {"source": "c"}]}}, True),
        ({"metadata.a": 1}, True),
        (None, False),
    ],
)
def test_what_reads_json_is_known(where, expected):
    """Conditions on metadata and source, at any depth."""
    assert reads_json(read(where)) is expected


@given(st.sampled_from(METADATA), st.text(min_size=1).filter(lambda key: "\0" not in key))
def test_every_key_can_be_named(value, key):
    """With a backslash before a dot or a backslash, any key but an empty one."""
    name = "metadata." + key.replace("\\", "\\\\").replace(".", "\\.")
    where = read({name: "x"})
    assert where.field == (key,)
