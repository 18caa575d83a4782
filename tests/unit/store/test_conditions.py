"""Filters as SQL: parts that are known, parameters that are numbered, and never a value in the text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filter_world import read, wire_filters
from memfast.filters import EVERYTHING, FIELD_KINDS, all_of, any_of, field_kind
from memfast.service.filters import OPERATORS
from memfast.store import conditions
from memfast.store.conditions import compile_filter, narrowed
from memfast.store.queries import CONDITIONS

OPERANDS = {"text": "x", "list": "x", "number": 1, "time": "2026-01-01T00:00:00Z", "json": 1}


class Recorder:
    """The parts, and which of them were asked for."""

    def __init__(self):
        self.used = set()

    def __getattr__(self, name):
        self.used.add(name)
        return getattr(CONDITIONS, name)


@pytest.fixture
def recorder(monkeypatch):
    """Stands before the parts."""
    recorder = Recorder()
    monkeypatch.setattr(conditions, "CONDITIONS", recorder)
    return recorder


def filters_of(field, name):
    """A filter for each operator of a field."""
    for operator in OPERATORS[field_kind(field)]:
        operand = OPERANDS[field_kind(field)]
        if operator in {"in", "nin"}:
            operand = [operand]
        yield {name: {operator: True if operator == "exists" else operand}}
        if field_kind(field) == "json" and operator != "exists":
            yield {name: {operator: ["x"] if operator in {"in", "nin"} else "x"}}


def test_every_operator_has_its_part_and_every_part_is_used(recorder):
    """Nothing is missing for any field, and nothing lies in the file that no filter needs."""
    for field, name in [*((name, name) for name in FIELD_KINDS), (("a", "b"), "metadata.a.b")]:
        for where in filters_of(field, name):
            compile_filter(read(where), 1)
    compile_filter(None, 1)
    compile_filter(read({"OR": []}), 1)
    compile_filter(read({"metadata.a": 1, "metadata.b": 2}), 1)
    compile_filter(read({"kind": "a", "source": "b"}), 1)
    assert recorder.used == set(vars(CONDITIONS))


@given(wire_filters, st.integers(1, 9))
def test_no_value_stands_in_the_text(where, first):
    """The text has no word that the named parts do not have, and its parameters are numbered without a gap."""
    condition = compile_filter(read(where), first)
    numbered = {int(number) for number in re.findall(r"\$(\d+)", condition.text)}
    assert numbered == set(range(first, first + len(condition.values)))
    word = re.compile(r"[^\W\d]\w*|'\w*'|\"\w*\"")
    assert set(word.findall(condition.text)) <= set(word.findall(" ".join(vars(CONDITIONS).values())))


def test_a_hostile_name_or_value_is_a_parameter():
    """Also the key of metadata, which a client makes up."""
    hostile = "x'); DROP TABLE memories; --"
    where = {f"metadata.{hostile}": hostile, "tags": hostile, "kind": {"contains": hostile}, "source": {"lt": hostile}}
    condition = compile_filter(read(where), 1)
    assert "DROP" not in condition.text
    assert condition.values.count(hostile) == 3
    assert [hostile] in condition.values


def test_the_text_depends_on_the_shape_alone():
    """Other values, and more of them in a list, are the same statement: the server prepares it once."""
    texts = {
        narrowed("{where}", read({"kind": {"in": kinds}, "metadata.a": {"gt": number}}), "own")[0]
        for kinds, number in ((["a"], 1), (["b", "c"], 2.5), ([], 0))
    }
    assert len(texts) == 1


def test_metadata_is_cast_once():
    """However many conditions look at it; what looks at columns alone stands before it, outside."""
    one = compile_filter(read({"kind": "a", "metadata.a": 1}), 1)
    assert one.text.count("::jsonb") - one.text.count("::jsonb[]") == 1
    assert "SELECT" not in one.text
    for where in (
        {"metadata.a": {"gt": 1}},
        {"kind": "a", "metadata.a": 1, "metadata.b": 2, "OR": [{"metadata.c": {"contains": "x"}}, {"tags": "t"}]},
        {"OR": [{"metadata.a": 1}, {"metadata.b": 2}, {"kind": "a"}]},
        {"NOT": {"metadata.a": 1, "metadata.b": 2}},
    ):
        text = compile_filter(read(where), 1).text
        assert text.count("m.metadata::jsonb") == 1
        assert text.count("SELECT") == 2
    assert text.startswith("(SELECT ")
    text = compile_filter(read({"kind": "a", "metadata.a": 1, "metadata.b": 2}), 1).text
    assert text.index("m.kind") < text.index("SELECT")


def test_everything_and_nothing():
    """No filter, one without conditions, and one without alternatives."""
    assert compile_filter(None, 1) == compile_filter(EVERYTHING, 1) == ("true", [])
    assert compile_filter(any_of([]), 1) == ("false", [])
    assert compile_filter(all_of([]), 1) == ("true", [])


def test_a_statement_is_narrowed():
    """The filter's parameters follow the statement's own."""
    narrow = narrowed("SELECT 1 FROM memories m WHERE id = $1 AND v = $2 AND {where}", read({"kind": "a"}), 5, 6)
    assert narrow == (
        "SELECT 1 FROM memories m WHERE id = $1 AND v = $2 AND (m.kind = ANY ($3::text[])) IS TRUE",
        5,
        6,
        ["a"],
    )
