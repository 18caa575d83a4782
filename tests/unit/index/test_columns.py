"""Columns of JSON change what a filter costs, never what it finds."""

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_world import IDENTITY, MEMORY, VECTORS, World, at_us, found, memories, numbered, ranked, vectors, wanted

from filter_world import METADATA, every_condition, every_memory, passes, read, wire_filters
from memfast.index import columns
from memfast.index.shard import Shard

rows = st.lists(st.tuples(memories, vectors), min_size=1, max_size=30, unique_by=lambda row: row[0].id)


@pytest.fixture(params=[1, 8, 10**9], ids=["roomy", "usual", "none"])
def share(request, monkeypatch):
    """Room for every column, for some, and for none."""
    monkeypatch.setattr(columns, "SHARE", request.param)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=rows, more=rows, filters=st.lists(wire_filters, min_size=1, max_size=8))
def test_every_filter_finds_the_same_after_every_other(share, first, more, filters):
    """One shard, several filters, some of them again: whatever columns are there by then."""
    world = World()
    world.write(first)
    shard = world.build()
    for _ in range(2):
        for where in [*filters, *filters[:2]]:
            hits = shard.search(VECTORS[0], 60, now_us=at_us(-1), where=read(where))
            assert found(hits) == wanted(ranked(world.rows, VECTORS[0], 60, now_us=at_us(-1), where=where))
        shard = shard.apply(world.write(more))


def test_every_condition_means_what_it_says(share):
    """Each field, operator and value that makes a difference, over memories that tell them apart."""
    world = World()
    points = numbered(len(METADATA) * 2)
    world.write(
        (msgspec.structs.replace(memory, **fields), vector)
        for (memory, vector), fields in zip(points, every_memory(), strict=True)
    )
    shard = world.build()
    rows = [memory for memory, _ in world.rows.values()]
    for where in every_condition():
        found = {memory.id for memory in rows if passes(where, memory)}
        assert set(shard.search(VECTORS[0], 99, now_us=at_us(-1), where=read(where)).ids) == found, where
        none_of = read({"NOT": where})
        assert set(shard.search(VECTORS[0], 99, now_us=at_us(-1), where=none_of).ids).isdisjoint(found), where


def shard_of(count, metadata):
    """A shard of memories with this metadata, by their number."""
    made = [
        (msgspec.structs.replace(memory, metadata=msgspec.Raw(msgspec.json.encode(metadata(number)))), vector)
        for number, (memory, vector) in enumerate(numbered(count))
    ]
    world = World()
    world.write(made)
    return world.build()


def ask(shard, where):
    """The numbers of the memories that pass."""
    return {target.int - 1 for target in shard.search(VECTORS[0], len(shard), now_us=0, where=read(where)).ids}


def test_a_column_is_read_once(monkeypatch):
    """A second filter on the same field decodes nothing, another field is another column."""
    shard = shard_of(1200, lambda number: {"n": number % 10, "m": number})
    assert ask(shard, {"metadata.n": {"gt": 4}}) == {number for number in range(1200) if number % 10 > 4}
    monkeypatch.setattr(columns, "_values", None)
    assert ask(shard, {"metadata.n": {"in": [3, 4]}}) == {n for n in range(1200) if n % 10 in {3, 4}}
    with pytest.raises(TypeError):
        ask(shard, {"metadata.m": 5})


def test_columns_have_a_bound_and_are_counted():
    """The oldest leave, and what is kept is in the bytes of the shard."""
    shard = shard_of(2000, lambda number: {f"k{key}": f"value {number % 500} of {key}" for key in range(9)})
    before, own = shard.nbytes, shard.base.own_bytes
    for key in range(9):
        assert ask(shard, {f"metadata.k{key}": f"value 7 of {key}"}) == {7, 507, 1007, 1507}
    kept = list(shard.base.columns)
    assert 0 < len(kept) < 9
    assert kept == [(f"k{key}",) for key in range(9)][-len(kept) :]
    assert before < shard.nbytes <= before + own // columns.SHARE
    assert shard.nbytes == before + sum(column.nbytes for column in shard.base.columns.values())


def test_a_column_that_is_too_large_is_not_kept():
    """It is read at every search, and answers all the same."""
    shard = shard_of(600, lambda number: {"text": f"{number} " * 200})
    for _ in range(2):
        assert ask(shard, {"metadata.text": {"contains": " 577 "}}) == {577}
        assert not shard.base.columns


def test_few_rows_are_read_alone():
    """Where other conditions leave few rows, no column is made."""
    made = numbered(400)
    made = [(msgspec.structs.replace(m, kind="rare" if m.id.int > 395 else "fact", source="s"), v) for m, v in made]
    world = World()
    world.write(made)
    shard = world.build()
    assert ask(shard, {"kind": "rare", "source": "s"}) == {395, 396, 397, 398, 399}
    assert not shard.base.columns
    assert len(ask(shard, {"source": "s"})) == 400
    assert list(shard.base.columns) == ["source"]


def test_no_rows_have_a_column():
    """An empty block, and one of a single row."""
    empty = Shard.build([], np.empty((0, 8), np.float32), identity=IDENTITY, version=1)
    assert not empty.search(VECTORS[0], 3, now_us=0, where=read({"metadata.n": 1})).rows
    one = Shard.build([MEMORY], VECTORS[:1], identity=IDENTITY, version=1)
    assert len(one.search(VECTORS[0], 3, now_us=0, where=read({"metadata.n": {"ne": 1}})).rows) == 1
