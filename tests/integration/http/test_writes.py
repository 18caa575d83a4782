"""Writes that share transactions, over the real database: who is told what, and what stands."""

import asyncio
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import msgspec
import numpy as np
import pytest

from memfast.model import Create
from memory_world import memory_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@asynccontextmanager
async def locked(api, user_id):
    """Hold the lock of a user's row, as a long transaction of somebody else would."""
    async with api.database() as connection, connection.transaction():
        scope = api.services.access.scope(api.services.access.recognise(None), user_id)
        assert await connection.fetchval("SELECT version FROM scopes WHERE scope_id = $1 FOR UPDATE", scope.id)
        yield


@asynccontextmanager
async def own_api(open_api, make_site, server, **settings):
    """An application of a test's own."""
    async with open_api(make_site(server.new_database(), **settings)) as api:
        yield api


async def until(condition):
    """Wait for a condition, with a bound."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def under_way(api):
    """Writes that were sent or wait."""
    counters = api.services.writer.snapshot()
    return counters.under_way, counters.waiting_interactive


async def test_writers_at_once_share_transactions(api):
    """Each change has a version of its own, in each user without a gap; there are fewer transactions than changes."""
    users = [api.new_user() for _ in range(8)]
    before = api.services.writer.snapshot()
    made = await asyncio.gather(*(api.create(user, f"text {row}") for row in range(12) for user in users))
    after = api.services.writer.snapshot()
    assert after.changes - before.changes == len(made)
    assert after.flushes - before.flushes < len(made) / 4
    for position, user in enumerate(users):
        versions = [memory["version"] for memory in made[position :: len(users)]]
        assert versions == list(range(1, 13))
        listed = (await api.listing(user, limit=100)).json()["memories"]
        assert {each["id"] for each in listed} == {memory["id"] for memory in made[position :: len(users)]}


async def test_changes_of_one_memory_in_one_transaction(api, user):
    """Two changes are two versions; what comes after a delete finds nothing; creating it anew is possible."""
    memory = await api.create(user)
    other = await api.create(api.new_user())
    async with locked(api, other["user_id"]):
        first = asyncio.create_task(api.patch(other["user_id"], other["id"], {"kind": "held"}))
        await until(lambda: under_way(api) == (1, 0))
        calls = [
            api.patch(user, memory["id"], {"kind": "a"}),
            api.patch(user, memory["id"], {"tags": ["b"]}),
            api.delete(user, memory["id"]),
            api.patch(user, memory["id"], {"kind": "c"}),
            api.create(user, "again", id=memory["id"]),
        ]
        tasks = [asyncio.create_task(call) for call in calls]
        results = await asyncio.gather(*tasks)
        assert not first.done()
    assert (await first).status_code == 200
    assert [result.status_code for result in results[:4]] == [200, 200, 204, 404]
    assert [results[0].json()["version"], results[1].json()["version"], results[4]["version"]] == [2, 3, 6]
    assert (results[1].json()["kind"], results[1].json()["tags"]) == ("a", ["b"])
    assert [result.headers.get("memfast-version") for result in results[:4]] == ["2", "3", "4", None]
    assert (await api.get(user, memory["id"])).json()["text"] == "again"


def unwritable(api, user_id):
    """A create that every check has let pass and PostgreSQL refuses: text cannot hold NUL."""
    scope = api.services.access.scope(api.services.access.recognise(None), user_id)
    vector = np.zeros(api.site.prepared.dimensions, np.float32)
    vector[0] = 1
    memory = memory_of(api.services.clock.now(), id=uuid4(), user_id=user_id, text="a\0b")
    return Create(scope=scope, memory=memory, vector=vector)


async def test_a_change_that_the_database_refuses_fails_alone(api, user):
    """The others of its transaction are written, once each, by themselves."""
    other = await api.create(api.new_user())
    async with locked(api, other["user_id"]):
        first = asyncio.create_task(api.patch(other["user_id"], other["id"], {"kind": "held"}))
        await until(lambda: under_way(api) == (1, 0))
        good = [asyncio.create_task(api.create(user, f"text {row}")) for row in range(4)]
        bad = asyncio.create_task(api.services.writer.commit([unwritable(api, user)]))
        good += [asyncio.create_task(api.create(api.new_user())) for row in range(4)]
        made = await asyncio.gather(*good)
        with pytest.raises(asyncpg.PostgresError):
            await bad
    await first
    assert [memory["version"] for memory in made] == [1, 2, 3, 4, 1, 1, 1, 1]
    assert len((await api.listing(user)).json()["memories"]) == 4
    assert (await api.search(user, query="text 1", limit=9)).json()["version"] == 4


async def test_a_batch_with_an_item_that_the_database_refuses(api, user):
    """The item's outcome says so, the others are written."""
    good = unwritable(api, user)
    good = msgspec.structs.replace(good, memory=msgspec.structs.replace(good.memory, id=uuid4(), text="good"))
    outcomes = await api.services.writer.commit([good, unwritable(api, user)])
    assert outcomes[0].status == "created"
    assert outcomes[1].refused.status == 500
    assert [memory["text"] for memory in (await api.listing(user)).json()["memories"]] == ["good"]


async def test_a_user_whose_row_is_held_stops_nobody_else(open_api, make_site, server):
    """Their change is told that its time is up; the others of the same transaction are written meanwhile."""
    async with own_api(open_api, make_site, server, postgres__command_timeout_s=1.0) as api:
        held, busy, free = [api.new_user() for _ in range(3)]
        for user in (held, busy):
            await api.create(user)
        async with locked(api, held), locked(api, busy):
            first = asyncio.create_task(api.client.post("/v1/memories", json={"user_id": busy, "text": "waits"}))
            await until(lambda: under_way(api) == (1, 0))
            stuck = asyncio.create_task(api.client.post("/v1/memories", json={"user_id": held, "text": "waits"}))
            others = [asyncio.create_task(api.create(free, f"text {row}")) for row in range(5)]
            assert [memory["version"] for memory in await asyncio.gather(*others)] == [1, 2, 3, 4, 5]
            assert not stuck.done()
            assert (await stuck).status_code == (await first).status_code == 504
        for user in (held, busy):
            assert len((await api.listing(user)).json()["memories"]) == 1
            assert (await api.create(user))["version"] == 2


async def test_a_full_queue_is_told_at_once(open_api, make_site, server, check_problem):
    """429 with a hint when to come again, for single changes and for batches; what waits is written in the end."""
    settings = {"writes__queue_items": 2, "writes__queue_batch_items": 2}
    async with own_api(open_api, make_site, server, **settings) as api:
        user = api.new_user()
        await api.create(user)
        async with locked(api, user):
            tasks = [asyncio.create_task(api.create(user, f"text {row}")) for row in range(3)]
            await until(lambda: under_way(api) == (1, 2))
            refused = await api.client.post("/v1/memories", json={"user_id": user, "text": "one too many"})
            check_problem(refused, 429, "queue-full", says="nothing was written")
            assert refused.headers["retry-after"] == "1"
            batches = [asyncio.create_task(api.create_many(user, [{"text": "a"}, {"text": "b"}])) for _ in range(2)]
            await until(lambda: api.services.writer.snapshot().waiting_background == 2)
            items = {"user_id": user, "memories": [{"text": "c"}, {"text": "d"}]}
            check_problem(await api.client.post("/v1/memories/batch", json=items), 429, "queue-full")
            assert len((await api.listing(user)).json()["memories"]) == 1  # reads go on meanwhile
        await asyncio.gather(*tasks, *batches)
        assert len((await api.listing(user)).json()["memories"]) == 8


async def test_a_caller_out_of_time(open_api, make_site, server, check_problem):
    """A change that still waits is taken back: nothing of it is written. One that was sent may have been."""
    async with own_api(open_api, make_site, server, server__write_timeout_s=1.0) as api:
        user = api.new_user()
        await api.create(user, "before")
        async with locked(api, user):
            sent = asyncio.create_task(api.client.post("/v1/memories", json={"user_id": user, "text": "sent"}))
            await until(lambda: under_way(api) == (1, 0))
            waiting = asyncio.create_task(api.client.post("/v1/memories", json={"user_id": user, "text": "waits"}))
            check_problem(await sent, 504, "outcome-unknown")
            check_problem(await waiting, 504, "deadline-exceeded")
            assert under_way(api) == (1, 0)
        await until(lambda: under_way(api) == (0, 0))
        texts = {memory["text"] for memory in (await api.listing(user)).json()["memories"]}
        assert texts == {"before", "sent"}


async def test_the_end_takes_nothing_more_and_finishes_what_it_has(open_api, make_site, server, check_problem):
    """503 with a hint for what comes, an answer for what is there."""
    async with own_api(open_api, make_site, server) as api:
        user = api.new_user()
        await api.create(user)
        async with locked(api, user):
            tasks = [asyncio.create_task(api.create(user, f"text {row}")) for row in range(3)]
            await until(lambda: under_way(api) == (1, 2))
            draining = asyncio.create_task(api.services.writer.drain(20))
            await asyncio.sleep(0)
            refused = await api.client.post("/v1/memories", json={"user_id": user, "text": "too late"})
            check_problem(refused, 503, "stopping", says="nothing was written")
            assert refused.headers["retry-after"] == "1"
        await draining
        assert [memory["version"] for memory in await asyncio.gather(*tasks)] == [2, 3, 4]
        assert {UUID(memory["id"]) for memory in (await api.listing(user)).json()["memories"]}
