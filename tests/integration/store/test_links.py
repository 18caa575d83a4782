"""Links and walks over them in PostgreSQL, against plain Python."""

import asyncio
import re
from datetime import timedelta
from uuid import UUID

import msgspec
import pytest
from changes_world import NOW
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph_world import IDS, SPREADS, STEPS, LinkWorld, change_of, walks_from
from memfast.links import AUTOMATIC, LinkKey, LinkQuery, Spread, Walk
from memfast.model import DropLink
from memfast.store import links as module
from memfast.store.links import PostgresLinks


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


async def check(store, scope, steps, walks, spreads):
    """Make changes, a transaction a list of them, and compare everything that can be asked after each."""
    world, links, now = LinkWorld(), PostgresLinks(store._pool), NOW
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
            assert ([(each.id, each.depth, each.weight) for each in found.results], found.expires_at) == wanted
            assert found.version == version
            assert all(each.text == "x" for each in found.results)
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
            @given(STEPS, st.lists(walks_from(IDS), min_size=3, max_size=6), st.lists(SPREADS, min_size=2, max_size=4))
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
    assert [each.id for each in found.results] == [*others[:256], far]
    async with store._pool.connection() as connection:
        await connection.execute("ANALYZE links, memories")
        arguments = (scope.id, hub, NOW, 1, 1000, None, 0.0, 256, 500, True)
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
            (module.LINKS.related, (scope.id, IDS[0], NOW, 1, 1000, None, 0.0, 256, 500, True)),
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
