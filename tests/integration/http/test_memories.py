"""Storing, reading, changing and deleting memories, on every PostgreSQL that is supported."""

import base64
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import msgspec
import numpy as np
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

MSGPACK_TYPES = ("application/msgpack", "application/x-msgpack", "application/vnd.msgpack")
ALL_FIELDS = {
    "text": "I am allergic to peanuts. 花粉症 🥜",
    "kind": "opinion",
    "tags": ["food", "Ünïcode", "with space"],
    "entities": ["peanut", "ада"],
    "importance": 0.123456789,
    "metadata": {"z": 1, "a": [1, 2.5, None, True, {"deep": 'é\n"\\'}], "big": 2**53 - 1, "": "empty name"},
    "agent_id": "agent/1",
    "run_id": "run 2",
    "source": "chat",
    "created_at": "2024-02-29T23:59:59.123456Z",
    "expires_at": "9999-12-31T23:59:59.999998Z",
}


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


async def test_every_field_comes_back_exactly_as_it_was_sent(api, user):
    """Create, get, get-many, list and search all show the same memory, and it is what was sent."""
    memory = await api.create(user, **ALL_FIELDS)
    assert {name: memory[name] for name in ALL_FIELDS} == ALL_FIELDS
    assert memory["user_id"] == user
    assert memory["version"] == 1
    assert UUID(memory["id"]).version == 7
    assert memory["updated_at"].endswith("Z")
    assert (await api.get(user, memory["id"])).json() == memory
    found = await api.client.post("/v1/memories/get", json={"user_id": user, "ids": [memory["id"]]})
    assert found.json() == {"memories": [memory], "missing": []}
    assert (await api.listing(user)).json()["memories"] == [memory]
    hit = (await api.search(user, query="peanuts")).json()["results"][0]
    assert hit.pop("score") > 0
    assert hit == memory


async def test_defaults_fill_what_was_not_sent(api, user):
    """Kind fact, importance a half, empty lists and object, nulls; created now."""
    before = datetime.now(UTC)
    memory = await api.create(user, "plain")
    after = datetime.now(UTC)
    assert memory["kind"] == "fact"
    assert memory["importance"] == 0.5
    assert (memory["tags"], memory["entities"], memory["metadata"]) == ([], [], {})
    assert [memory[name] for name in ("agent_id", "run_id", "source", "expires_at")] == [None] * 4
    assert before <= datetime.fromisoformat(memory["created_at"]) <= after
    assert memory["created_at"] == memory["updated_at"]


@pytest.mark.parametrize("content_type", MSGPACK_TYPES)
async def test_msgpack_stores_the_same_memory_as_json(api, user, content_type):
    """All three content types of msgpack are read, and msgpack is answered where it is accepted."""
    body = msgspec.msgpack.encode({"user_id": user} | ALL_FIELDS)
    headers = {"content-type": content_type, "accept": content_type}
    response = await api.client.post("/v1/memories", content=body, headers=headers)
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/msgpack"
    memory = msgspec.msgpack.decode(response.content)
    assert {name: memory[name] for name in ALL_FIELDS} == ALL_FIELDS
    assert (await api.get(user, memory["id"])).json() == memory


async def test_created_answers_carry_location_etag_version_and_token(api, user):
    """201 names where the memory lies and which version it has."""
    response = await api.client.post("/v1/memories", json={"user_id": user, "text": "x"})
    assert response.status_code == 201
    memory_id = response.json()["id"]
    assert response.headers["location"] == f"/v1/memories/{memory_id}"
    assert response.headers["etag"] == '"1"'
    assert response.headers["memfast-version"] == "1"
    lineage = api.services.access.facts.lineage.hex
    assert response.headers["memfast-token"] == f"{lineage}.1"
    followed = await api.client.get(response.headers["location"], params={"user_id": user})
    assert followed.json() == response.json()
    assert followed.headers["etag"] == '"1"'


async def test_an_existing_id_is_a_conflict_and_leaves_the_memory_alone(api, user, check_problem):
    """409 for the same user; the same id is free for another user."""
    memory = await api.create(user, "first", id=str(uuid4()))
    again = await api.client.post("/v1/memories", json={"user_id": user, "text": "second", "id": memory["id"]})
    check_problem(again, 409, "conflict", path="$.id")
    assert (await api.get(user, memory["id"])).json() == memory
    other = await api.create(api.new_user(), "other", id=memory["id"])
    assert other["version"] == 1
    assert (await api.get(user, memory["id"])).json()["text"] == "first"


async def test_on_conflict_update_replaces_and_ignore_keeps(api, user):
    """Update writes every field and keeps created_at; ignore answers with what is there."""
    first = await api.create(user, "first", tags=["old"], agent_id="a", metadata={"old": 1})
    kept = await api.client.post(
        "/v1/memories", json={"user_id": user, "text": "no", "id": first["id"], "on_conflict": "ignore"}
    )
    assert kept.status_code == 200
    assert kept.json() == first
    updated = await api.client.post(
        "/v1/memories", json={"user_id": user, "text": "peanuts", "id": first["id"], "on_conflict": "update"}
    )
    assert updated.status_code == 200
    memory = updated.json()
    assert (memory["text"], memory["tags"], memory["agent_id"], memory["metadata"]) == ("peanuts", [], None, {})
    assert memory["created_at"] == first["created_at"]
    assert memory["version"] > first["version"]
    assert (await api.get(user, first["id"])).json() == memory
    hits = (await api.search(user, query="peanuts", mode="vector")).json()["results"]
    assert [hit["id"] for hit in hits] == [first["id"]]
    assert hits[0]["score"] > 0.999
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == 1


async def test_on_conflict_creates_where_there_is_nothing(api, user):
    """Both ways of on_conflict store a new id and say 201."""
    for on_conflict in ("update", "ignore"):
        body = {"user_id": user, "text": "x", "id": str(uuid4()), "on_conflict": on_conflict}
        assert (await api.client.post("/v1/memories", json=body)).status_code == 201


async def test_a_batch_keeps_order_and_draws_rising_ids(api, user):
    """A thousand items: results in the order sent, ids and versions rising with it."""
    items = [{"text": f"memory {number}"} for number in range(1000)]
    results = await api.create_many(user, items)
    assert [result["status"] for result in results] == ["created"] * 1000
    assert [result["version"] for result in results] == list(range(1, 1001))
    ids = [result["id"] for result in results]
    assert ids == sorted(ids)
    body = {"user_id": user, "ids": ids}
    memories = (await api.client.post("/v1/memories/get", json=body)).json()["memories"]
    assert [memory["text"] for memory in memories] == [item["text"] for item in items]
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == 1000


async def test_a_batch_of_more_than_a_thousand_is_refused_whole(api, user, check_problem):
    """1,001 items: 400, and nothing of it is there."""
    body = {"user_id": user, "memories": [{"text": "x"}] * 1001}
    check_problem(await api.client.post("/v1/memories/batch", json=body), 400, "invalid-request", "$.memories")
    assert (await api.client.get(f"/v1/users/{user}")).status_code == 404


BAD_ITEMS = [
    ({"text": ""}, "$.memories[1].text"),
    ({"text": "  \n"}, "$.memories[1].text"),
    ({"text": 5}, "$.memories[1].text"),
    ({}, "$.memories[1]"),
    (5, "$.memories[1]"),
    (None, "$.memories[1]"),
    ("text", "$.memories[1]"),
    ([], "$.memories[1]"),
    ({"text": "x", "surprise": 1}, "$.memories[1]"),
    ({"text": "x", "tags": "food"}, "$.memories[1].tags"),
    ({"text": "x", "tags": [""]}, "$.memories[1].tags[0]"),
    ({"text": "x", "importance": 2}, "$.memories[1].importance"),
    ({"text": "x", "metadata": {"a": 2**53}}, "$.memories[1].metadata.a"),
    ({"text": "x", "id": "7"}, "$.memories[1].id"),
    ({"text": "x", "embedding": [0.0] * 256}, "$.memories[1].embedding"),
    ({"text": "x", "embedding": [1.0]}, "$.memories[1].embedding"),
    ({"text": "x", "created_at": "yesterday"}, "$.memories[1].created_at"),
    ({"text": "x", "expires_at": "2001-01-01T00:00:00Z"}, "$.memories[1].expires_at"),
    ({"text": "x", "user_id": ""}, "$.memories[1].user_id"),
    ({"text": "x", "user_id": "n\0l"}, "$.memories[1].user_id"),
    ({"text": "x", "on_conflict": "merge"}, "$.memories[1].on_conflict"),
]


@pytest.mark.parametrize("encoder", [json.dumps, msgspec.msgpack.encode], ids=["json", "msgpack"])
@pytest.mark.parametrize(("item", "path"), BAD_ITEMS, ids=[str(item)[:40] for item, _ in BAD_ITEMS])
async def test_a_bad_item_fails_alone(api, user, item, path, encoder):
    """Its neighbours are stored; its own result is a problem that names the item and the field."""
    body = encoder({"user_id": user, "memories": [{"text": "before"}, item, {"text": "after"}]})
    kind = "application/json" if encoder is json.dumps else "application/msgpack"
    response = await api.client.post("/v1/memories/batch", content=body, headers={"content-type": kind})
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [result["status"] for result in results] == ["created", "error", "created"]
    assert results[1]["problem"]["path"] == path
    assert path in results[1]["problem"]["detail"]
    assert results[1]["problem"]["status"] == 400
    texts = {memory["text"] for memory in (await api.listing(user)).json()["memories"]}
    assert texts == {"before", "after"}
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == 2


async def test_a_batch_reports_conflicts_and_duplicates_item_by_item(api, user):
    """An id twice in one batch: the second sees the first, as on_conflict says."""
    taken = (await api.create(user, "taken"))["id"]
    fresh = str(uuid4())
    results = await api.create_many(
        user,
        [
            {"text": "a", "id": taken},
            {"text": "b", "id": taken, "on_conflict": "ignore"},
            {"text": "c", "id": taken, "on_conflict": "update"},
            {"text": "d", "id": fresh},
            {"text": "e", "id": fresh},
            {"text": "f", "id": fresh, "on_conflict": "update"},
        ],
    )
    statuses = [result["status"] for result in results]
    assert statuses == ["error", "duplicate", "updated", "created", "error", "updated"]
    assert [results[place]["problem"]["status"] for place in (0, 4)] == [409, 409]
    assert [results[place]["id"] for place in (0, 4)] == [taken, fresh]
    assert [(await api.get(user, each)).json()["text"] for each in (taken, fresh)] == ["c", "f"]
    assert (await api.client.get(f"/v1/users/{user}")).json() | {"memories": 2, "version": 7} == (
        await api.client.get(f"/v1/users/{user}")
    ).json()


async def test_a_batch_may_hold_memories_of_several_users(api):
    """The item's user_id wins over the batch's; an item without any is an error of its own."""
    ada, bob, eve = (api.new_user() for _ in range(3))
    body = {
        "user_id": ada,
        "memories": [{"text": "1"}, {"text": "2", "user_id": bob}, {"text": "3"}, {"text": "4", "user_id": eve}],
    }
    results = (await api.client.post("/v1/memories/batch", json=body)).json()["results"]
    assert [(result["status"], result["version"]) for result in results] == [
        ("created", 1),
        ("created", 1),
        ("created", 2),
        ("created", 1),
    ]
    texts = {
        name: [memory["text"] for memory in (await api.listing(name, order="created_asc")).json()["memories"]]
        for name in (ada, bob, eve)
    }
    assert texts == {ada: ["1", "3"], bob: ["2"], eve: ["4"]}
    del body["user_id"]
    results = (await api.client.post("/v1/memories/batch", json=body)).json()["results"]
    assert [result["status"] for result in results] == ["error", "created", "error", "created"]
    assert results[0]["problem"]["path"] == "$.memories[0].user_id"


async def test_get_many_answers_in_order_with_what_is_missing(api, user):
    """Repeated ids are answered once; another user's are missing."""
    ids = [(await api.create(user, text))["id"] for text in "abc"]
    foreign = (await api.create(api.new_user(), "foreign"))["id"]
    nothing = str(uuid4())
    asked = [ids[2], nothing, ids[0], ids[2], foreign, nothing]
    response = await api.client.post("/v1/memories/get", json={"user_id": user, "ids": asked})
    answer = response.json()
    assert [memory["id"] for memory in answer["memories"]] == [ids[2], ids[0]]
    assert answer["missing"] == [nothing, foreign]
    assert response.headers["memfast-version"] == "3"


async def test_get_many_of_an_unknown_user_misses_everything(api, user):
    """No user is the same as a user without memories."""
    wanted = [str(uuid4()) for _ in range(1000)]
    response = await api.client.post("/v1/memories/get", json={"user_id": user, "ids": wanted})
    assert response.json() == {"memories": [], "missing": wanted}
    assert response.headers["memfast-version"] == "0"


async def test_a_foreign_id_is_the_same_as_none(api, user):
    """Get, change and delete of another user's memory answer exactly as for an id that never was."""
    owner = api.new_user()
    memory = await api.create(owner, "mine")
    await api.create(user, "own")

    async def outcomes(memory_id):
        answers = [
            await api.get(user, memory_id),
            await api.patch(user, memory_id, {"text": "stolen"}),
            await api.delete(user, memory_id),
        ]
        return [(answer.status_code, answer.text.replace(memory_id, "ID")) for answer in answers]

    assert await outcomes(memory["id"]) == await outcomes(str(uuid4()))
    assert (await api.get(owner, memory["id"])).json() == memory


PATCHES = {
    "kind": ("belief", "fact"),
    "tags": (["n"], []),
    "entities": (["e"], []),
    "importance": (1.0, 0.5),
    "metadata": ({"n": {"m": []}}, {}),
    "agent_id": ("a2", None),
    "run_id": ("r2", None),
    "source": ("s2", None),
    "expires_at": ("2500-01-01T00:00:00Z", None),
}


@pytest.mark.parametrize("field", PATCHES)
async def test_patch_changes_one_field_and_null_clears_it(api, user, field):
    """Everything else stays, updated_at and version rise; null brings the default back."""
    before = await api.create(user, **ALL_FIELDS)
    value, cleared = PATCHES[field]
    response = await api.patch(user, before["id"], {field: value})
    assert response.status_code == 200, response.text
    after = response.json()
    assert after == before | {field: value, "version": 2, "updated_at": after["updated_at"]}
    assert after["updated_at"] > before["updated_at"]
    assert response.headers["etag"] == '"2"'
    assert (await api.get(user, before["id"])).json() == after
    emptied = (await api.patch(user, before["id"], {field: None})).json()
    assert emptied == after | {field: cleared, "version": 3, "updated_at": emptied["updated_at"]}
    assert (await api.get(user, before["id"])).json() == emptied


async def test_patch_of_the_text_embeds_it_again(api, user):
    """The new text is found, the old one is not."""
    memory = await api.create(user, "The capital of France is Paris.")
    await api.patch(user, memory["id"], {"text": "Octopuses have three hearts."})
    scores = [
        (await api.search(user, query=query, mode="vector")).json()["results"][0]["score"]
        for query in ("Octopuses have three hearts.", "The capital of France is Paris.")
    ]
    assert scores[0] > 0.999
    assert scores[1] < 0.6


async def test_patch_of_other_fields_keeps_the_vector(api, user):
    """A new kind, then a new expiry: the text is still found with its full score."""
    memory = await api.create(user, "Octopuses have three hearts.")
    await api.patch(user, memory["id"], {"kind": "trivia", "expires_at": "2500-01-01T00:00:00Z"})
    assert (await api.search(user, query=memory["text"], mode="vector")).json()["results"][0]["score"] > 0.999


async def test_patch_may_bring_a_vector(api, user):
    """An embedding by itself, or instead of the new text's own."""
    memory = await api.create(user, "text")
    vector = np.zeros(256)
    vector[7] = 2.0
    for changes in ({"embedding": vector.tolist()}, {"text": "other", "embedding": vector.tolist()}):
        assert (await api.patch(user, memory["id"], changes)).status_code == 200
        hit = (await api.search(user, embedding=vector.tolist())).json()["results"][0]
        assert (hit["id"], hit["score"]) == (memory["id"], 1.0)


@pytest.mark.parametrize(
    ("changes", "path"),
    [({}, "$"), ({"text": None}, "$.text"), ({"embedding": None}, "$.embedding"), ({"text": " "}, "$.text")],
)
async def test_patch_that_cannot_be_is_refused(api, user, changes, path, check_problem):
    """No field at all, or null where there is no default."""
    memory = await api.create(user, "x")
    check_problem(await api.patch(user, memory["id"], changes), 400, "invalid-request", path)
    assert (await api.get(user, memory["id"])).json() == memory


@pytest.mark.parametrize("field", ["id", "user_id", "version", "created_at", "updated_at", "on_conflict"])
async def test_patch_refuses_what_cannot_change(api, user, field, check_problem):
    """Unknown and fixed fields are refused, never ignored."""
    memory = await api.create(user, "x")
    check_problem(await api.patch(user, memory["id"], {field: memory.get(field)}), 400, "invalid-request", says=field)


async def test_if_match_guards_patch_and_delete(api, user, check_problem):
    """A passed version is 412 and changes nothing; the present one, `*` and none go through."""
    memory = await api.create(user, "x")
    changed = await api.patch(user, memory["id"], {"kind": "a"}, headers={"if-match": '"1"'})
    assert changed.status_code == 200
    stale = await api.patch(user, memory["id"], {"kind": "b"}, headers={"if-match": '"1"'})
    check_problem(stale, 412, "precondition-failed", says="version 2")
    check_problem(await api.delete(user, memory["id"], headers={"if-match": '"1"'}), 412, "precondition-failed")
    assert (await api.get(user, memory["id"])).json() == changed.json()
    anything = await api.patch(user, memory["id"], {"kind": "c"}, headers={"if-match": "*"})
    assert anything.status_code == 200
    etag = (await api.get(user, memory["id"])).headers["etag"]
    assert (await api.delete(user, memory["id"], headers={"if-match": etag})).status_code == 204


@pytest.mark.parametrize("value", ['"1"', "1", '"7", "1"', '"1","7"', ' , "a,b" ,, W/"7", "1" ,', "*", ' "1"\t'])
async def test_if_match_takes_every_form_of_the_standard(api, user, value):
    """One ETag, a list with empty elements and commas inside of tags, and `*`: what names the version goes through."""
    memory = await api.create(user, "x")
    headers = {"if-match": value}
    assert (await api.patch(user, memory["id"], {"kind": "b"}, headers=headers)).status_code == 200


async def test_several_lines_of_if_match_are_one_list(api, user, check_problem):
    """Whichever of them names the version; one that is broken spoils all."""
    memory = await api.create(user, "x")
    for lines in (['"1"', '"7"'], ['"7"', '"2"'], ['"7", W/"9"', "", '"3"']):
        headers = [("if-match", line) for line in lines]
        assert (await api.patch(user, memory["id"], {"kind": "a"}, headers=headers)).status_code == 200, lines
    none = await api.patch(user, memory["id"], {"kind": "b"}, headers=[("if-match", '"1"'), ("if-match", '"2"')])
    check_problem(none, 412, "precondition-failed")
    for wrong in ("*", "7"):
        headers = [("if-match", '"4"'), ("if-match", wrong)]
        check_problem(await api.patch(user, memory["id"], {"kind": "b"}, headers=headers), 400, "invalid-request")


@pytest.mark.parametrize("value", ['W/"1"', '"2"', '"2", W/"1", "3"', '"x"', '""', '"01"', '"²"', '"' + "9" * 19 + '"'])
async def test_if_match_compares_strongly(api, user, value, check_problem):
    """Weak ETags match nothing, foreign ones neither: 412 for change and delete, and nothing happens."""
    memory = await api.create(user, "x")
    headers = {"if-match": value.encode()}
    changed = await api.patch(user, memory["id"], {"kind": "b"}, headers=headers)
    check_problem(changed, 412, "precondition-failed", says="has version 1")
    check_problem(await api.delete(user, memory["id"], headers=headers), 412, "precondition-failed")
    assert (await api.get(user, memory["id"])).json() == memory


@pytest.mark.parametrize(
    "value", ["", "x", '"1', '1"', '"1" "2"', '*, "1"', 'w/"1"', "-1", "9" * 19, '"', "²", ",", " " * 60_000 + "x"]
)
async def test_a_broken_if_match_is_refused(api, user, value, check_problem):
    """What is no list of ETags is a 400, never a guess."""
    memory = await api.create(user, "x")
    headers = {"if-match": value.encode()}
    check_problem(
        await api.patch(user, memory["id"], {"kind": "b"}, headers=headers), 400, "invalid-request", "If-Match"
    )


async def test_if_match_of_a_missing_memory_is_not_found(api, user, check_problem):
    """A version that nothing has: 404 where there is no memory."""
    check_problem(await api.patch(user, uuid4(), {"kind": "b"}, headers={"if-match": '"1"'}), 404, "not-found")


async def test_delete_can_be_repeated_and_removes_from_every_read(api, user, check_problem):
    """204 and 204 again; gone from get, get-many, list, search and the count."""
    kept, gone = await api.create(user, "keep me"), await api.create(user, "lose me")
    for _ in range(2):
        response = await api.delete(user, gone["id"])
        assert response.status_code == 204
        assert response.content == b""
        assert response.headers["memfast-token"]
    check_problem(await api.get(user, gone["id"]), 404, "not-found")
    check_problem(await api.patch(user, gone["id"], {"kind": "x"}), 404, "not-found")
    found = await api.client.post("/v1/memories/get", json={"user_id": user, "ids": [kept["id"], gone["id"]]})
    assert found.json() == {"memories": [kept], "missing": [gone["id"]]}
    assert [memory["id"] for memory in (await api.listing(user)).json()["memories"]] == [kept["id"]]
    assert [hit["id"] for hit in (await api.search(user, query="lose me")).json()["results"]] == [kept["id"]]
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == 1
    async with api.database() as connection:
        row = await connection.fetchrow("SELECT * FROM memories WHERE id = $1", gone["id"])
        assert row["text"] is row["kind"] is row["tags"] is row["metadata"] is None
        assert await connection.fetchval("SELECT count(*) FROM memory_vectors WHERE id = $1", gone["id"]) == 0


async def test_delete_of_what_never_was_is_not_found(api, user, check_problem):
    """An unknown user, and an unknown id of a known user; neither makes a user."""
    check_problem(await api.delete(user, uuid4()), 404, "not-found")
    assert (await api.client.get(f"/v1/users/{user}")).status_code == 404
    await api.create(user, "x")
    check_problem(await api.delete(user, uuid4()), 404, "not-found")


async def test_a_deleted_id_can_be_used_again(api, user):
    """Create, delete, create: the new memory and its vector are read, nothing of the old is."""
    first = await api.create(user, "The capital of France is Paris.", tags=["old"], metadata={"old": 1})
    await api.delete(user, first["id"])
    second = await api.create(user, "Octopuses have three hearts.", id=first["id"])
    assert second["id"] == first["id"]
    assert (second["tags"], second["metadata"]) == ([], {})
    assert second["version"] == 3
    assert (await api.get(user, first["id"])).json() == second
    hits = (await api.search(user, query=second["text"], mode="vector")).json()["results"]
    assert [(hit["id"], hit["score"] > 0.999) for hit in hits] == [(first["id"], True)]
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == 1
    assert (await api.delete(user, first["id"])).status_code == 204


async def test_an_expired_memory_is_gone_from_every_read(api, user, check_problem):
    """Get, get-many, list, search and change answer as if it were not there; it can be deleted, and its id is free."""
    kept, late = await api.create(user, "keep me"), await api.create(user, "late")
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    patched = await api.patch(user, late["id"], {"expires_at": past})
    assert patched.status_code == 200
    check_problem(await api.get(user, late["id"]), 404, "not-found")
    found = await api.client.post("/v1/memories/get", json={"user_id": user, "ids": [late["id"]]})
    assert found.json() == {"memories": [], "missing": [late["id"]]}
    assert [memory["id"] for memory in (await api.listing(user)).json()["memories"]] == [kept["id"]]
    assert [hit["id"] for hit in (await api.search(user, query="late")).json()["results"]] == [kept["id"]]
    check_problem(await api.patch(user, late["id"], {"expires_at": None}), 404, "not-found")
    assert (await api.delete(user, late["id"])).status_code == 204
    again = await api.create(user, "again", id=late["id"])
    assert again["expires_at"] is None
    assert {hit["id"] for hit in (await api.search(user, query="again")).json()["results"]} == {kept["id"], late["id"]}


async def test_the_version_rises_by_the_number_of_items(api, user):
    """One for a single write, n for a batch of n, failed items included; reads show it."""
    versions = []

    async def note():
        answers = [
            await api.listing(user),
            await api.client.post("/v1/memories/get", json={"user_id": user, "ids": [str(uuid4())]}),
            await api.search(user, query="x"),
        ]
        seen = {int(answer.headers["memfast-version"]) for answer in answers}
        assert answers[2].json()["version"] in seen
        assert len(seen) == 1
        versions.append(seen.pop())

    await note()
    memory = await api.create(user, "x")
    await note()
    await api.create_many(user, [{"text": "y"}] * 5)
    await note()
    await api.create_many(user, [{"text": "z", "id": memory["id"]}, {"text": "z"}])
    await note()
    await api.patch(user, memory["id"], {"kind": "k"})
    await note()
    await api.delete(user, memory["id"])
    await note()
    assert versions == [0, 1, 6, 8, 9, 10]


async def test_times_come_back_to_the_microsecond_at_both_ends_of_the_calendar(api, user):
    """Year 1 and year 9999, and an offset that is turned into UTC."""
    times = {
        "0001-01-01T00:00:00.000001Z": "0001-01-01T00:00:00.000001Z",
        "9999-12-31T23:59:59.999998Z": "9999-12-31T23:59:59.999998Z",
        "9999-12-31T23:59:59Z": "9999-12-31T23:59:59Z",
        "2024-06-01T12:00:00.5+02:00": "2024-06-01T10:00:00.500000Z",
        "1969-12-31T23:59:59.999999-00:00": "1969-12-31T23:59:59.999999Z",
    }
    ids = {}
    for sent, meant in times.items():
        memory = await api.create(user, sent, created_at=sent)
        assert memory["created_at"] == meant
        assert (await api.get(user, memory["id"])).json()["created_at"] == meant
        ids[memory["id"]] = meant
    for order, backwards in (("created_asc", False), ("created_desc", True)):
        memories = (await api.listing(user, order=order)).json()["memories"]
        found = [memory["created_at"] for memory in memories]
        assert found == sorted(ids.values(), key=datetime.fromisoformat, reverse=backwards)


async def test_the_first_and_the_last_id_at_the_ends_of_time_are_listed(api, user):
    """Nothing hides in the corner of the keyset."""
    corners = [
        ("00000000-0000-0000-0000-000000000000", "0001-01-01T00:00:00.000001Z"),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", "9999-12-31T23:59:59.999998Z"),
    ]
    results = await api.create_many(
        user, [{"text": "x", "id": memory_id, "created_at": created_at} for memory_id, created_at in corners]
    )
    assert [result["id"] for result in results] == [memory_id for memory_id, _ in corners]
    for order in ("created_asc", "created_desc"):
        memories = (await api.listing(user, order=order)).json()["memories"]
        assert {memory["id"] for memory in memories} == {memory_id for memory_id, _ in corners}


@pytest.mark.parametrize(
    "text", ["a" * 65536, "é" * 32768, " lead and trail \n", "🥜", "\u2028\u0085\x01", "'; DROP TABLE memories; --"]
)
async def test_texts_are_kept_to_the_character(api, user, text):
    """Up to 64 KiB of UTF-8, whatever the characters."""
    memory = await api.create(user, text, embedding=base64.b64encode(np.ones(256, "<f4").tobytes()).decode())
    assert memory["text"] == text
    assert (await api.get(user, memory["id"])).json()["text"] == text


async def test_tags_and_entities_are_kept_once_each_in_order(api, user):
    """Repeated words are one word."""
    memory = await api.create(user, "x", tags=["b", "a", "b"], entities=["z", "z", "y"])
    assert (memory["tags"], memory["entities"]) == (["b", "a"], ["z", "y"])


async def test_an_id_may_be_sent_in_any_form_of_a_uuid(api, user):
    """Upper case is the same id."""
    memory_id = str(uuid4())
    await api.create(user, "x", id=memory_id.upper())
    assert (await api.get(user, memory_id.upper())).json()["id"] == memory_id


async def test_a_batch_of_several_users_has_no_token(api):
    """A version speaks of one user: a batch of one user carries a token, one of several does not."""
    one, two = api.new_user(), api.new_user()
    alone = await api.client.post("/v1/memories/batch", json={"user_id": one, "memories": [{"text": "a"}]})
    items = [{"user_id": one, "text": "b"}, {"user_id": two, "text": "c"}]
    mixed = await api.client.post("/v1/memories/batch", json={"memories": items})
    refused = await api.client.post("/v1/memories/batch", json={"user_id": one, "memories": [{"text": ""}]})
    assert ["memfast-token" in answer.headers for answer in (alone, mixed, refused)] == [True, False, False]
