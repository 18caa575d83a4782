"""What time takes away: expired memories, old history, old tombstones; and the queue that does it."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from memfast.errors import StoreUnavailable
from memfast.resilience.clock import SystemClock
from memfast.service import sweeps as sweeps_module
from memfast.service.access import Keyring, Principal
from memfast.service.sweeps import Sweeps
from memfast.store import sweeper as sweeper_module
from memfast.store.keys import PostgresKeys
from memfast.store.sweeper import PostgresSweeper

pytestmark = pytest.mark.asyncio(loop_scope="module")

RETENTION = timedelta(days=30)
PAST = "2001-01-01T00:00:00Z"


class Later(SystemClock):
    """The wall clock, some days ahead."""

    def __init__(self, days=0.0):
        self.days = days

    def now(self):
        return super().now() + timedelta(days=self.days)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Few rows a transaction and few scopes a statement, so that a handful is many."""
    monkeypatch.setattr(sweeps_module, "STEP_ROWS", 3)
    monkeypatch.setattr(sweeper_module, "_WALK_SCOPES", 2)


@pytest.fixture
def sweep(api):
    """Function: make both sweeps as if it were some days later, and wait until all of it is done."""
    services = api.services

    async def made(days=0.0):
        pool = services.recall._store._pool
        sweeps = Sweeps(PostgresSweeper(pool), services.forget._writer, services.background, Later(days), RETENTION)
        await sweeps.expire()
        await services.background.join()
        await sweeps.erase()
        await services.background.join()

    return made


async def rows(api, user):
    """The user's rows: live, tombstones, vectors, history; and the mark of what was purged."""
    async with api.database() as connection:
        return tuple(
            await connection.fetchrow(
                """SELECT (SELECT count(*) FROM memories m WHERE m.scope_id = s.scope_id AND deleted_at IS NULL),
                          (SELECT count(*) FROM memories m WHERE m.scope_id = s.scope_id AND deleted_at IS NOT NULL),
                          (SELECT count(*) FROM memory_vectors v WHERE v.scope_id = s.scope_id),
                          (SELECT count(*) FROM history h WHERE h.scope_id = s.scope_id), purged_to
                   FROM scopes s WHERE user_id = $1""",
                user,
            )
        )


async def events(api, user, memory_id):
    """What happened to a memory."""
    answer = await api.client.get(f"/v1/memories/{memory_id}/history", params={"user_id": user})
    return [(each["event"], each.get("text")) for each in answer.json().get("events", [])]


async def many(api, user, count):
    """So many memories that have expired; their ids."""
    memories = [await api.create(user, f"text {number}") for number in range(count)]
    for memory in memories:
        await api.patch(user, memory["id"], {"expires_at": PAST})
    return [memory["id"] for memory in memories]


async def test_expired_memories_are_removed_in_steps(api, user, sweep):
    """Seven by threes: tombstones are left, texts are in history, the count is right, what lives is untouched."""
    kept = await api.create(user, "kept", expires_at=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    ids = await many(api, user, 7)
    before = (await api.client.get(f"/v1/users/{user}")).json()
    assert await rows(api, user) == (8, 0, 8, 7, 0)
    await sweep()
    assert await rows(api, user) == (1, 7, 1, 14, 0)
    after = (await api.client.get(f"/v1/users/{user}")).json()
    assert (before["memories"], after["memories"]) == (8, 1)
    assert after["version"] == before["version"] + 7
    for memory_id in ids:
        assert [event for event, _ in await events(api, user, memory_id)] == ["created", "updated", "deleted"]
        assert (await api.get(user, memory_id)).status_code == 404
        assert (await api.delete(user, memory_id)).status_code == 204
    assert (await api.get(user, kept["id"])).json() == kept


async def test_every_user_has_a_turn(api, sweep):
    """More users than one statement looks at, with others between them of whom nothing is due."""
    users = [api.new_user() for _ in range(7)]
    for number, user in enumerate(users):
        await api.create(user, "kept", expires_at="2500-01-01T00:00:00Z")
        if number % 2:
            await many(api, user, 1)
    await sweep()
    for number, user in enumerate(users):
        assert (await rows(api, user))[:2] == (1, number % 2)


async def test_warm_copies_follow(api, user, sweep):
    """A shard in memory loses what was removed, by the same way as any delete, and the copy on disk goes."""
    scope = api.services.access.scope(Principal("default", None, "admin"), user)
    await many(api, user, 2)
    await api.create(user, "kept")
    assert await api.services.warm.load(scope)
    shards = api.services.shards
    shards.save(scope, shards.get(scope.id))
    assert len(shards.get(scope.id)) == 3
    await sweep()
    found = await api.search(user, query="kept")
    assert found.headers["memfast-tier"] == "warm"
    assert [hit["text"] for hit in found.json()["results"]] == ["kept"]
    assert len(shards.get(scope.id)) == 1
    assert shards.restore(scope) is None


async def test_a_memory_that_came_anew_is_not_removed(api, user):
    """Between the look and the removal its id was used again: it stays."""
    (memory_id,) = await many(api, user, 1)
    services = api.services

    class Slow(PostgresSweeper):
        async def expired(self, *arguments, **named):
            ids = await super().expired(*arguments, **named)
            await api.create(user, "anew", id=memory_id)
            return ids

    slow = Slow(services.recall._store._pool)
    sweeps = Sweeps(slow, services.forget._writer, services.background, services.clock, RETENTION)
    await sweeps.expire()
    await services.background.join()
    assert (await api.get(user, memory_id)).json()["text"] == "anew"


async def test_old_history_and_tombstones_are_erased(api, user, sweep):
    """Beyond the retention: texts and tombstones go in steps, what was purged is marked, what lives stays."""
    changed = await api.create(user, "0")
    for number in range(1, 6):
        await api.patch(user, changed["id"], {"text": str(number)})
    gone = [await api.create(user, f"gone {number}") for number in range(5)]
    for memory in gone:
        await api.delete(user, memory["id"])
    last = (await api.client.get(f"/v1/users/{user}")).json()["version"]
    await sweep(29.9)
    assert await rows(api, user) == (1, 5, 1, 10, 0)
    await sweep(30.1)
    assert await rows(api, user) == (1, 0, 1, 0, last)
    assert await events(api, user, changed["id"]) == [("updated", "5")]
    for memory in gone:
        assert await events(api, user, memory["id"]) == []
        assert (await api.delete(user, memory["id"])).status_code == 404


async def test_copies_that_missed_a_tombstone_load_anew(api, user, sweep):
    """A shard from before the delete cannot learn of it by a delta any more: it is loaded again, and never shows it."""
    scope = api.services.access.scope(Principal("default", None, "admin"), user)
    await api.create(user, "kept")
    gone = await api.create(user, "gone")
    assert await api.services.warm.load(scope)
    old = api.services.shards.get(scope.id)
    await api.delete(user, gone["id"])
    await sweep(30.1)
    delta = await api.services.recall._store.changes_since(scope, old.version)
    assert delta.purged_to > old.version
    assert old.apply(delta) is None
    found = await api.search(user, query="gone")
    assert [hit["text"] for hit in found.json()["results"]] == ["kept"]


async def test_an_id_lives_on_beside_the_sweep(api, user, sweep):
    """A tombstone whose id is being used again is not taken from under the write: the user's row is locked first."""
    memory = await api.create(user, "first life")
    await api.delete(user, memory["id"])
    failed = api.services.background.snapshot().dead
    async with api.database() as connection:

        async def waiting(count):
            async with asyncio.timeout(10):
                while await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < count:
                    await asyncio.sleep(0)

        async with connection.transaction():
            await connection.execute("SELECT FROM scopes WHERE user_id = $1 FOR UPDATE", user)
            creating = asyncio.create_task(api.create(user, "second life", id=memory["id"]))
            await waiting(1)
            sweeping = asyncio.create_task(sweep(30.1))
            await waiting(2)
        await asyncio.gather(sweeping, creating)
    assert (await api.get(user, memory["id"])).json()["text"] == "second life"
    assert api.services.background.snapshot().dead == failed


async def test_one_worker_makes_each_sweep(api):
    """Of many that ask at one moment one is let; again when the time is over, or when the noted time is ahead."""
    sweepers = [PostgresSweeper(api.services.recall._store._pool) for _ in range(5)]
    now, half = datetime.now(UTC), timedelta(seconds=30)

    async def ask(at):
        claims = await asyncio.gather(*(each.claim("test", now=at, unless_within=half) for each in sweepers))
        return sorted(claims)

    assert await ask(now) == [False] * 4 + [True]
    assert await ask(now + half / 2) == [False] * 5
    assert await ask(now + half) == [False] * 4 + [True]
    assert await sweepers[0].claim("other", now=now, unless_within=half)
    assert await ask(now - timedelta(days=365)) == [False] * 4 + [True]


async def test_the_watch_sweeps_by_itself(api, user):
    """Without anybody asking, at its interval; a round that fails is not the last."""
    services = api.services
    failures = [StoreUnavailable("away"), ValueError("broken")]

    class Failing(PostgresSweeper):
        async def claim(self, *arguments, **named):
            if failures:
                raise failures.pop()
            return await super().claim(*arguments, **named)

    sweeps = Sweeps(
        Failing(services.recall._store._pool), services.forget._writer, services.background, services.clock, RETENTION
    )
    await many(api, user, 1)
    task = asyncio.create_task(sweeps.watch(0.01, 0.01))
    try:
        async with asyncio.timeout(20):
            while (await rows(api, user))[1] != 1:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert not failures


async def test_the_queue_is_shown_to_administrators(api, sweep):
    """Its bounds, its counts, and what failed; nobody else sees it."""
    await sweep()
    background = (await api.client.get("/v1/background")).json()["background"]
    assert (background["queued"], background["running"], background["queue_limit"]) == (0, 0, 1000)
    assert background["done"] > 0

    async def fails():
        raise StoreUnavailable("away")

    assert api.services.background.offer("a task that fails", fails)
    await api.services.background.join()
    letter = (await api.client.get("/v1/background")).json()["background"]["dead_letters"][0]
    assert letter["name"] == "a task that fails"
    assert letter["error"] == "StoreUnavailable: away"
    keyring = Keyring(PostgresKeys(api.services.recall._store._pool), SystemClock())
    key = await keyring.create(namespace="default", user_id=None, role="user")
    await api.services.coherence.check()
    try:
        answer = await api.client.get("/v1/background", headers={"authorization": f"Bearer {key.secret}"})
        assert answer.status_code == 403
    finally:
        async with api.database() as connection:
            await connection.execute("DELETE FROM api_keys; UPDATE database SET keys_generation = 0")
        await api.services.coherence.check()
