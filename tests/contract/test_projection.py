"""What every `Projection` promises, over each of them: Neo4j with APOC and without, and the one in memory."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph_world import TYPES, Reference, walks_from
from memfast import links as bounds
from memfast.graph import neo4j as module
from memfast.links import LinkKey, Walk
from memfast.projection import LinkGone, LinkPut, Mark, NodeGone, NodePut, OtherMarkError, Step
from projection_world import MemoryProjection, Scope, opened_neo4j

NOW = datetime(2025, 1, 1, tzinfo=UTC)
LINEAGE = UUID(int=7)
MARK = Mark(LINEAGE, 1)
IDS = [UUID(int=number << 60) for number in range(1, 9)]


@pytest.fixture(params=["neo4j", "neo4j without APOC", "memory"])
def open_projection(request):
    """Function: a projection in a context, which bears no mark of a test yet."""
    if request.param == "memory":

        @asynccontextmanager
        async def memory():
            yield MemoryProjection()

        return memory
    server = request.getfixturevalue("graph_server")
    return lambda: opened_neo4j(server, apoc=request.param == "neo4j")


@pytest.fixture
async def projection(open_projection):
    """One that has begun."""
    async with open_projection() as opened:
        await opened.begin(MARK)
        yield opened


def node(number, days=0, expires_h=None):
    """A memory, so many days old."""
    expires_at = None if expires_h is None else NOW + timedelta(hours=expires_h)
    return NodePut(IDS[number], NOW - timedelta(days=days), expires_at)


def link(a, b, weight=1.0, type_="x", *, directed=False):
    """A link between two of `IDS`."""
    if not directed:
        a, b = sorted((a, b))
    return LinkPut(IDS[a], IDS[b], type_, weight, directed, NOW)


async def pages(*changes):
    """Pages of one change each."""
    for change in changes:
        yield [change]


async def walked(projection, scope_id, start=0, depth=4, limit=100, now=NOW, **fields):
    """(number of the memory, depth, weight) of what is related."""
    found = await projection.related(scope_id, Walk(start=IDS[start], depth=depth, limit=limit, **fields), now=now)
    return None if found is None else [(IDS.index(id_), far, weight) for id_, far, weight in found.found]


async def test_mark(open_projection):
    """A copy bears the mark of who began last; he finds it empty."""
    async with open_projection() as projection:
        await projection.begin(MARK)
        assert await projection.mark() == MARK
        scope_id = uuid4()
        await projection.apply(MARK, [Step(scope_id, 3, [node(0)])])
        assert await projection.versions([scope_id, uuid4()]) == {scope_id: 3}
        other = Mark(uuid4(), 2)
        await projection.begin(other)
        assert await projection.mark() == other
        assert await projection.versions([scope_id]) == {}
        assert await walked(projection, scope_id) is None
        assert await projection.counts(scope_id) == (0, 0)
        with pytest.raises(OtherMarkError):
            await projection.apply(MARK, [Step(scope_id, 3, [node(0)])])
        with pytest.raises(OtherMarkError):
            await projection.load(MARK, scope_id, 3, pages(node(0)))
        assert await projection.versions([scope_id]) == {}


async def test_steps(projection):
    """A step is applied once, after what it relies on; a scope that misses something is named."""
    scope_id, late = uuid4(), uuid4()
    first = Step(scope_id, 1, [node(0), node(1), node(2), link(0, 1, 0.5)])
    second = Step(scope_id, 4, [link(1, 2, 0.5), NodeGone(IDS[0]), node(0)], base=1)
    assert await projection.apply(MARK, [first, Step(late, 5, [node(0)], base=4), second]) == {late}
    assert await projection.apply(MARK, [first, second]) == set()
    assert await projection.versions([scope_id, late]) == {scope_id: 4}
    assert await walked(projection, scope_id, 1) == [(2, 1, 0.5)]
    assert await walked(projection, scope_id, 0) == []
    assert await walked(projection, late) is None
    found = await projection.related(scope_id, Walk(start=IDS[0], depth=1, limit=1), now=NOW)
    assert (found.mark, found.version, found.start) == (MARK, 4, True)
    found = await projection.related(scope_id, Walk(start=IDS[7], depth=1, limit=1), now=NOW)
    assert (found.version, found.start, found.found) == (4, False, [])


async def test_forgetting(projection):
    """Everything before it is erased, in whatever batches it comes."""
    scope_id, other = uuid4(), uuid4()
    first = Step(scope_id, 1, [node(0), node(1), link(0, 1)])
    await projection.apply(MARK, [first, Step(other, 1, first.changes)])
    forgotten = Step(scope_id, 9, [node(0)], forgotten=True, base=8)
    later = Step(scope_id, 10, [node(2), link(0, 2)], base=9)
    assert await projection.apply(MARK, [Step(scope_id, 2, [node(5), link(0, 5)], base=1), forgotten, later]) == set()
    assert await walked(projection, scope_id) == [(2, 1, 1.0)]
    assert await projection.counts(scope_id) == (2, 1)
    assert await walked(projection, other) == [(1, 1, 1.0)], "it is another user's"
    assert await projection.apply(MARK, [forgotten, later]) == set()
    assert await walked(projection, scope_id) == [(2, 1, 1.0)]


async def test_loading(projection):
    """A scope becomes what the pages say, unless it is newer; other scopes stay."""
    scope_id, other = uuid4(), uuid4()
    await projection.apply(MARK, [Step(each, 5, [node(0), node(1), link(0, 1)]) for each in (scope_id, other)])
    await projection.load(MARK, scope_id, 4, pages(node(0)))
    assert await walked(projection, scope_id) == [(1, 1, 1.0)]
    await projection.load(MARK, scope_id, 5, pages(node(0), node(2), link(0, 2, 0.25, directed=True)))
    assert await walked(projection, scope_id) == [(2, 1, 0.25)]
    assert await walked(projection, scope_id, 2) == []
    assert await projection.versions([scope_id, other]) == {scope_id: 5, other: 5}
    assert await projection.counts(scope_id) == (2, 1)
    assert await projection.apply(MARK, [Step(scope_id, 6, [link(2, 0)], base=5)]) == set()
    assert await walked(projection, scope_id, 2) == [(0, 1, 1.0)]


async def test_loading_that_breaks_off(projection):
    """What was loaded of it does not show, and the next loading or step begins anew."""
    scope_id, again = uuid4(), uuid4()

    async def broken():
        yield [node(0), node(1)]
        raise RuntimeError("the reader failed")

    for each in (scope_id, again):
        with pytest.raises(RuntimeError):
            await projection.load(MARK, each, 5, broken())
        assert await projection.versions([each]) == {}
        assert await walked(projection, each) is None
    assert await projection.apply(MARK, [Step(scope_id, 6, [node(3)], base=5)]) == {scope_id}
    await projection.load(MARK, scope_id, 6, pages(node(0), node(3), link(0, 3)))
    assert await walked(projection, scope_id) == [(3, 1, 1.0)]
    assert await projection.apply(MARK, [Step(again, 1, [node(4), node(5), link(4, 5)])]) == set()
    assert await walked(projection, again, 4) == [(5, 1, 1.0)]
    assert await projection.counts(again) == (2, 1), "nothing is left of the loading"


async def test_a_building_that_somebody_else_takes_over(projection):
    """A loading under an old mark ends, and nothing of it is left."""
    scope_id, other = uuid4(), Mark(LINEAGE, 2)

    async def taken_over():
        yield [node(0), node(1)]
        await projection.begin(other)
        yield [link(0, 1)]

    with pytest.raises(OtherMarkError):
        await projection.load(MARK, scope_id, 5, taken_over())
    assert await projection.versions([scope_id]) == {}
    assert await projection.counts(scope_id) == (0, 0)


async def test_expired_memories(projection):
    """They are neither found nor walked through; who was walked through says until when that holds."""
    scope_id = uuid4()
    chain = [node(0), node(1, expires_h=2), node(2), node(3, expires_h=-1), link(0, 1), link(1, 2), link(0, 3)]
    await projection.apply(MARK, [Step(scope_id, 1, chain)])
    walk = Walk(start=IDS[0], depth=2, limit=10)
    found = await projection.related(scope_id, walk, now=NOW)
    assert [id_ for id_, _, _ in found.found] == [IDS[1], IDS[2]]
    assert found.expires_at == NOW + timedelta(hours=2)
    found = await projection.related(scope_id, walk, now=NOW + timedelta(hours=2))
    assert (found.start, found.found, found.expires_at) == (True, [], None)
    found = await projection.related(scope_id, Walk(start=IDS[3], depth=2, limit=10), now=NOW)
    assert (found.start, found.found) == (False, [])


NUMBERS = st.integers(0, len(IDS) - 1)
ENDS = st.lists(NUMBERS, min_size=2, max_size=2, unique=True)
CHANGES = st.one_of(
    st.builds(
        lambda n, days, hours: ("node", node(n, days, hours)),
        NUMBERS,
        st.integers(0, 2),
        st.sampled_from([None, None, 1, 3]),
    ),
    st.builds(lambda n: ("gone", NodeGone(IDS[n])), NUMBERS),
    *[
        st.builds(
            lambda ends, weight, type_, directed: ("link", link(*ends, weight, type_, directed=directed)),
            ENDS,
            st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0]),
            TYPES,
            st.booleans(),
        )
    ]
    * 3,
    st.builds(lambda ends, type_: ("drop", LinkGone(LinkKey(IDS[ends[0]], IDS[ends[1]], type_))), ENDS, TYPES),
)
HISTORIES = st.lists(
    st.tuples(st.lists(CHANGES, max_size=14), st.integers(1, 3), st.sampled_from([False] * 6 + [True])),
    min_size=1,
    max_size=5,
)


def history(scope_id, drawn):
    """Steps that can have happened, and what a user's memories and links are after each."""
    world, steps, states = Scope(), [], []
    everybody = [("node", node(number, number % 3)) for number in range(len(IDS))]
    for changes, size, forgotten in [(everybody, 1, False), *drawn]:
        base, kept = world.version, []
        if forgotten:
            world.nodes.clear()
            world.links.clear()
        for kind, change in (everybody[:4] if forgotten else []) + changes:
            if kind == "link" and not {change.from_id, change.to_id} <= world.nodes.keys():
                continue
            kept.append(change)
            world.take(change)
        world.version += size
        steps.append(Step(scope_id, world.version, kept, forgotten, base))
        states.append((Reference(world.nodes, world.links), world.version))
    return steps, states


@pytest.mark.parametrize(("fanout", "level"), [(256, 500), (2, 3)], ids=["default bounds", "small bounds"])
def test_walks_agree_with_plain_python(open_projection, monkeypatch, fanout, level):
    """Random links, deletes, expiries and forgetting, each batch of steps twice: the same walks, order included."""
    for each in (bounds, module):
        monkeypatch.setattr(each, "FANOUT_LINKS", fanout)
        monkeypatch.setattr(each, "LEVEL_MEMORIES", level)
    with asyncio.Runner() as runner:
        manager = open_projection()
        projection = runner.run(manager.__aenter__())
        try:
            runner.run(projection.begin(MARK))

            @settings(
                max_examples=15 * int(os.environ.get("SOAK", "1")),
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(
                HISTORIES,
                st.lists(st.integers(1, 3), min_size=6, max_size=6),
                st.lists(walks_from(IDS), min_size=4, max_size=8),
            )
            def agree(drawn, sizes, walks):
                runner.run(compare(projection, drawn, sizes, walks, fanout, level))

            agree()
        finally:
            runner.run(manager.__aexit__(None, None, None))


async def compare(projection, drawn, sizes, walks, fanout, level):
    """Apply a history in batches, each twice and the second time with those before it."""
    scope_id, done = uuid4(), 0
    steps, states = history(scope_id, drawn)
    for size in sizes:
        batch = steps[done : done + size]
        if not batch:
            break
        assert await projection.apply(MARK, batch) == set()
        assert await projection.apply(MARK, steps[max(0, done - 2) : done + size]) == set()
        done += len(batch)
        world, version = states[done - 1]
        for walk in walks:
            found = await projection.related(scope_id, walk, now=NOW)
            wanted = world.related(walk, NOW, fanout, level)
            assert found.version == version
            assert found.start == (wanted is not None)
            if wanted is not None:
                assert (found.found, found.expires_at) == wanted
