"""What happened to a memory, bringing it back, and erasing it for good."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from memfast.errors import NotFound
from memfast.resilience.clock import SystemClock
from memfast.service.access import Keyring, Principal
from memfast.service.history import History
from memfast.store.keys import PostgresKeys

pytestmark = pytest.mark.asyncio(loop_scope="module")

TABLES = """SELECT quote_ident(table_name) FROM information_schema.tables
            WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"""


async def history(api, user, memory_id, **parameters):
    """The answer of the route."""
    return await api.client.get(f"/v1/memories/{memory_id}/history", params={"user_id": user} | parameters)


async def undelete(api, user, memory_id, **arguments):
    """The answer of the route."""
    return await api.client.post(f"/v1/memories/{memory_id}/undelete", params={"user_id": user}, **arguments)


async def purge(api, user, memory_id, value="true", **arguments):
    """The answer to a delete that erases history too."""
    parameters = {"user_id": user, "purge": value}
    return await api.client.delete(f"/v1/memories/{memory_id}", params=parameters, **arguments)


async def events(api, user, memory_id):
    """What each event was, its version, and what was said after and before."""
    found = (await history(api, user, memory_id)).json()["events"]
    return [(each["event"], each["version"], each.get("text"), each.get("previous_text")) for each in found]


async def tables_with(api, words):
    """The tables of which a row holds these words, anywhere, as text or as bytes."""
    async with api.database() as connection:
        names = [row[0] for row in await connection.fetch(TABLES)]
        assert "history" in names
        return [
            name
            for name in names
            if await connection.fetchval(
                f"SELECT count(*) FROM {name} t WHERE t::text LIKE $1 OR t::text LIKE $2",
                f"%{words}%",
                f"%{words.encode().hex()}%",
            )
        ]


@contextlib.contextmanager
def days_later(api, days):
    """Time has gone by for history alone."""

    class Later(SystemClock):
        def now(self):
            return super().now() + timedelta(days=days)

    services = api.services.history
    before = services._clock
    services._clock = Later()
    try:
        yield
    finally:
        services._clock = before


async def test_a_life_from_first_to_last(api, user):
    """Created, changed twice, deleted, brought back: every event with its version, its time and what was said."""
    before = datetime.now(UTC)
    memory = await api.create(user, "first", tags=["a"], metadata={"n": 1.50}, created_at="2020-01-01T00:00:00Z")
    await api.patch(user, memory["id"], {"text": "second"})
    last = (await api.patch(user, memory["id"], {"importance": 0.9})).json()
    assert (await api.delete(user, memory["id"])).status_code == 204
    back = await undelete(api, user, memory["id"])
    assert back.status_code == 200
    assert back.json() == last | {"version": 5}
    assert back.headers["etag"] == '"5"'
    assert back.headers["memfast-token"]
    assert await events(api, user, memory["id"]) == [
        ("created", 1, "first", None),
        ("updated", 2, "second", "first"),
        ("updated", 3, "second", "second"),
        ("deleted", 4, None, "second"),
        ("undeleted", 5, "second", None),
    ]
    answer = await history(api, user, memory["id"])
    assert answer.headers["memfast-version"] == "5"
    times = [datetime.fromisoformat(each["at"]) for each in answer.json()["events"]]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= datetime.now(UTC)
    assert (await api.get(user, memory["id"])).json() == back.json()
    assert (await api.search(user, query="second", mode="vector")).json()["results"][0]["score"] > 0.999
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == 1


async def test_the_key_that_asked_is_named(api, user):
    """The id of each key stands beside what it did; what was done without one has none."""
    memory = await api.create(user, "without a key")
    keyring = Keyring(PostgresKeys(api.services.recall._store._pool), SystemClock())
    one, two = [await keyring.create(namespace="default", user_id=None, role="user") for _ in range(2)]
    await api.services.coherence.check()
    first, second = [{"authorization": f"Bearer {key.secret}"} for key in (one, two)]
    try:
        await api.patch(user, memory["id"], {"text": "changed"}, headers=first)
        await api.delete(user, memory["id"], headers=second)
        await undelete(api, user, memory["id"], headers=first)
        body = {"user_id": user, "memories": [{"text": "in a batch"}]}
        batch = await api.client.post("/v1/memories/batch", json=body, headers=second)
        other = batch.json()["results"][0]["id"]
        found = (await history(api, user, memory["id"], limit=10)).status_code
        assert found == 401
        told = [
            [each.get("actor") for each in answer.json()["events"]]
            for answer in [
                await api.client.get(f"/v1/memories/{target}/history", params={"user_id": user}, headers=first)
                for target in (memory["id"], other)
            ]
        ]
        ids = {one.record.id: "one", two.record.id: "two", None: None}
        assert [[ids[key] for key in row] for row in told] == [[None, "one", "two", "one"], ["two"]]
    finally:
        async with api.database() as connection:
            await connection.execute("DELETE FROM api_keys; UPDATE database SET keys_generation = 0")
        await api.services.coherence.check()


async def test_pages_follow_each_other(api, user):
    """By any size the same events, each with what was said before it, though that stood on the page before."""
    memory = await api.create(user, "0")
    for number in range(1, 7):
        await api.patch(user, memory["id"], {"text": str(number)})
    whole = (await history(api, user, memory["id"])).json()
    assert not whole["has_more"]
    assert [each.get("previous_text") for each in whole["events"]] == [None, *"012345"]
    for limit in (1, 2, 3, 7):
        found, cursor = [], None
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            page = (await history(api, user, memory["id"], limit=limit, **more)).json()
            found += page["events"]
            cursor = page["next_cursor"]
            assert page["has_more"] is (cursor is not None)
            if cursor is None:
                break
        assert found == whole["events"]


async def test_a_cursor_belongs_to_one_memory(api, user, check_problem):
    """Of another memory, another user, another listing, or made up: 400."""
    memory, other = await api.create(user, "a"), await api.create(user, "b")
    await api.patch(user, memory["id"], {"text": "c"})
    cursor = (await history(api, user, memory["id"], limit=1)).json()["next_cursor"]
    for wrong in ((user, other["id"], cursor), (f"{user}-x", memory["id"], cursor), (user, memory["id"], "x")):
        check_problem(await history(api, wrong[0], wrong[1], cursor=wrong[2]), 400, "invalid-request", "cursor")
    for limit in (0, 1001):
        check_problem(await history(api, user, memory["id"], limit=limit), 400, "invalid-request", "limit")


async def test_the_past_of_one_user_is_nobody_elses(api, user, check_problem):
    """Whatever the state of a memory, for every other user its history and its return do not exist."""
    stranger = api.new_user()
    await api.create(stranger, "mine")
    memory = await api.create(user, "secret")
    for _ in range(2):
        check_problem(await history(api, stranger, memory["id"]), 404, "not-found")
        check_problem(await undelete(api, stranger, memory["id"]), 404, "not-found")
        await api.patch(user, memory["id"], {"text": "secret still"})
        await api.delete(user, memory["id"])
    check_problem(await history(api, api.new_user(), memory["id"]), 404, "not-found")
    copy = await api.create(stranger, "the same id", id=memory["id"])
    assert await events(api, stranger, memory["id"]) == [("created", copy["version"], "the same id", None)]
    await api.delete(stranger, memory["id"])
    assert (await undelete(api, stranger, memory["id"])).json()["text"] == "the same id"
    assert [each[2] for each in await events(api, user, memory["id"])] == ["secret", "secret still", None]
    principal = Principal("another", None, "user")
    scope = api.services.access.scope(principal, user)
    with pytest.raises(NotFound):
        await api.services.history.events(scope, UUID(memory["id"]), limit=10, cursor=None)


async def test_what_cannot_be_brought_back(api, user, check_problem):
    """An id that never was, one that lives, a version that does not match, one that expired, one that was purged."""
    check_problem(await undelete(api, user, uuid4()), 404, "not-found")
    memory = await api.create(user, "here")
    check_problem(await undelete(api, user, uuid4()), 404, "not-found")
    check_problem(await undelete(api, user, memory["id"]), 409, "conflict", says="is not deleted")
    deleted = (await api.delete(user, memory["id"])).headers["memfast-version"]
    wrong = await undelete(api, user, memory["id"], headers={"if-match": '"1"'})
    check_problem(wrong, 412, "precondition-failed", says=f"version {deleted}")
    right = await undelete(api, user, memory["id"], headers={"if-match": f'"1", "{deleted}"'})
    assert right.status_code == 200
    check_problem(await undelete(api, user, memory["id"]), 409, "conflict")
    soon = (datetime.now(UTC) + timedelta(milliseconds=50)).isoformat()
    await api.patch(user, memory["id"], {"expires_at": soon})
    await api.delete(user, memory["id"])
    async with asyncio.timeout(10):
        while (answer := await undelete(api, user, memory["id"])).status_code == 200:
            await api.delete(user, memory["id"])
    check_problem(answer, 404, "not-found", says="has expired")
    check_problem(await api.get(user, memory["id"]), 404, "not-found")


async def test_an_expired_memory_has_a_history_and_no_return(api, user, check_problem):
    """Before it is removed as after: no read shows it, its history does, and it does not come back."""
    memory = await api.create(user, "late")
    await api.patch(user, memory["id"], {"expires_at": "2001-01-01T00:00:00Z"})
    check_problem(await api.get(user, memory["id"]), 404, "not-found")
    assert [each[2] for each in await events(api, user, memory["id"])] == ["late", "late"]
    check_problem(await undelete(api, user, memory["id"]), 404, "not-found", says="has expired")
    assert (await api.delete(user, memory["id"])).status_code == 204
    check_problem(await undelete(api, user, memory["id"]), 404, "not-found", says="has expired")
    assert [each[0] for each in await events(api, user, memory["id"])] == ["created", "updated", "deleted"]
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == 0


async def test_beyond_the_retention_nothing_is_known(api, user, check_problem):
    """A replaced text leaves its history first; a deleted memory is as if it had never been."""
    kept, gone = await api.create(user, "kept"), await api.create(user, "gone")
    await api.patch(user, kept["id"], {"text": "kept too"})
    await api.delete(user, gone["id"])
    with days_later(api, 29.9):
        assert len(await events(api, user, kept["id"])) == 2
        assert len(await events(api, user, gone["id"])) == 2
    with days_later(api, 30.1):
        assert await events(api, user, kept["id"]) == [("updated", 3, "kept too", None)]
        check_problem(await history(api, user, gone["id"]), 404, "not-found")
        check_problem(await undelete(api, user, gone["id"]), 404, "not-found")
    assert (await undelete(api, user, gone["id"])).status_code == 200


async def test_purge_erases_every_row_that_said_it(api, user, check_problem):
    """Of a memory that lives, with all that it ever said; nothing is left in any table, nothing comes back."""
    words = [f"peculiar {uuid4()}" for _ in range(3)]
    memory = await api.create(user, words[0], metadata={"note": words[1]})
    await api.patch(user, memory["id"], {"text": words[2]})
    await api.delete(user, memory["id"])
    await undelete(api, user, memory["id"])
    assert set(await tables_with(api, words[0])) == {"history"}
    assert set(await tables_with(api, words[2])) == {"history", "memories"}
    assert (await purge(api, user, memory["id"])).status_code == 204
    for each in words:
        assert await tables_with(api, each) == []
    assert await events(api, user, memory["id"]) == [("deleted", 5, None, None)]
    check_problem(await undelete(api, user, memory["id"]), 404, "not-found", says="purged")
    assert (await api.delete(user, memory["id"])).status_code == 204


@pytest.mark.parametrize("state", ["deleted", "expired", "purged"])
async def test_purge_reaches_what_is_gone_already(api, user, state):
    """What was deleted, has expired, or was purged before: 204, and no table says it."""
    words = f"peculiar {uuid4()}"
    memory = await api.create(user, words)
    if state == "expired":
        await api.patch(user, memory["id"], {"expires_at": "2001-01-01T00:00:00Z"})
    else:
        await purge(api, user, memory["id"], str(state == "purged").lower())
    assert ("history" in await tables_with(api, words)) is (state != "purged")
    assert (await purge(api, user, memory["id"])).status_code == 204
    assert await tables_with(api, words) == []
    assert [each[0] for each in await events(api, user, memory["id"])] == ["deleted"]


async def test_purge_obeys_if_match(api, user, check_problem):
    """Another version: 412, and nothing is erased."""
    memory = await api.create(user, "first")
    await api.patch(user, memory["id"], {"text": "second"})
    refused = await purge(api, user, memory["id"], headers={"if-match": '"1"'})
    check_problem(refused, 412, "precondition-failed")
    assert len(await events(api, user, memory["id"])) == 2
    assert (await purge(api, user, memory["id"], headers={"if-match": '"2"'})).status_code == 204


@pytest.mark.parametrize("value", ["", "maybe", "2"])
async def test_a_purge_that_is_neither_yes_nor_no_is_refused(api, user, value, check_problem):
    """A guess would erase what somebody wants back, or keep what somebody wants gone."""
    memory = await api.create(user, "x")
    check_problem(await purge(api, user, memory["id"], value), 400, "invalid-request", "purge")
    assert (await api.get(user, memory["id"])).status_code == 200


async def test_purge_removes_the_copy_on_disk(api, user):
    """A snapshot that may still say it goes with the purge."""
    memory = await api.create(user, "on disk")
    scope = api.services.access.scope(Principal("default", None, "admin"), user)
    assert await api.services.warm.load(scope)
    api.services.shards.save(scope, api.services.shards.get(scope.id))
    assert api.services.shards.restore(scope) is not None
    await purge(api, user, memory["id"])
    assert api.services.shards.restore(scope) is None


async def test_forgetting_a_user_erases_the_past(api, user, check_problem):
    """No table says anything of it, and under the same name nothing comes back."""
    words = f"peculiar {uuid4()}"
    memory = await api.create(user, words)
    await api.patch(user, memory["id"], {"text": "changed"})
    await api.delete(user, memory["id"])
    assert await tables_with(api, words) == ["history"]
    assert (await api.client.delete(f"/v1/users/{user}")).status_code == 200
    assert await tables_with(api, words) == []
    check_problem(await history(api, user, memory["id"]), 404, "not-found")
    check_problem(await undelete(api, user, memory["id"]), 404, "not-found")


async def test_an_id_used_again_keeps_both_lives(api, user):
    """Created, deleted, created anew: one history; what comes back is what was deleted last."""
    memory = await api.create(user, "first life")
    await api.delete(user, memory["id"])
    await api.create(user, "second life", id=memory["id"])
    await api.delete(user, memory["id"])
    assert (await undelete(api, user, memory["id"])).json()["text"] == "second life"
    assert await events(api, user, memory["id"]) == [
        ("created", 1, "first life", None),
        ("deleted", 2, None, "first life"),
        ("created", 3, "second life", None),
        ("deleted", 4, None, "second life"),
        ("undeleted", 5, "second life", None),
    ]


async def test_history_without_retention_keeps_nothing(api, user):
    """`history.retention_days` = 0: deleted is gone at once, also from history."""
    service = api.services.history
    nothing = History(
        service._store,
        service._writer,
        service._embedder,
        service._limits,
        service._cursors,
        service._clock,
        timedelta(),
    )
    memory = await api.create(user, "x")
    await api.delete(user, memory["id"])
    scope = api.services.access.scope(Principal("default", None, "admin"), user)
    with pytest.raises(NotFound):
        await nothing.events(scope, UUID(memory["id"]), limit=1, cursor=None)
    with pytest.raises(NotFound):
        await nothing.undelete(scope, UUID(memory["id"]), expected_versions=None)
