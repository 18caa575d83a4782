"""What the database keeps of the past: the same as the model, whatever is done to a user's memories."""

import asyncio
from itertools import chain
from uuid import uuid4

import pytest
from changes_world import EARLIER, FLUSHES, IDS, NOW, Model
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace

from memfast.errors import EmbedderChanged
from memfast.model import Delete, Patch, Scope, Undelete, derive_scope_id
from memfast.store.postgres import PostgresStore
from memfast.store.texts import hash_text


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


@pytest.fixture
def run(open_store):
    """Function: run a coroutine function of a store, in a loop of its own."""

    def running(work):
        async def opened():
            async with open_store() as store:
                await work(store)

        asyncio.run(opened())

    return running


async def past_of(store, scope, target):
    """Every event of a memory, by pages of two."""
    events, after = [], 0
    while True:
        page = await store.history(scope, target, after=after, limit=2, since=EARLIER)
        events += page.events
        if not page.has_more:
            return events
        after = events[-1].version


async def check(store, scope, model):
    """The database has what the model has."""
    loaded = await store.load(scope)
    numbers = {memory.id: int(row[0]) for memory, row in zip(loaded.memories, loaded.vectors, strict=True)}
    present = {target: states[-1] for target, states in model.states.items() if states[-1][2] is not None}
    assert {memory.id: memory for memory in loaded.memories} == {
        target: replace(state[2], user_id=scope.user_id) for target, state in present.items()
    }
    assert numbers == {target: state[3] for target, state in present.items()}
    user = await store.user(scope)
    assert (0 if user is None else user.memories) == model.count()
    for target in IDS:
        said, wanted = None, []
        for event, version, memory, _ in model.states.get(target, []):
            text = None if memory is None else memory.text
            wanted.append((event, version, text, said if event in {"updated", "deleted"} else None))
            said = text
        events = await past_of(store, scope, target)
        assert [(each.event, each.version, each.text, each.previous_text) for each in events] == wanted


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FLUSHES)
def test_any_sequence_of_writes_leaves_the_models_past(run, site, flushes):
    """Rows, vectors, the count and every memory's events, after every transaction."""
    name = f"user {uuid4()}"
    scope = Scope(derive_scope_id(site.prepared.secret, "default", name), "default", name)

    async def work(store):
        model = Model()
        for changes in flushes:
            outcomes = await store.apply([replace(change, scope=scope) for change in changes], now=NOW)
            if await store.user(scope) is None:  # a change makes no user, and gives no version to nobody
                assert all(outcome.refused is not None for outcome in outcomes)
                continue
            for change, outcome in zip(changes, outcomes, strict=True):
                status, target, version, error = model.apply(change)
                assert (outcome.status, outcome.id, outcome.version) == (status, target, version)
                assert outcome.refused is None if error is None else type(outcome.refused) is error
            await check(store, scope, model)

    run(work)


async def test_equal_texts_are_found_among_rows_without_a_hash(store, scope, new_create):
    """Rows of before the hashes: the first write that asks for equal texts fills them in, and finds what it asks for."""
    first = (await store.apply([new_create(text="  say it once"), new_create(text="other")], now=NOW))[0]
    async with store._pool.connection() as connection:
        await connection.execute("UPDATE memories SET text_hash = NULL WHERE scope_id = $1", scope.id)
        same = await store.apply([new_create(text="say it once ", dedupe=True), new_create(dedupe=True)], now=NOW)
        assert [(each.status, each.id == first.id) for each in same] == [("duplicate", True), ("created", False)]
        left = "SELECT count(*) FROM memories WHERE scope_id = $1 AND text_hash IS NULL"
        assert await connection.fetchval(left, scope.id) == 0


async def test_texts_that_share_a_hash_are_not_the_same(store, scope, new_create):
    """CRC-32 finds candidates; what they say decides."""
    pair = ("plumless", "buckeroo")
    assert hash_text(pair[0]) == hash_text(pair[1])
    outcomes = await store.apply([new_create(text=text, dedupe=True) for text in pair], now=NOW)
    outcomes += await store.apply([new_create(text=text, dedupe=True) for text in pair], now=NOW)
    assert [outcome.status for outcome in outcomes] == ["created", "created", "duplicate", "duplicate"]


async def test_equal_texts_at_once_are_stored_once(open_store, scope, new_create):
    """Eight writers, one text, also in batches that say it twice: one is created, all are told which."""
    async with open_store(size=8, acquire_timeout_s=30.0) as store:
        flushes = [
            [new_create(text="once", dedupe=True, fresh_id=True) for _ in range(1 + row % 2)] for row in range(8)
        ]
        outcomes = list(chain(*await asyncio.gather(*(store.apply(flush, now=NOW) for flush in flushes))))
        assert sorted(outcome.status for outcome in outcomes) == ["created"] + ["duplicate"] * 11
        assert len({outcome.id for outcome in outcomes}) == 1
        assert (await store.user(scope)).memories == 1


async def test_a_vector_of_another_model_is_made_anew(store, open_store, scope, new_create):
    """An undelete is refused with the text to embed; the vector of another text is refused again."""
    create = new_create(text="as it was")
    await store.apply([create], now=NOW)
    await store.apply([Delete(scope=scope, id=create.memory.id)], now=NOW)
    await make_current(store, 2)
    try:
        later = PostgresStore(store._pool, generation=2, dimensions=8, schema=1, facts=store._facts)
        await undelete_with(later, scope, create)
        with pytest.raises(EmbedderChanged):  # the older model has no vector of it, and says nothing any more
            await store.load(scope)
    finally:
        await make_current(store, 1)


async def make_current(store, generation):
    """Let another generation be the one that is read and written."""
    async with store._pool.connection() as connection, connection.transaction():
        await connection.execute("UPDATE embedders SET state = 'erased'")
        await connection.execute(
            "INSERT INTO embedders (generation, model, dimensions, state) VALUES ($1, 'm', 8, 'current')"
            " ON CONFLICT (generation) DO UPDATE SET state = 'current'",
            generation,
        )


async def undelete_with(later, scope, create):
    """Bring a memory back whose vector is another generation's."""
    wanted = Undelete(scope=scope, id=create.memory.id, since=EARLIER)
    refused = (await later.apply([wanted], now=NOW))[0]
    assert (refused.refused.slug, refused.memory.text) == ("embedding-required", "as it was")
    wanted = replace(wanted, vector=create.vector, text="another")
    assert (await later.apply([wanted], now=NOW))[0].refused.slug == "embedding-required"
    done = (await later.apply([replace(wanted, text="as it was")], now=NOW))[0]
    assert (done.status, done.version) == ("updated", 5)
    assert (await later.load(scope)).vectors.tolist() == [create.vector.tolist()]


async def test_nothing_is_left_of_a_forgotten_user(store, scope, new_create):
    """History goes with the rest, and an id of before finds nothing."""
    create = new_create(text="never mind")
    await store.apply([create], now=NOW)
    await store.apply([Patch(scope=scope, id=create.memory.id, text="else", vector=create.vector)], now=NOW)
    await store.apply([Delete(scope=scope, id=create.memory.id)], now=NOW)
    assert len(await past_of(store, scope, create.memory.id)) == 3
    await store.forget(scope, now=NOW)
    assert await past_of(store, scope, create.memory.id) == []
    async with store._pool.connection() as connection:
        assert await connection.fetchval("SELECT count(*) FROM history WHERE scope_id = $1", scope.id) == 0
    undelete = Undelete(scope=scope, id=create.memory.id, since=EARLIER)
    assert (await store.apply([undelete], now=NOW))[0].refused.slug == "not-found"
