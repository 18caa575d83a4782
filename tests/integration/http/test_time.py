"""Requests that take too long: an honest answer in time, and no write that is half done."""

import asyncio
from uuid import uuid4

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def settings():
    """Short times, and statements that may wait longer than a request."""
    return {"server.request_timeout_s": 0.6, "server.body_timeout_s": 0.3, "postgres.command_timeout_s": 8.0}


async def dripping():
    """A body that begins and never ends."""
    yield b'{"user_id":'
    await asyncio.Event().wait()


@pytest.mark.parametrize("headers", [{}, {"content-length": "1000"}], ids=["chunked", "declared"])
async def test_a_body_that_does_not_arrive_is_a_408(api, headers, check_problem):
    """Whether it said how long it would be or not; the next request is served."""
    response = await api.client.post("/v1/memories", content=dripping(), headers=headers)
    check_problem(response, 408, "request-timeout", says="0.3 s")
    assert (await api.client.get("/v1/health/live")).status_code == 200


async def test_a_write_that_outlasts_the_request_is_called_unknown_and_then_happens(api, user, check_problem):
    """504 outcome-unknown while the write waits for a lock; it is not cut off, and can be read back."""
    await api.create(user, "first")
    memory_id = str(uuid4())
    async with api.database() as connection:
        async with connection.transaction():
            await connection.execute("SELECT FROM scopes WHERE user_id = $1 FOR UPDATE", user)
            response = await api.client.post("/v1/memories", json={"user_id": user, "text": "late", "id": memory_id})
            check_problem(response, 504, "outcome-unknown", says="read it back")
            assert response.headers["retry-after"]
            assert (await api.get(user, memory_id)).status_code == 404
        async with asyncio.timeout(10):
            while (await api.get(user, memory_id)).status_code != 200:
                await asyncio.sleep(0)
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == 2


async def test_a_read_that_outlasts_the_request_is_a_deadline(api, user, check_problem):
    """504 deadline-exceeded; nothing hangs on to the connection."""
    await api.create(user, "first")
    async with api.database() as connection, connection.transaction():
        await connection.execute("LOCK TABLE memories IN ACCESS EXCLUSIVE MODE")
        check_problem(await api.listing(user), 504, "deadline-exceeded")
        check_problem(await api.search(user, embedding=[1.0] * 256), 504, "deadline-exceeded")
    assert (await api.listing(user)).status_code == 200


async def test_a_cancelled_request_does_not_stop_its_write(api, user):
    """The client goes away in the middle: the write is finished all the same, and counted once."""
    await api.create(user, "first")
    async with api.database() as connection:
        async with connection.transaction():
            await connection.execute("SELECT FROM scopes WHERE user_id = $1 FOR UPDATE", user)
            task = asyncio.create_task(api.client.post("/v1/memories", json={"user_id": user, "text": "second"}))
            async with asyncio.timeout(10):
                while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        async with asyncio.timeout(10):
            while len((await api.listing(user)).json()["memories"]) != 2:
                await asyncio.sleep(0)
    assert (await api.client.get(f"/v1/users/{user}")).json()["version"] == 2


async def test_a_batch_that_is_over_its_time_is_written_whole_or_not_at_all(api, user):
    """Ten at once behind a lock: all of them or none, never some."""
    await api.create(user, "first")
    async with api.database() as connection:
        async with connection.transaction():
            await connection.execute("SELECT FROM scopes WHERE user_id = $1 FOR UPDATE", user)
            body = {"user_id": user, "memories": [{"text": str(number)} for number in range(10)]}
            assert (await api.client.post("/v1/memories/batch", json=body)).status_code == 504
        async with asyncio.timeout(10):
            while (found := len((await api.listing(user, limit=100)).json()["memories"])) == 1:
                await asyncio.sleep(0)
    assert found == 11
