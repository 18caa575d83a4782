"""Writes with an Idempotency-Key: done once, answered the same, kept apart, and forgotten in time."""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

import asyncpg
import msgspec
import numpy as np
import pytest

from memfast.claims import AnsweredBeforeError, Claim, Written
from memfast.errors import EmbedderUnavailable
from memfast.resilience.clock import SystemClock
from memfast.service.remember import Draft
from memfast.service.sweeps import Sweeps
from memfast.store.sweeper import PostgresSweeper

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPEATED = ("content-type", "content-length", "location", "etag", "memfast-version", "memfast-token", "memfast-status")
"""The headers that a repeated answer has as the first one had them."""

KEY = {"idempotency-key": "k"}


class Later(SystemClock):
    """The wall clock, two days ahead."""

    def now(self):
        return super().now() + timedelta(days=2)


async def rows(api, user):
    """The user's version, live memories, rows of history, kept answers."""
    async with api.database() as connection:
        return tuple(
            await connection.fetchrow(
                """SELECT version,
                          (SELECT count(*) FROM memories m WHERE m.scope_id = s.scope_id AND deleted_at IS NULL),
                          (SELECT count(*) FROM history h WHERE h.scope_id = s.scope_id),
                          (SELECT count(*) FROM idempotency i WHERE i.scope_id = s.scope_id)
                   FROM scopes s WHERE scope_id = $1""",
                scope_of(api, user).id,
            )
        )


def scope_of(api, user):
    """The user's scope."""
    return api.services.access.scope(api.services.access.recognise(None), user)


def told(response):
    """What must be the same in every answer to one request."""
    return response.status_code, response.content, {name: response.headers.get(name) for name in REPEATED}


def replayed(response):
    """Whether the answer says that it was given before."""
    return response.headers.get("idempotent-replayed") == "true"


async def create(api, user, text="text", headers=KEY, **fields):
    """The answer to a create."""
    return await api.client.post("/v1/memories", json={"user_id": user, "text": text} | fields, headers=headers)


async def until(condition):
    """Wait for a condition, with a bound."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def locked(api, user):
    """Hold the lock of a user's row, as a long transaction of somebody else would."""
    async with api.database() as connection, connection.transaction():
        assert await connection.fetchval("SELECT 1 FROM scopes WHERE scope_id = $1 FOR UPDATE", scope_of(api, user).id)
        yield


async def tables_with(api, words):
    """The tables of which a row holds these words, anywhere, as text or as bytes."""
    async with api.database() as connection:
        names = await connection.fetch(
            "SELECT quote_ident(table_name) FROM information_schema.tables"
            " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        )
        return [
            name
            for (name,) in names
            if await connection.fetchval(
                f"SELECT count(*) FROM {name} t WHERE t::text LIKE $1 OR t::text LIKE $2",
                f"%{words}%",
                f"%{words.encode().hex()}%",
            )
        ]


def change(api, user, text):
    """A create as the writer takes it, whose text nothing has checked for what PostgreSQL refuses."""
    vector = np.zeros(api.site.prepared.dimensions, np.float32)
    vector[0] = 1
    checked = api.services.remember._checked(scope_of(api, user), Draft(text="text"), SystemClock().now(), None)
    return msgspec.structs.replace(checked, memory=msgspec.structs.replace(checked.memory, text=text), vector=vector)


def claim(status=201):
    """A claim of the key "k" and the request "r"."""

    def answer(outcomes):
        return Written(status, outcomes[0].scope_version)

    return Claim(key=b"k", request=b"r", expires_at=Later().now(), answer=answer)


async def of_route(api, user, name):
    """A write of one route: its method, its address, and what it says. What it needs is there."""
    own, other = await api.create(user, "first"), await api.create(user, "second")
    path, asked = f"/v1/memories/{own['id']}", {"params": {"user_id": user}}
    if name == "undelete":
        await api.delete(user, own["id"])
    ids = [own["id"], other["id"], str(uuid4())]
    return {
        "create": ("POST", "/v1/memories", {"json": {"user_id": user, "text": "x", "tags": ["a"]}}),
        "update by create": (
            "POST",
            "/v1/memories",
            {"json": {"user_id": user, "text": "x", "id": own["id"], "on_conflict": "update"}},
        ),
        "duplicate": ("POST", "/v1/memories", {"json": {"user_id": user, "text": "first", "dedupe": True}}),
        "update": ("PATCH", path, asked | {"json": {"text": "changed"}}),
        "update if": ("PATCH", path, asked | {"json": {"kind": "x"}, "headers": {"if-match": '"1"'}}),
        "delete": ("DELETE", path, asked),
        "purge": ("DELETE", path, {"params": {"user_id": user, "purge": "true"}}),
        "undelete": ("POST", f"{path}/undelete", asked),
        "create batch": (
            "POST",
            "/v1/memories/batch",
            {"json": {"user_id": user, "memories": [{"text": "a"}, {"text": ""}, {"text": "b"}, {"id": own["id"]}]}},
        ),
        "create batch of one": ("POST", "/v1/memories/batch", {"json": {"user_id": user, "memories": [{"text": "a"}]}}),
        "update batch": (
            "PATCH",
            "/v1/memories/batch",
            {"json": {"user_id": user, "memories": [{"id": each, "kind": "x"} for each in ids]}},
        ),
        "delete batch": ("DELETE", "/v1/memories/batch", {"json": {"user_id": user, "ids": ids}}),
        "delete by filter": ("POST", "/v1/memories/delete", {"json": {"user_id": user, "filter": {"kind": "fact"}}}),
        "forget": ("DELETE", f"/v1/users/{user}", {}),
    }[name]


ROUTES = (
    "create",
    "update by create",
    "duplicate",
    "update",
    "update if",
    "delete",
    "purge",
    "undelete",
    "create batch",
    "create batch of one",
    "update batch",
    "delete batch",
    "delete by filter",
    "forget",
)


@pytest.mark.parametrize("form", ["json", "msgpack"])
@pytest.mark.parametrize("name", ROUTES)
async def test_a_repeated_write_is_answered_the_same_and_does_nothing(api, user, name, form):
    """Status, body and headers to the byte, in both forms; the second says so, and no row of the database changes."""
    method, path, arguments = await of_route(api, user, name)
    headers = arguments.pop("headers", {}) | KEY | {"accept": f"application/{form}"}
    first = await api.request(method, path, headers=headers, **arguments)
    assert first.status_code < 300, first.text
    before = await rows(api, user)
    for _ in range(2):
        second = await api.request(method, path, headers=headers, **arguments)
        assert told(second) == told(first)
        assert (replayed(first), replayed(second)) == (False, True)
    assert await rows(api, user) == before
    assert before[3] == 1
    if name not in {"delete", "purge"}:
        assert form in first.headers["content-type"]


async def test_a_write_without_a_key_keeps_nothing(api, user):
    """And says nothing of replays; the same request is done again."""
    answers = [await create(api, user, headers={}) for _ in range(2)]
    assert len({answer.json()["id"] for answer in answers}) == 2
    assert not any(replayed(answer) for answer in answers)
    assert (await rows(api, user))[3] == 0


async def test_an_answer_is_repeated_in_the_form_that_is_asked_for(api, user):
    """Kept once, given as JSON and as msgpack."""
    first = await create(api, user)
    second = await create(api, user, headers=KEY | {"accept": "application/msgpack"})
    assert replayed(second)
    assert msgspec.msgpack.decode(second.content) == first.json()


@pytest.mark.parametrize(
    "differs",
    [
        {"json": {"text": "other"}},
        {"params": {"purge": "true"}},
        {"headers": {"if-match": '"7"'}},
        {"method": "DELETE"},
        {"path": "another"},
    ],
    ids=["body", "parameters", "If-Match", "method", "path"],
)
async def test_a_key_that_comes_with_another_request_is_refused(api, user, differs, check_problem):
    """422, whatever differs; nothing is written."""
    memory = await api.create(user)
    other = await api.create(user)
    path = f"/v1/memories/{memory['id']}"
    asked = {"params": {"user_id": user}, "json": {"kind": "x"}, "headers": KEY}
    first = await api.request("DELETE" if "params" in differs else "PATCH", path, **asked)
    assert first.status_code < 300
    before = await rows(api, user)
    method = differs.get("method", "DELETE" if "params" in differs else "PATCH")
    path = f"/v1/memories/{other['id']}" if "path" in differs else path
    for part in ("params", "headers", "json"):
        asked[part] = asked[part] | differs.get(part, {})
    check_problem(await api.request(method, path, **asked), 422, "key-reused", says="another request")
    assert await rows(api, user) == before


async def test_parameters_may_come_in_any_order(api, user):
    """The same request all the same."""
    memory = await api.create(user)
    path = f"/v1/memories/{memory['id']}"
    first = await api.request("DELETE", f"{path}?user_id={user}&purge=true", headers=KEY)
    second = await api.request("DELETE", f"{path}?purge=true&user_id={user}", headers=KEY)
    assert told(second) == told(first)
    assert replayed(second)


async def test_a_key_is_of_one_user(api, user):
    """Another user's request with the same key is a request of its own, also when it says the same."""
    other = api.new_user()
    first, second = await create(api, user), await create(api, other)
    assert not replayed(second)
    assert (first.json()["user_id"], second.json()["user_id"]) == (user, other)
    assert first.json()["id"] != second.json()["id"]


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "ü".encode(), b"a\tb", b"a\x7f"])
async def test_keys_that_are_none(api, user, key, check_problem):
    """400 with the header's name; nothing is written."""
    check_problem(await create(api, user, headers={"idempotency-key": key}), 400, "invalid-request", "Idempotency-Key")
    assert (await api.listing(user)).json()["memories"] == []


async def test_the_longest_key(api, user):
    """255 characters, with blanks and quotes among them, each of which counts."""
    key = '"' + "x y" * 84 + '"'
    assert [replayed(await create(api, user, headers={"idempotency-key": key})) for _ in range(2)] == [False, True]
    assert not replayed(await create(api, user, headers={"idempotency-key": key[:-2] + '!"'}))
    assert len(key) == 254


async def test_a_batch_with_a_key_is_of_one_user(api, user, check_problem):
    """400 for two users, in creates and in changes; items that name the same one are fine."""
    other = api.new_user()
    items = [{"user_id": user, "text": "a"}, {"user_id": other, "text": "b"}]
    batch = "/v1/memories/batch"
    refused = await api.client.post(batch, json={"memories": items}, headers=KEY)
    check_problem(refused, 400, "invalid-request", "Idempotency-Key", says="names 2")
    edits = [{"user_id": each, "id": str(uuid4()), "kind": "x"} for each in (user, other)]
    refused = await api.request("PATCH", batch, json={"memories": edits}, headers=KEY)
    check_problem(refused, 400, "invalid-request", "Idempotency-Key")
    answers = [await api.client.post(batch, json={"memories": items[:1] * 2}, headers=KEY) for _ in range(2)]
    assert [replayed(answer) for answer in answers] == [False, True]
    assert (await rows(api, user))[1] == 2
    nobody = await api.client.post(batch, json={"memories": [{"text": "a"}]}, headers=KEY)
    assert nobody.json()["results"][0]["problem"]["path"] == "$.memories[0].user_id"


async def test_an_import_takes_no_key(api, user, check_problem):
    """400 that says why."""
    headers = KEY | {"content-type": "application/x-ndjson"}
    refused = await api.client.post("/v1/import", params={"user_id": user}, content=b"{}", headers=headers)
    check_problem(refused, 400, "invalid-request", "Idempotency-Key", says="taken in once")


async def test_refusals_are_not_kept(api, user):
    """400, 404, 409, 412: the same key is free for the request that follows, and for another one."""
    memory = await api.create(user)
    refused = [
        await create(api, user, importance=7),
        await create(api, user, id=memory["id"]),
        await api.patch(user, str(uuid4()), {"kind": "x"}, headers=KEY),
        await api.patch(user, memory["id"], {"kind": "x"}, headers=KEY | {"if-match": '"99"'}),
        await api.client.delete("/v1/users/nobody", headers=KEY),
    ]
    assert [answer.status_code for answer in refused] == [400, 409, 404, 412, 404]
    assert (await rows(api, user))[3] == 0
    batch = {"json": {"user_id": user, "memories": [{"id": str(uuid4()), "kind": "x"}]}, "headers": KEY}
    assert (await api.request("PATCH", "/v1/memories/batch", **batch)).json()["results"][0]["status"] == "error"
    assert (await rows(api, user))[3] == 0
    assert (await create(api, user)).status_code == 201


async def test_what_the_service_could_not_do_is_not_kept(api, user, monkeypatch):
    """503 while the embedder is away; the same request is done when it is back."""

    async def away(_texts):
        raise EmbedderUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(api.services.embedder, "embed", away)
        assert (await create(api, user)).status_code == 503
    answer = await create(api, user)
    assert (answer.status_code, replayed(answer)) == (201, False)


async def test_a_repeated_write_needs_nothing_but_its_answer(api, user, monkeypatch):
    """The embedder is not asked again, and a time that has come since is no reason to refuse."""
    first = await create(api, user, expires_at=(SystemClock().now() + timedelta(seconds=0.3)).isoformat())

    async def away(_texts):
        raise EmbedderUnavailable("away")

    monkeypatch.setattr(api.services.embedder, "embed", away)
    monkeypatch.setattr(api.services.remember, "_clock", Later())
    body = first.json()
    again = await create(api, user, expires_at=body["expires_at"])
    assert again.status_code == 422  # another spelling of the time is another body
    second = await api.client.post("/v1/memories", content=first.request.content, headers=first.request.headers)
    assert told(second) == told(first)


async def test_a_request_waits_for_the_first_with_its_key(api, user, check_problem):
    """Within its time, then 409 with Retry-After; who has more time has the answer of the first."""
    await api.create(user)
    async with locked(api, user):
        first = asyncio.create_task(create(api, user))
        await until(lambda: api.services.writer.snapshot().under_way)
        waiting = [asyncio.create_task(create(api, user)) for _ in range(4)]
        hurried = await create(api, user, headers=KEY | {"memfast-timeout-ms": "50"})
        check_problem(hurried, 409, "key-in-use", says="send it again")
        assert int(hurried.headers["retry-after"]) >= 1
        other = asyncio.create_task(create(api, user, "other"))
        assert not first.done()
    answers = [await first, *[await each for each in waiting]]
    assert {str(told(answer)) for answer in answers} == {str(told(answers[0]))}
    assert [replayed(answer) for answer in answers] == [False, True, True, True, True]
    check_problem(await other, 422, "key-reused")
    assert (await rows(api, user))[1] == 2


async def test_a_request_that_ends_while_its_write_is_under_way(api, user, check_problem):
    """The write goes on, and whoever sends it again, as it is told to, has its answer."""
    await api.create(user)
    async with locked(api, user):
        first = asyncio.create_task(create(api, user))
        await until(lambda: api.services.writer.snapshot().under_way)
        first.cancel()
        check_problem(await first, 504, "outcome-unknown", says="again with the same key")
        second = asyncio.create_task(create(api, user))
        await until(lambda: api.services.writer.snapshot().waiting_interactive)
    assert replayed(await second)
    assert (await rows(api, user))[1] == 2


async def test_who_waited_for_a_request_that_failed_does_it(api, user, monkeypatch):
    """The first fails, one of those that waited succeeds, the others have its answer."""
    embed, failing = api.services.embedder.embed, asyncio.Event()

    async def once(texts):
        monkeypatch.setattr(api.services.embedder, "embed", embed)
        await failing.wait()
        raise EmbedderUnavailable("away")

    monkeypatch.setattr(api.services.embedder, "embed", once)
    first = asyncio.create_task(create(api, user))
    await until(lambda: api.services.claims._under_way)
    waiting = [asyncio.create_task(create(api, user)) for _ in range(5)]
    failing.set()
    assert (await first).status_code == 503
    answers = [await each for each in waiting]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert sorted(replayed(answer) for answer in answers) == [False, True, True, True, True]
    assert not api.services.claims._under_way


async def test_two_services_with_one_key_write_once(api, user, site, open_api):
    """Neither knows of the other: the lock in the database decides, for memories, batches and forgets."""
    await api.create(user, "first")
    await api.search(user, query="text")
    await api.search(user, query="text")  # warm
    batch = {"user_id": user, "memories": [{"text": "a"}, {"text": "b"}]}
    async with open_api(site) as other:
        sends = {
            "create": lambda each: create(each, user),
            "batch": lambda each: each.client.post(
                "/v1/memories/batch", json=batch, headers={"idempotency-key": "batch"}
            ),
            "forget": lambda each: each.client.delete(f"/v1/users/{user}", headers={"idempotency-key": "forget"}),
        }
        for name, send in sends.items():
            async with locked(api, user):
                tasks = [asyncio.create_task(send(each)) for each in (api, other)]
                for each in (api, other):
                    await until(lambda each=each: each.services.writer.snapshot().under_way)
            answers = [await task for task in tasks]
            assert told(answers[0]) == told(answers[1]), name
            assert sorted(replayed(answer) for answer in answers) == [False, True], name
            if name == "create":
                for each in (api, other):
                    found = (await each.search(user, query="text", limit=9)).json()["results"]
                    assert [hit["text"] for hit in found].count("text") == 1
            if name == "batch":
                assert (await rows(api, user))[1] == 4
        assert (await rows(api, user))[1:] == (0, 0, 1)


async def test_one_key_twice_in_one_transaction(api, user):
    """The unique key fails it, and one by one the second finds what the first was answered."""
    other = await api.create(api.new_user())
    async with locked(api, other["user_id"]):
        first = asyncio.create_task(api.patch(other["user_id"], other["id"], {"kind": "held"}))
        await until(lambda: api.services.writer.snapshot().under_way)
        commits = [api.services.writer.commit([change(api, user, "a")], claim=claim()) for _ in range(2)]
        both = [asyncio.create_task(commit) for commit in commits]
        await until(lambda: api.services.writer.snapshot().waiting_interactive == 2)
    await first
    results = await asyncio.gather(*both, return_exceptions=True)
    assert results[0][0].status == "created"
    assert isinstance(results[1], AnsweredBeforeError)
    assert results[1].kept.answer.status == 201
    assert (await rows(api, user))[1::2] == (1, 1)


async def test_a_batch_with_a_key_is_written_whole_or_not_at_all(api, user):
    """An item that PostgreSQL refuses and every check let pass: the key is free afterwards."""
    changes = [change(api, user, text) for text in ("good", "a\0b")]
    with pytest.raises(asyncpg.PostgresError):
        await api.services.writer.commit(changes, claim=claim())
    assert (await api.listing(user)).json()["memories"] == []
    assert (await api.services.writer.commit(changes[:1], claim=claim()))[0].status == "created"


async def test_a_delete_by_filter_in_steps_is_answered_by_the_last(api, user, monkeypatch):
    """The counts are of all steps; repeated it leaves alone what matches since. One that finds nothing keeps nothing."""
    monkeypatch.setattr("memfast.service.forget.STEP_ROWS", 2)
    remove = {"url": "/v1/memories/delete", "json": {"user_id": user, "filter": {"kind": "old"}, "limit": 5}}
    nothing = [await api.client.post(**remove, headers={"idempotency-key": "nothing"}) for _ in range(2)]
    assert [(answer.json()["matched"], replayed(answer)) for answer in nothing] == [(0, False)] * 2
    await api.create_many(user, [{"text": "text", "kind": "old"} for _ in range(7)])
    first = await api.client.post(**remove, headers=KEY)
    counts = first.json()
    assert (counts["deleted"], counts["has_more"], len(counts["ids"])) == (5, True, 5)
    second = await api.client.post(**remove, headers=KEY)
    assert told(second) == told(first)
    assert replayed(second)
    assert (await rows(api, user))[1::2] == (2, 1)


async def test_a_purge_erases_the_answers_that_showed_the_memory(api, user, check_problem):
    """Of a create, a change and an undelete: 410 from then on, whatever is sent, and the words are nowhere."""
    words = f"secret{uuid4().hex}"
    keys = [{"idempotency-key": f"k{number}"} for number in range(4)]
    memory = (await create(api, user, words, keys[0])).json()
    await api.patch(user, memory["id"], {"text": f"more {words}"}, headers=keys[1])
    await api.delete(user, memory["id"])
    path = f"/v1/memories/{memory['id']}"
    await api.client.post(f"{path}/undelete", params={"user_id": user}, headers=keys[2])
    await create(api, user, "other", keys[3])
    assert set(await tables_with(api, words)) == {"history", "idempotency", "memories"}
    gone = await api.client.delete(path, params={"user_id": user, "purge": "true"}, headers={"idempotency-key": "p"})
    assert gone.status_code == 204
    assert await tables_with(api, words) == []
    check_problem(await create(api, user, words, keys[0]), 410, "answer-erased")
    check_problem(await create(api, user, "something else", keys[0]), 410, "answer-erased")
    check_problem(await api.patch(user, memory["id"], {"text": f"more {words}"}, headers=keys[1]), 410, "answer-erased")
    assert replayed(await create(api, user, "other", keys[3]))
    assert (await rows(api, user))[1] == 1


async def test_a_purge_in_the_same_transaction_erases_the_answer_too(api, user):
    """The create and the purge of its memory share a transaction: nothing of its words is kept."""
    words, target = f"secret{uuid4().hex}", str(uuid4())
    other = await api.create(api.new_user())
    async with locked(api, other["user_id"]):
        first = asyncio.create_task(api.patch(other["user_id"], other["id"], {"kind": "held"}))
        await until(lambda: api.services.writer.snapshot().under_way)
        made = asyncio.create_task(create(api, user, words, id=target))
        await until(lambda: api.services.writer.snapshot().waiting_interactive == 1)
        parameters = {"user_id": user, "purge": "true"}
        gone = asyncio.create_task(api.client.delete(f"/v1/memories/{target}", params=parameters))
        await until(lambda: api.services.writer.snapshot().waiting_interactive == 2)
    await first
    assert ((await made).status_code, (await gone).status_code) == (201, 204)
    assert await tables_with(api, words) == []
    assert (await create(api, user, words, id=target)).status_code == 410


async def test_a_forget_erases_the_keys(api, check_problem):
    """Only its own stays, which names nobody: repeated it erases nothing that came later."""
    user = f"name{uuid4().hex}"
    words = f"secret{uuid4().hex}"
    memory = (await create(api, user, words)).json()
    forget = {"url": f"/v1/users/{user}", "headers": {"idempotency-key": "forget"}}
    receipt = await api.client.delete(**forget)
    assert (receipt.json()["user_id"], receipt.json()["memories"]) == (user, 1)
    assert await tables_with(api, words) == await tables_with(api, user) == []
    again = await create(api, user, words)
    assert not replayed(again)
    assert again.json()["id"] != memory["id"]
    second = await api.client.delete(**forget)
    assert told(second) == told(receipt)
    assert replayed(second)
    assert (await api.get(user, again.json()["id"])).status_code == 200
    check_problem(await create(api, user, headers=forget["headers"]), 422, "key-reused")
    other = await api.client.delete(f"/v1/users/{user}", headers={"idempotency-key": "forget again"})
    assert other.json()["memories"] == 1
    check_problem(await api.client.delete(f"/v1/users/{user}", headers=KEY), 404, "not-found")


async def test_a_key_is_free_when_its_time_is_over(api, user):
    """Whether the sweep has come or not; afterwards nothing of it is left."""
    first = await create(api, user)
    async with api.database() as connection:
        lapse = "UPDATE idempotency SET expires_at = now() - interval '1 second' WHERE scope_id = $1"
        await connection.execute(lapse, scope_of(api, user).id)
    second = await create(api, user)
    assert not replayed(second)
    assert second.json()["id"] != first.json()["id"]
    assert told(await create(api, user)) == told(second)
    assert (await rows(api, user))[3] == 1


async def test_keys_whose_time_is_over_are_swept(api, monkeypatch):
    """In steps, of every user, and no other."""
    monkeypatch.setattr("memfast.service.sweeps.STEP_ROWS", 3)
    monkeypatch.setattr("memfast.store.sweeper._WALK_SCOPES", 2)
    users = [api.new_user() for _ in range(5)]
    for user in users:
        for number in range(4):
            await create(api, user, headers={"idempotency-key": f"k{number}"})
    services = api.services
    pool, writer = services.recall._store._pool, services.forget._writer

    async def swept(clock):
        sweeps = Sweeps(PostgresSweeper(pool), writer, services.background, clock, timedelta(days=30))
        await sweeps.erase_keys()
        await services.background.join()
        return [(await rows(api, user))[3] for user in users]

    assert await swept(SystemClock()) == [4, 4, 4, 4, 4]
    assert await swept(Later()) == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("hours", [0.5, 24.0])
async def test_the_time_of_a_key_is_a_setting(server, make_site, open_api, hours):
    """`writes.key_retention_h`."""
    site = make_site(server.new_database(), writes__key_retention_h=hours)
    async with open_api(site) as api:
        await create(api, "ada")
        async with api.database() as connection:
            left = await connection.fetchval("SELECT expires_at - now() FROM idempotency")
    assert timedelta(hours=hours) - timedelta(minutes=1) < left <= timedelta(hours=hours)
