"""A graph makes a shard faster, never shorter, and never shows what is gone."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_world import DIMENSIONS, IDENTITY, World, found, numbered, ranked, unit, wanted

from filter_world import read
from memfast.index import hnsw, shard
from memfast.index.hnsw import EF, Graph
from memfast.index.shard import Shard
from memfast.model import Delta

ROWS = 3000


def cloud(count, width, seed):
    """Unit vectors around a hundred centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((100, width))
    return unit(0.7 * rng.standard_normal((count, width)) + centres[rng.integers(0, 100, count)])


@pytest.fixture(scope="module")
def large():
    """A scope and its shard with a graph; every tenth memory is of another kind."""
    world = World()
    world.write(
        (msgspec.structs.replace(memory, kind="rare" if number % 10 == 0 else "fact"), vector)
        for number, ((memory, _), vector) in enumerate(zip(numbered(ROWS), cloud(ROWS, DIMENSIONS, 1), strict=True))
    )
    return world, world.build().rebuilt(flat_limit=1000)


def test_a_graph_finds_nearly_all_of_the_exact_answer(large):
    """Recall is above 0.99, and every score that is given is exact."""
    world, built = large
    assert built.graph is not None
    reached = 0
    for query in cloud(50, DIMENSIONS, 2):
        exact, given_hits = ranked(world.rows, query, 10, now_us=0), built.search(query, 10, now_us=0)
        assert len(given_hits.rows) == 10
        scores = {hit.memory.id: hit.score for hit in ranked(world.rows, query, ROWS, now_us=0)}
        assert given_hits.scores == [scores[each] for each in given_hits.ids]
        reached += len({hit.memory.id for hit in exact} & set(given_hits.ids))
    assert reached >= 0.99 * 500


def test_what_a_graph_cannot_answer_is_scanned(large):
    """Many hits, and conditions that few rows meet, are answered exactly."""
    world, built = large
    query = cloud(1, DIMENSIONS, 3)[0]
    for k, where in ((EF // 2 + 1, None), (20, {"kind": "rare"}), (5, {"kind": {"in": []}})):
        hits = built.search(query, k, now_us=0, where=read(where))
        assert found(hits) == wanted(ranked(world.rows, query, k, now_us=0, where=where))


def test_a_condition_that_many_rows_meet_is_applied_to_candidates(large):
    """Every hit meets the condition, and there are as many as asked for."""
    world, built = large
    query = cloud(1, DIMENSIONS, 4)[0]
    hits = built.search(query, 10, now_us=0, where=read({"kind": "fact"}))
    assert found(hits) == wanted(ranked(world.rows, query, 10, now_us=0, where={"kind": "fact"}))


def test_hits_that_are_gone_leave_no_gap():
    """When all that is nearest to a query has been deleted, what comes next is found, all of it."""
    world = World()
    world.write(
        (memory, vector) for (memory, _), vector in zip(numbered(ROWS), cloud(ROWS, DIMENSIONS, 5), strict=True)
    )
    built = world.build().rebuilt(flat_limit=0)
    query = cloud(1, DIMENSIONS, 6)[0]
    nearest = [hit.memory.id for hit in ranked(world.rows, query, 290, now_us=0)]
    built = built.apply(world.write(nearest))
    assert built.graph is not None
    assert found(built.search(query, 30, now_us=0)) == wanted(ranked(world.rows, query, 30, now_us=0))
    assert not set(nearest) & set(built.search(query, 100, now_us=0).ids)


def test_a_graph_that_finds_too_few_says_so():
    """The library throws then; the search goes on as a scan."""
    graph = Graph(cloud(20, DIMENSIONS, 7))
    assert graph.candidates(cloud(1, DIMENSIONS, 8)[0], 21) is None
    assert graph.candidates(cloud(1, DIMENSIONS, 8)[0], 20).tolist() == list(range(20))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400), st.integers(1, 60))
def test_equal_rows_are_all_found(copies, k):
    """A graph over copies of one vector may fall apart; as many hits as there are come back all the same."""
    vectors = np.ascontiguousarray(np.repeat(cloud(1, DIMENSIONS, 9), copies, axis=0))
    memories = [memory for memory, _ in numbered(copies)]
    built = Shard.build(memories, vectors, identity=IDENTITY, version=1).rebuilt(flat_limit=0)
    assert built.search(vectors[0], k, now_us=0).scores == [1.0] * min(k, copies)


def test_a_shard_says_when_it_wants_a_graph(monkeypatch):
    """A large shard asks for a graph, a worn one for a new one, and none does when hnswlib is missing."""
    monkeypatch.setattr(shard, "WORN_ROWS_MIN", 3)
    world = World()
    world.write(numbered(40))
    flat = world.build()
    assert flat.needs_rebuild(flat_limit=39)
    assert not flat.needs_rebuild(flat_limit=40)
    graphed = flat.rebuilt(flat_limit=39)
    assert not graphed.needs_rebuild(flat_limit=39)
    worn = graphed.apply(world.write(numbered(5)))
    assert worn.graph is graphed.graph
    assert worn.needs_rebuild(flat_limit=39)
    monkeypatch.setattr(shard, "MISSING_REASON", "hnswlib is not there")
    assert not flat.needs_rebuild(flat_limit=39)
    assert flat.rebuilt(flat_limit=39).graph is None


def test_a_graph_never_changes_and_is_never_built_by_a_write(monkeypatch):
    """However many deltas come, the shard keeps its graph until somebody rebuilds it."""
    monkeypatch.setattr(shard, "WORN_ROWS_MIN", 3)
    world = World()
    world.write(numbered(40))
    built = world.build().rebuilt(flat_limit=0)
    graph = built.graph
    for row in numbered(40):
        built = built.apply(world.write([row]))
    assert built.graph is graph
    assert len(built.rebuilt(flat_limit=100)) == 40
    assert built.rebuilt(flat_limit=100).graph is None


def test_deltas_that_came_during_a_rebuild_are_applied_to_its_result(large):
    """A rebuilt shard takes the deltas that its origin took meanwhile, and those that it knows already."""
    _, built = large
    memory, vector = numbered(1)[0]
    deltas = [
        Delta(
            since=version - 1,
            version=version,
            purged_to=0,
            memories=[msgspec.structs.replace(memory, version=version)],
            vectors=vector[None],
        )
        for version in (built.version + 1, built.version + 2)
    ]
    first = built.apply(deltas[0])
    rebuilt = first.rebuilt(flat_limit=1000)
    for delta in deltas:
        rebuilt = rebuilt.apply(delta)
    assert rebuilt.version == built.version + 2
    assert found(rebuilt.search(vector, 1, now_us=0)) == found(first.apply(deltas[1]).search(vector, 1, now_us=0))


def test_nbytes_counts_the_graph(tmp_path):
    """The graph is counted as at least what hnswlib writes, with the fixed part and not much more."""
    vectors = cloud(2000, 64, 10)
    graph = Graph(vectors)
    graph._index.save_index(str(tmp_path / "graph"))
    written = (tmp_path / "graph").stat().st_size
    assert written < graph.nbytes - hnsw._FIXED_BYTES < 1.35 * written
