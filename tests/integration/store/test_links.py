"""Links and walks over them in PostgreSQL, against plain Python."""

import asyncio
import re
from datetime import timedelta
from uuid import UUID

import msgspec
import numpy as np
import pytest
from changes_world import NOW
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph_world import Reference
from memfast.links import AUTOMATIC, Link, LinkKey, LinkQuery, Spread, Walk
from memfast.model import Create, Delete, DropLink, PutLink
from memfast.store import links as module
from memfast.store.links import PostgresLinks
from memory_world import memory_of

IDS = [UUID(int=number) for number in range(1, 9)]
VECTOR = np.eye(8, dtype=np.float32)[0]
WEIGHTS = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
TYPES = st.sampled_from(["x", "y"])
ENDS = st.lists(st.sampled_from(IDS), min_size=2, max_size=2, unique=True)
PUT = st.tuples(st.just("put"), ENDS, TYPES, WEIGHTS, st.booleans())
DROP = st.tuples(st.just("drop"), ENDS, TYPES)
DELETE = st.tuples(st.just("delete"), st.sampled_from(IDS))
CREATE = st.tuples(st.just("create"), st.sampled_from(IDS), st.integers(0, 2), st.sampled_from([None, None, 1, 3]))
STEPS = st.lists(st.lists(st.one_of(PUT, PUT, PUT, DROP, DELETE, CREATE), max_size=12), max_size=5)
WALKS = st.builds(
    Walk,
    start=st.sampled_from(IDS),
    depth=st.integers(1, 4),
    limit=st.sampled_from([1, 2, 3, 8, 100]),
    type=st.none() | TYPES,
    min_weight=st.sampled_from([0.0, 0.3, 0.6]),
)
SPREADS = st.builds(
    lambda scores, depth: Spread(starts=sorted(scores.items(), key=lambda each: -each[1]), depth=depth),
    st.dictionaries(st.sampled_from(IDS), st.sampled_from([0.2, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=4),
    st.integers(1, 4),
)


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


ANYTHING = Walk(start=IDS[0], depth=1, limit=1)
"""Any link, however weak."""


class World(Reference):
    """What a user's memories and links should be. Time goes on by an hour a step."""

    def sever(self, target):
        self.links = {key: value for key, value in self.links.items() if target not in key[:2]}

    def apply(self, step, now):
        """Make a change; returns the status that it should have, None where it is refused."""
        kind, *rest = step
        return getattr(self, f"_{kind}")(*rest, now)

    def _put(self, ends, type_, weight, directed, now):
        if not all(self.lives(end, now) for end in ends):
            return None
        a, b = ends if directed else sorted(ends)
        taken = [key for key in ((a, b, type_), (b, a, type_)) if key in self.links]
        taken = [key for key in taken if key == (a, b, type_) or not (directed and self.links[key][1])]
        made = min([self.links.pop(key)[2] for key in taken], default=now)
        self.links[a, b, type_] = (weight, directed, made)
        return "updated" if taken else "created"

    def _drop(self, ends, type_, _now):
        for key in ((*ends, type_), (*reversed(ends), type_)):
            if key in self.links and (key[:2] == tuple(ends) or not self.links[key][1]):
                del self.links[key]
                return "deleted"
        return None

    def _delete(self, target, _now):
        if target not in self.memories:
            return None
        self.memories[target] = None
        self.sever(target)
        return "deleted"

    def _create(self, target, day, hours, now):
        if self.lives(target, now):
            return None
        self.sever(target)
        expires_at = None if hours is None else now + timedelta(hours=hours)
        self.memories[target] = (now - timedelta(days=day), expires_at)
        return "created"

    def listed(self, query, now):
        """The links that a listing shows, as (key, weight, directed, made at)."""
        return [
            (key, *value)
            for key, value in sorted(self.links.items())
            if self.lives(key[0], now) and self.lives(key[1], now)
            if query.type in {None, key[2]} and (query.memory_id is None or query.memory_id in key[:2])
        ]

    def spread(self, spread, now, fanout, level):
        """What arrives where: (score, start, depth) by id."""
        best, found = dict(spread.starts), {}
        frontier = {start: (score, start) for start, score in spread.starts}
        for depth in range(1, spread.depth + 1):
            arrived = {}
            for near, (score, start) in frontier.items():
                for target, weight in self.followed(near, ANYTHING, fanout):
                    if weight > 0 and self.lives(target, now):
                        arrived.setdefault(target, []).append((-score * weight, start))
            better = {target: min(each) for target, each in arrived.items() if -min(each)[0] > best.get(target, 0.0)}
            order = sorted(better, key=lambda each: (better[each][0], each))[:level]
            frontier = {target: (-better[target][0], better[target][1]) for target in order}
            best |= {target: score for target, (score, _) in frontier.items()}
            found |= {target: (score, start, depth) for target, (score, start) in frontier.items()}
        return found


def change_of(step, scope, now):
    """A step as a change."""
    kind, *rest = step
    if kind == "put":
        (a, b), type_, weight, directed = rest
        fields = {"weight": weight, "directed": directed, "metadata": msgspec.Raw(b'{"n":1}')}
        return PutLink(scope=scope, link=Link(from_id=a, to_id=b, type=type_, created_at=now, version=0, **fields))
    if kind == "drop":
        (a, b), type_ = rest
        return DropLink(scope=scope, key=LinkKey(a, b, type_))
    if kind == "delete":
        return Delete(scope=scope, id=rest[0])
    target, day, hours = rest
    expires_at = None if hours is None else now + timedelta(hours=hours)
    created_at = now - timedelta(days=day)
    memory = memory_of(created_at, id=target, user_id=scope.user_id, text="x", expires_at=expires_at)
    return Create(scope=scope, memory=memory, vector=VECTOR)


async def check(store, scope, steps, walks, spreads):
    """Make changes, a transaction a list of them, and compare everything that can be asked after each."""
    world, links, now = World(), PostgresLinks(store._pool), NOW
    await store.forget(scope, now=now)
    everybody = [[("create", target, number % 3, None) for number, target in enumerate(IDS)]]
    for batch in everybody + [step for step in steps if step]:
        now += timedelta(hours=1)
        outcomes = await store.apply([change_of(step, scope, now) for step in batch], now=now)
        assert [outcome.status for outcome in outcomes] == [world.apply(step, now) for step in batch]
        version = outcomes[-1].scope_version
        for query in (LinkQuery(limit=1000), LinkQuery(limit=1000, type="x"), LinkQuery(limit=1000, memory_id=IDS[0])):
            page = await links.list(scope, query, now=now)
            shown = [
                ((link.from_id, link.to_id, link.type), link.weight, link.directed, link.created_at)
                for link in page.links
            ]
            wanted = world.listed(query, now) if query.memory_id is None or world.lives(IDS[0], now) else []
            assert shown == wanted
            assert (page.version, page.has_more) == (version, False)
        for walk in walks:
            found = await links.related(scope, walk, now=now)
            wanted = world.related(walk, now, module.FANOUT_LINKS, module.LEVEL_MEMORIES)
            if wanted is None:
                assert found is None
                continue
            assert ([(each.memory.id, each.depth, each.weight) for each in found.results], found.expires_at) == wanted
            assert found.version == version
            assert all(each.memory.text == "x" for each in found.results)
        for spread in spreads:
            alive = Spread(starts=[each for each in spread.starts if world.lives(each[0], now)], depth=spread.depth)
            if alive.starts:
                reached, seen = await links.spread(scope, alive, now=now)
                wanted = world.spread(alive, now, module.FANOUT_LINKS, module.LEVEL_MEMORIES)
                assert {each.id: (each.score, each.start, each.depth) for each in reached} == wanted
                assert (len(reached), seen) == (len(wanted), version)
    async with store._pool.connection() as connection:
        query = "SELECT from_id, to_id, type FROM links WHERE scope_id = $1 ORDER BY 1, 2, 3"
        rows = [tuple(row) for row in await connection.fetch(query, scope.id)]
    assert rows == sorted(world.links)


@pytest.mark.parametrize(("fanout", "level"), [(256, 500), (2, 3)], ids=["default bounds", "small bounds"])
def test_sql_and_python_agree(open_store, scope, monkeypatch, fanout, level):
    """Random links, deletes and expiries: outcomes, listings, walks and what is left of the rows."""
    monkeypatch.setattr(module, "FANOUT_LINKS", fanout)
    monkeypatch.setattr(module, "LEVEL_MEMORIES", level)
    with asyncio.Runner() as runner:
        manager = open_store()
        store = runner.run(manager.__aenter__())
        try:

            @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
            @given(STEPS, st.lists(WALKS, min_size=3, max_size=6), st.lists(SPREADS, min_size=2, max_size=4))
            def agree(steps, walks, spreads):
                runner.run(check(store, scope, steps, walks, spreads))

            agree()
        finally:
            runner.run(manager.__aexit__(None, None, None))


async def test_a_hub_does_not_make_a_walk_read_all_of_its_links(store, scope):
    """Of 2,000 links the 256 strongest are followed; the answer is as bounded as the work.

    With statistics of the table as it is: by those of an hour ago, when it was nearly empty, all indexes look as good.
    """
    hub, far = UUID(int=1), UUID(int=2)
    others = [UUID(int=1000 + number) for number in range(2000)]
    creates = [change_of(("create", target, 0, None), scope, NOW) for target in (hub, far, *others)]
    await store.apply(creates, now=NOW)
    steps = [("put", (hub, other), "x", 1 - number / 2000, False) for number, other in enumerate(others)]
    steps += [("put", (others[0], far), "x", 1.0, True), ("put", (others[-1], far), "y", 1.0, True)]
    for start in range(0, len(steps), 1000):
        await store.apply([change_of(step, scope, NOW) for step in steps[start : start + 1000]], now=NOW)
    links = PostgresLinks(store._pool)
    found = await links.related(scope, Walk(start=hub, depth=2, limit=1000), now=NOW)
    assert [each.memory.id for each in found.results] == [*others[:256], far]
    async with store._pool.connection() as connection:
        await connection.execute("ANALYZE links, memories")
        arguments = (scope.id, hub, NOW, 1, 1000, None, 0.0, 256, 500)
        rows = await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT TEXT) {module.LINKS.related}", *arguments)
        arguments = (scope.id, [hub, far], [1.0, 0.5], NOW, 4, 256, 500)
        rows += await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT TEXT) {module.LINKS.spread}", *arguments)
    read = [str(row[0]) for row in rows if "links_" in str(row[0])]
    assert len(read) >= 4
    assert all("rows=2000" not in line for line in read), read
    reached, _ = await links.spread(scope, Spread(starts=[(hub, 1.0)], depth=1), now=NOW)
    assert {each.id for each in reached} == set(others[:256])


async def test_a_walk_keeps_its_indexes_in_a_table_that_grew_since_it_was_analyzed(store, scope):
    """The statistics tell of a single link; 20,000 of the same user came since, in one import, all to one memory."""
    async with store._pool.connection() as connection:
        many = "INSERT INTO links SELECT 1, random(), now(), $1, md5(i::text)::uuid, $2, 'x', '{}', true FROM generate_series($3::int, $4) i"
        await connection.execute("TRUNCATE links")
        await connection.execute(many, scope.id, IDS[0], 1, 1)
        await connection.execute("ANALYZE links")
        await connection.execute(many, scope.id, IDS[0], 2, 20_000)
        plans = []
        for statement, arguments in (
            (module.LINKS.related, (scope.id, IDS[0], NOW, 1, 1000, None, 0.0, 256, 500)),
            (module.LINKS.spread, (scope.id, IDS[:2], [1.0, 0.5], NOW, 4, 256, 500)),
        ):
            plans.append(" ".join(str(row[0]) for row in await connection.fetch(f"EXPLAIN {statement}", *arguments)))
        await connection.execute("TRUNCATE links")
    for plan in plans:
        assert set(re.findall(r"links_(?:from|to|pkey)", plan)) == {"links_from", "links_to"}, plan


async def test_what_nobody_asked_for_is_dropped_alone(store, scope, new_create):
    """A drop of automatic links leaves one alone that somebody took over meanwhile; the plain drop takes both."""
    await store.apply([new_create(target, scope) for target in IDS[:3]], now=NOW)
    own = change_of(("put", IDS[:2], "x", 1.0, False), scope, NOW)
    made = [change_of(("put", [IDS[0], other], "x", 0.5, False), scope, NOW) for other in IDS[1:3]]
    made = [msgspec.structs.replace(each, link=msgspec.structs.replace(each.link, metadata=AUTOMATIC)) for each in made]
    await store.apply(made, now=NOW)
    await store.apply([own], now=NOW)
    links = PostgresLinks(store._pool)
    assert await links.automatic(scope, "x", IDS[:1], limit=10) == [made[1].link.key]
    assert await links.automatic(scope, "x", IDS[1:2], limit=10) == []
    assert await links.automatic(scope, "y", IDS[:1], limit=10) == []
    drops = [DropLink(scope=scope, key=each.link.key, automatic=True) for each in made]
    outcomes = await store.apply(drops, now=NOW)
    assert [outcome.refused is None for outcome in outcomes] == [False, True]
    left = (await links.list(scope, LinkQuery(limit=10), now=NOW)).links
    assert [each.key for each in left] == [own.link.key]
    assert (await store.apply([DropLink(scope=scope, key=own.link.key)], now=NOW))[0].refused is None


async def test_a_scope_sees_only_its_own_links(store, scope, new_create):
    """The same ids in two scopes, linked in one."""
    other = msgspec.structs.replace(scope, id=UUID(int=scope.id.int ^ 1), user_id="other")
    for owner in (scope, other):
        await store.apply([new_create(target, owner) for target in IDS[:2]], now=NOW)
    await store.apply([change_of(("put", IDS[:2], "x", 1.0, False), scope, NOW)], now=NOW)
    links = PostgresLinks(store._pool)
    for owner, count in ((scope, 1), (other, 0)):
        assert len((await links.list(owner, LinkQuery(limit=10), now=NOW)).links) == count
        assert len((await links.related(owner, Walk(start=IDS[0], depth=4, limit=10), now=NOW)).results) == count
    assert (await store.apply([DropLink(scope=other, key=LinkKey(*IDS[:2], "x"))], now=NOW))[0].refused is not None
    await store.forget(other, now=NOW)
    assert len((await links.list(scope, LinkQuery(limit=10), now=NOW)).links) == 1
