"""Saying the same twice: stored once, where the client asks for it."""

import asyncio

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def add(api, user, text, **fields):
    """The answer to a create that does not say the same twice."""
    return await api.client.post("/v1/memories", json={"user_id": user, "text": text, "dedupe": True} | fields)


async def test_the_same_text_is_stored_once(api, user):
    """The second create is answered with the first memory, as it is: 200, and a header that says so."""
    first = await add(api, user, "I am allergic to peanuts.", tags=["health"])
    assert (first.status_code, first.headers["memfast-status"]) == (201, "created")
    again = await add(api, user, "I am allergic to peanuts.", tags=["other"], importance=1.0)
    assert (again.status_code, again.headers["memfast-status"]) == (200, "duplicate")
    assert again.json() == first.json()
    assert "location" not in again.headers
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["memfast-token"]
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == 1
    assert len((await api.search(user, query="allergies")).json()["results"]) == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a text", "  a text\n", True),
        ("\u3000a text\u2003", "a text", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("\u1100\u1161", "\uac00", True),
        ("\u212a", "K", True),
        ("a text", "A text", False),
        ("a text", "a  text", False),
        ("a text", "a text.", False),
        ("\ufb01", "fi", False),
    ],
)
async def test_what_is_the_same(api, user, one, other, same):
    """White space at the ends and the form of accents do not count, everything else does; what was sent is kept."""
    first = await add(api, user, one)
    assert first.json()["text"] == one
    second = await add(api, user, other)
    assert (second.headers["memfast-status"] == "duplicate") is same
    assert second.json()["text"] == (one if same else other)


async def test_only_who_asks_is_refused_a_second_one(api, user):
    """Without `dedupe` the same text is stored again; of two the one with the lower id is named."""
    first = await api.create(user, "twice")
    second = await api.create(user, "twice")
    assert first["id"] != second["id"]
    assert (await add(api, user, "twice")).json() == min(first, second, key=lambda memory: memory["id"])
    response = await api.client.post("/v1/memories", json={"user_id": user, "text": "twice"})
    assert (response.status_code, response.headers["memfast-status"]) == (201, "created")


async def test_another_user_may_say_the_same(api, user):
    """A text is looked for among the user's own memories."""
    other = api.new_user()
    first = await add(api, user, "shared words")
    assert (await add(api, other, "shared words")).status_code == 201
    assert (await add(api, user, "shared words")).json() == first.json()


async def test_only_memories_that_live_count(api, user):
    """Deleted, expired and changed ones say it no longer; one that is changed to it, or comes back, does."""
    memory = await api.create(user, "now and then")
    await api.delete(user, memory["id"])
    second = (await add(api, user, "now and then")).json()
    assert second["id"] != memory["id"]
    await api.patch(user, second["id"], {"expires_at": "2001-01-01T00:00:00Z"})
    third = (await add(api, user, "now and then")).json()
    assert third["id"] not in {memory["id"], second["id"]}
    await api.patch(user, third["id"], {"text": "something else"})
    fourth = await add(api, user, "now and then")
    assert fourth.status_code == 201
    assert (await add(api, user, "something else")).json()["id"] == third["id"]
    await api.delete(user, fourth.json()["id"])
    await api.client.post(f"/v1/memories/{memory['id']}/undelete", params={"user_id": user})
    assert (await add(api, user, "now and then")).json()["id"] == memory["id"]


async def test_a_text_is_looked_for_before_an_id(api, user, check_problem):
    """A create sent again with its id is a duplicate and no conflict; another text under that id is one."""
    memory = await api.create(user, "with an id")
    again = await add(api, user, "with an id", id=memory["id"])
    assert (again.status_code, again.json()) == (200, memory)
    for choice in ("ignore", "update"):
        assert (await add(api, user, "with an id", id=memory["id"], on_conflict=choice)).json() == memory
    check_problem(await add(api, user, "another", id=memory["id"]), 409, "conflict", "$.id")
    changed = await add(api, user, "another", id=memory["id"], on_conflict="update")
    assert (changed.status_code, changed.headers["memfast-status"]) == (200, "updated")


@pytest.mark.parametrize("size", [6, 60])
async def test_inside_one_batch(api, user, size):
    """Equal texts of a batch, and those of before: each result says what became of it, few rows and many alike."""
    before = await api.create(user, "said before")
    texts = ["said before", "a", "b", " a ", "b", "c", *(f"text {number}" for number in range(size - 6))]
    results = await api.create_many(user, [{"text": text, "dedupe": True} for text in texts])
    statuses = [result["status"] for result in results]
    assert statuses[:6] == ["duplicate", "created", "created", "duplicate", "duplicate", "created"]
    assert set(statuses[6:]) <= {"created"}
    assert results[0]["id"] == before["id"]
    assert results[0]["version"] == before["version"]
    assert (results[3]["id"], results[4]["id"]) == (results[1]["id"], results[2]["id"])
    assert results[3]["version"] == results[1]["version"]
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == size - 2
    again = await api.create_many(user, [{"text": text, "dedupe": True} for text in texts])
    assert {result["status"] for result in again} == {"duplicate"}


async def test_a_batch_may_ask_for_some_items_only(api, user):
    """`dedupe` belongs to an item: one without it is stored, and found by one with it."""
    items = [{"text": "x"}, {"text": "x"}, {"text": "x", "dedupe": True}, {"text": "x"}]
    results = await api.create_many(user, items)
    assert [result["status"] for result in results] == ["created", "created", "duplicate", "created"]
    assert results[2]["id"] == min(results[0]["id"], results[1]["id"])


async def test_many_at_once(api, user):
    """Sixteen clients say the same at once: one memory."""
    answers = await asyncio.gather(*(add(api, user, "all at once") for _ in range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] * 15 + [201]
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_what_was_not_stored_has_no_history(api, user):
    """The memory that answered a duplicate has one event: its own create."""
    memory = (await add(api, user, "once")).json()
    await add(api, user, "once")
    found = await api.client.get(f"/v1/memories/{memory['id']}/history", params={"user_id": user})
    assert [each["event"] for each in found.json()["events"]] == ["created"]
