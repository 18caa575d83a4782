"""Requests that take too long: an honest answer in time, and no write that is half done."""

import asyncio
from uuid import uuid4

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def settings():
    """Short times, and statements that may wait longer than a request."""
    return {
        "server.read_timeout_s": 0.6,
        "server.write_timeout_s": 0.6,
        "server.body_timeout_s": 0.3,
        "postgres.command_timeout_s": 8.0,
    }


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


@pytest.mark.parametrize("asked", ["0", "-1", "1.5", "soon", "", "1234567890"])
async def test_a_time_that_is_none_is_refused(api, user, check_problem, asked):
    """Milliseconds, as a whole number from 1 on."""
    response = await api.client.get("/v1/users", headers={"Memfast-Timeout-Ms": asked})
    check_problem(response, 400, "invalid-request", says="from 1 to 30000")


async def test_a_client_says_how_long_it_will_wait(api, user, check_problem):
    """Less or more than the default, and no more than the service allows."""
    await api.create(user, "first")
    async with api.database() as connection, connection.transaction():
        await connection.execute("LOCK TABLE memories IN ACCESS EXCLUSIVE MODE")
        for asked, says in (("50", "its 0.05 s"), ("700", "its 0.7 s")):
            response = await api.client.get(
                "/v1/memories", params={"user_id": user}, headers={"Memfast-Timeout-Ms": asked}
            )
            check_problem(response, 504, "deadline-exceeded", says=says)
    response = await api.client.get(f"/v1/users/{user}", headers={"Memfast-Timeout-Ms": "999999999"})
    assert response.status_code == 200


async def running(api, words):
    """Statements at the server that hold these words and run now."""
    async with api.database() as connection:
        return await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE $1",
            f"%{words}%",
        )


@pytest.mark.parametrize("how", ["late", "gone"])
async def test_nothing_runs_on_at_the_server_for_a_read_that_nobody_waits_for(api, user, how):
    """Neither after its time nor after its client has left: its statement is cancelled, and shared work with it."""
    await api.create(user, "first")
    async with api.database() as connection, connection.transaction():
        await connection.execute("LOCK TABLE memories IN ACCESS EXCLUSIVE MODE")
        asked = "60000" if how == "gone" else "400"
        search = asyncio.create_task(
            api.client.post(
                "/v1/search",
                json={"user_id": user, "embedding": [1.0] * 256},
                headers={"Memfast-Timeout-Ms": asked},
            )
        )
        async with asyncio.timeout(10):
            while not await running(api, "memory_vectors"):
                await asyncio.sleep(0.01)
        if how == "gone":
            search.cancel()
        await asyncio.wait([search])
        async with asyncio.timeout(10):
            while await running(api, "memory_vectors"):
                await asyncio.sleep(0.01)


async def test_more_than_can_be_under_way_is_refused(api, user, check_problem, monkeypatch):
    """At once, with a hint; health is answered all the same, and so is what is kept."""
    await api.create(user, "first")
    await api.listing(user)
    monkeypatch.setattr(api.edge, "_under_way", 512)
    response = await api.client.get(f"/v1/users/{user}")
    check_problem(response, 503, "overloaded", says="512 requests are under way")
    assert response.headers["retry-after"] == "1"
    assert (await api.client.get("/v1/health")).status_code == 200
    assert (await api.listing(user)).headers["memfast-tier"] == "hot"
