"""Writers at the same time, and waits that end."""

import asyncio
import time
from datetime import UTC, datetime
from itertools import chain
from uuid import uuid4

import pytest

from memfast.errors import DeadlineExceeded, Overloaded, Unavailable
from memfast.model import Delete, Listing, Patch, Scope, derive_scope_id

NOW = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


@pytest.fixture
def new_scope(site):
    """Function: the scope of another new user."""

    def make():
        name = f"user {uuid4()}"
        return Scope(derive_scope_id(site.prepared.secret, "default", name), "default", name)

    return make


async def test_writers_of_one_user_each_take_their_own_version(open_store, new_create, scope):
    """20 tasks with 20 creates each: the versions 1 to 400, each once, and the right count."""
    async with open_store(size=8, acquire_timeout_s=30.0) as store:

        async def work():
            return [(await store.apply([new_create(fresh_id=True)], now=NOW))[0].version for _ in range(20)]

        versions = chain.from_iterable(await asyncio.gather(*(work() for _ in range(20))))
        assert sorted(versions) == list(range(1, 401))
        user = await store.user(scope)
        assert (user.memories, user.version) == (400, 400)


async def test_first_writes_of_a_new_user_at_once(open_store, new_create, new_scope):
    """Eight first writes of the same user, many times over: none fails, the user is made once."""
    async with open_store(size=8, acquire_timeout_s=30.0) as store:
        await asyncio.gather(*(store.check() for _ in range(8)))  # every connection is open
        for _ in range(60):
            scope = new_scope()
            outcomes = await asyncio.gather(*(store.apply([new_create(owner=scope)], now=NOW) for _ in range(8)))
            assert sorted(outcome[0].version for outcome in outcomes) == list(range(1, 9))
            assert (await store.user(scope)).memories == 8


async def test_batches_of_the_same_users_in_opposite_orders(open_store, new_create, new_scope):
    """No deadlock: scopes are locked in one order, whatever the order of the items."""
    async with open_store(size=8, acquire_timeout_s=30.0) as store:
        scopes = [new_scope() for _ in range(3)]

        async def work(order):
            for _ in range(25):
                outcomes = await store.apply([new_create(owner=scope) for scope in order], now=NOW)
                assert all(outcome.status == "created" for outcome in outcomes)

        await asyncio.gather(*(work(order) for order in (scopes, scopes[::-1], scopes[1:] + scopes[:1], scopes)))
        for scope in scopes:
            user = await store.user(scope)
            assert (user.memories, user.version) == (100, 100)


async def test_users_that_exist_and_users_that_do_not_are_locked_in_one_order(open_store, new_create, new_scope):
    """Changes need an existing user and creates make one: mixed in both ways, they do not deadlock either."""
    async with open_store(size=8, acquire_timeout_s=30.0) as store:
        for _ in range(10):
            scopes = [new_scope() for _ in range(4)]

            async def work(shift, scopes=scopes):
                for step in range(5):
                    changes = [
                        new_create(owner=scope) if (row + shift + step) % 2 else Delete(scope=scope, id=uuid4())
                        for row, scope in enumerate(scopes)
                    ]
                    await store.apply(changes[shift:] + changes[:shift], now=NOW)

            await asyncio.gather(*(work(shift) for shift in range(4)))


async def test_a_change_makes_no_user(open_store, new_create, new_scope):
    """Neither of a user that never was nor of one that is forgotten while the change waits; others are not touched."""
    async with open_store() as store:
        nobody, forgotten, somebody = new_scope(), new_scope(), new_scope()
        memory = (await store.apply([new_create(owner=forgotten)], now=NOW))[0]
        changes = [Patch(scope=nobody, id=uuid4(), kind="habit"), new_create(owner=somebody)]
        missing, made = await store.apply(changes, now=NOW)
        assert (missing.refused.slug, made.version) == ("not-found", 1)
        async with store._pool.connection() as connection:
            assert await connection.fetchval("SELECT count(*) FROM scopes WHERE scope_id = $1", nobody.id) == 0
            async with connection.transaction():
                await connection.execute(
                    "UPDATE scopes SET version = version + 1, user_id = NULL WHERE scope_id = $1", forgotten.id
                )
                waiting = asyncio.create_task(
                    store.apply([Delete(scope=forgotten, id=memory.id), new_create(owner=somebody)], now=NOW)
                )
                async with asyncio.timeout(10):
                    while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                        await asyncio.sleep(0)
            missing, made = await waiting
            assert (missing.refused.slug, made.version) == ("not-found", 2)
            state = "SELECT version, user_id FROM scopes WHERE scope_id = $1"
            assert tuple(await connection.fetchrow(state, forgotten.id)) == (2, None)


@pytest.mark.parametrize("count", [3, 40])
async def test_one_transaction_of_many_users(open_store, new_create, new_scope, count):
    """Each has its own version, outcomes stand in the order of the changes, few rows and many alike."""
    async with open_store() as store:
        scopes = [new_scope() for _ in range(count)]
        creates = [new_create(owner=scope, fresh_id=True) for scope in [*scopes, *scopes]]
        outcomes = await store.apply(creates, now=NOW)
        assert [outcome.version for outcome in outcomes] == [1] * count + [2] * count
        changes = [
            change
            for create in creates[:count]
            for change in (
                Patch(scope=create.scope, id=create.memory.id, text="other", vector=create.vector),
                Patch(scope=create.scope, id=create.memory.id, expires_at=datetime(2031, 1, 1, tzinfo=UTC)),
                Delete(scope=create.scope, id=uuid4()),
            )
        ]
        outcomes = await store.apply(changes, now=NOW)
        assert [outcome.refused and outcome.refused.slug for outcome in outcomes] == [None, None, "not-found"] * count
        for scope in scopes:
            user = await store.user(scope)
            assert (user.memories, user.version) == (2, 5)
            loaded = await store.load(scope)
            assert sorted(memory.text for memory in loaded.memories) == ["other", "text"]
            assert len(loaded.vectors) == 2


async def test_every_kind_of_write_at_once_keeps_the_count_right(open_store, new_create, new_scope, ids_of):
    """Creates, changes, deletes and forgets of two users: the count is that of the rows, nothing deadlocks."""
    async with open_store(size=8, acquire_timeout_s=30.0) as store:
        scopes = [new_scope(), new_scope()]
        ids = [uuid4() for _ in range(6)]

        async def work(seed):
            for step in range(15):
                scope, target = scopes[(seed + step) % 2], ids[(seed * 7 + step) % 6]
                choice = (seed + step) % 5
                if choice == 4:
                    await store.forget(scope, now=NOW)
                    continue
                change = [
                    new_create(target, scope, on_conflict="update"),
                    Delete(scope=scope, id=target),
                    Patch(scope=scope, id=target, kind="changed"),
                    new_create(target, scope, on_conflict="ignore"),
                ][choice]
                other = new_create(owner=scopes[(seed + step + 1) % 2])
                await store.apply([change, other] if seed % 2 else [other, change], now=NOW)

        await asyncio.gather(*(work(seed) for seed in range(8)))
        for scope in scopes:
            user = await store.user(scope)
            memories = await store.list(scope, Listing(limit=1000), now=NOW)
            assert (user.memories if user else 0) == len(memories.memories)


async def test_an_exhausted_pool_is_unavailable_within_its_time(open_store, new_create, scope):
    """Every connection is taken: refused after the wait for one, and well again when they are back."""
    async with open_store(size=2, acquire_timeout_s=0.2) as store:
        async with store._pool.connection(), store._pool.connection():
            started = time.monotonic()
            with pytest.raises(Overloaded, match=r"no database connection became free within 0\.2 s"):
                await store.apply([new_create()], now=NOW)
            assert 0.15 < time.monotonic() - started < 10
        assert (await store.apply([new_create()], now=NOW))[0].version == 1


async def test_a_statement_over_its_time_is_a_deadline(open_store, new_create, scope):
    """It is cancelled on the server too, and the connection is used again."""
    async with open_store(size=1, command_timeout_s=0.3) as store:
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                async with store._pool.connection() as connection:
                    await connection.execute("SELECT pg_sleep(60)")
        assert (await store.apply([new_create()], now=NOW))[0].version == 1


async def test_a_write_that_waits_for_a_lock_too_long_writes_nothing(open_store, new_create, scope, ids_of):
    """Another session holds the user's row: refused in time, nothing written, then well again."""
    async with open_store(size=3, command_timeout_s=0.4) as store, open_store(size=1) as other:
        await store.apply([new_create()], now=NOW)
        async with other._pool.connection() as connection, connection.transaction():
            await connection.execute("SELECT FROM scopes WHERE scope_id = $1 FOR UPDATE", scope.id)
            with pytest.raises(Unavailable) as refused:
                await store.apply([new_create(), new_create()], now=NOW)
            assert refused.value.slug in {"deadline-exceeded", "store-unavailable"}
        assert len(await ids_of(store, scope)) == 1
        assert (await store.apply([new_create()], now=NOW))[0].version == 2


async def test_a_cancelled_write_gives_its_connection_back(open_store, new_create, scope, ids_of):
    """Whoever is cancelled in the middle leaves no transaction open and no connection lost."""
    async with open_store(size=1) as store, open_store(size=1) as other:
        await store.apply([new_create()], now=NOW)
        for _ in range(5):
            async with other._pool.connection() as connection, connection.transaction():
                await connection.execute("SELECT FROM scopes WHERE scope_id = $1 FOR UPDATE", scope.id)
                task = asyncio.create_task(store.apply([new_create()], now=NOW))
                async with asyncio.timeout(10):
                    while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                        await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        assert (await store.apply([new_create()], now=NOW))[0].version == 2
        assert len(await ids_of(store, scope)) == 2
