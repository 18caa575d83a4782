"""A filter means the same in words, in columns and in SQL."""

import asyncio
from datetime import timedelta
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from filter_world import EPOCH, every_condition, every_memory, memory_fields, passes, read, wire_filters
from memfast.index.shard import Shard, ShardIdentity
from memfast.model import Create, Listing, Memory
from memfast.store.conditions import narrowed

BEFORE = EPOCH - timedelta(days=1)
PASSING = "SELECT m.id FROM memories m WHERE m.scope_id = $1 AND {where}"
"""A statement of somebody else's, as one that deletes by a filter."""
QUERY = np.eye(8, dtype=np.float32)[0]


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


async def stored(store, scope, fields):
    """Store memories of these fields, all with the same vector; returns them as they are read back."""
    creates = [
        Create(
            scope=scope,
            memory=Memory(**each, id=UUID(int=number), user_id=scope.user_id, text="x", version=0),
            vector=QUERY,
            on_conflict="update",
        )
        for number, each in enumerate(fields)
    ]
    await store.forget(scope, now=BEFORE)
    await store.apply(creates, now=BEFORE)
    return (await store.load(scope)).memories


def of_shard(scope, memories, where):
    """The ids that a shard of the memories finds."""
    identity = ShardIdentity(scope.id, UUID(int=1), 1, len(QUERY))
    version = max(memory.version for memory in memories)
    shard = Shard.build(memories, np.array([QUERY] * len(memories)), identity=identity, version=version)
    hits = shard.search(QUERY, len(memories), now_us=0, where=where)
    return set(hits.ids)


def test_words_columns_and_sql_agree(open_store, scope):
    """Random filters over random memories: the definition, a shard, the search and the list in PostgreSQL."""
    rows = st.lists(memory_fields, min_size=1, max_size=12)

    async def run(store, fields, filters):
        memories = await stored(store, scope, fields)
        for where in filters:
            condition = read(where)
            wanted = {memory.id for memory in memories if passes(where, memory)}
            assert of_shard(scope, memories, condition) == wanted, where
            nearest = await store.nearest(scope, QUERY, 100, now=BEFORE, where=condition)
            assert {memory.id for memory in nearest.memories} == wanted, where
            page = await store.list(scope, Listing(limit=100, where=condition), now=BEFORE)
            assert {memory.id for memory in page.memories} == wanted, where

    with asyncio.Runner() as runner:
        context = open_store()
        store = runner.run(context.__aenter__())
        try:

            @settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
            @given(rows, st.lists(wire_filters, min_size=8, max_size=8))
            def agree(fields, filters):
                runner.run(run(store, fields, filters))

            agree()
        finally:
            runner.run(context.__aexit__(None, None, None))


async def test_every_condition_means_what_it_says(store, scope):
    """Each field, operator and value that makes a difference, in PostgreSQL; and its negation is exact."""
    memories = await stored(store, scope, every_memory())
    everything = {memory.id for memory in memories}
    async with store._pool.connection() as connection:
        for where in every_condition():
            wanted = {memory.id for memory in memories if passes(where, memory)}
            for each, expected in ((where, wanted), ({"NOT": where}, everything - wanted)):
                statement, *values = narrowed(PASSING, read(each), scope.id)
                assert {row[0] for row in await connection.fetch(statement, *values)} == expected, each


async def test_a_filtered_search_finds_as_many_as_there_are(store, scope, new_create):
    """Of 400 memories the farthest twenty pass: all are found, in a search for five the nearest five of them."""
    creates = []
    for number in range(400):
        angle = number / 400
        vector = np.array([np.cos(angle), np.sin(angle), 0, 0, 0, 0, 0, 0], np.float32)
        create = new_create(UUID(int=number))
        memory = msgspec.structs.replace(create.memory, kind="rare" if number >= 380 else "fact")
        creates.append(msgspec.structs.replace(create, memory=memory, vector=vector))
    await store.apply(creates, now=BEFORE)
    for limit, last in ((5, 385), (20, 400), (50, 400)):
        rows = await store.nearest(scope, QUERY, limit, now=BEFORE, where=read({"kind": "rare"}))
        assert [memory.id.int for memory in rows.memories] == list(range(380, last))
    rows = await store.nearest(scope, QUERY, 50, now=BEFORE, where=read({"kind": {"in": []}}))
    assert not len(rows.memories)
    assert rows.version == 400


async def test_no_scope_sees_another_through_a_filter(store, scope, new_create):
    """A filter that everything passes, in every place where a filter can stand, shows one user's memories alone."""
    await store.apply([new_create()], now=BEFORE)
    other = msgspec.structs.replace(scope, id=UUID(int=5), user_id="other")
    mine = new_create(owner=other)
    await store.apply([mine], now=BEFORE)
    for where in ({"OR": [{"kind": "x"}, {}]}, {"NOT": {"kind": "x"}}, {"metadata.a": None}, {}):
        rows = await store.nearest(other, QUERY, 9, now=BEFORE, where=read(where))
        assert [memory.id for memory in rows.memories] == [mine.memory.id]
        page = await store.list(other, Listing(limit=9, where=read(where)), now=BEFORE)
        assert [memory.id for memory in page.memories] == [mine.memory.id]
