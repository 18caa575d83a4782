"""Changing and deleting many memories in one request: one transaction, a result for each item."""

import asyncio

import msgspec
import pytest

URL = "/v1/memories/batch"
UNKNOWN = "5b83d9c9-d3a4-4c1e-9a53-5f2b8c6d7e01"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def change(api):
    """Function: change items of a user; returns the response."""

    async def changed(user_id, items, **arguments):
        return await api.request("PATCH", URL, json={"user_id": user_id, "memories": items}, **arguments)

    return changed


@pytest.fixture
def remove(api):
    """Function: delete ids of a user; returns the response."""

    async def removed(user_id, ids, **fields):
        return await api.request("DELETE", URL, json={"user_id": user_id, "ids": ids} | fields)

    return removed


@pytest.fixture
def calls(api, monkeypatch):
    """The texts of each call of the model."""
    seen = []
    real = api.services.embedder._embedder.embed

    async def embed(texts):
        seen.append(list(texts))
        return await real(texts)

    monkeypatch.setattr(api.services.embedder._embedder, "embed", embed)
    return seen


async def make(api, user, count):
    """Create memories; returns their ids."""
    return [each["id"] for each in await api.create_many(user, [{"text": f"text {row}"} for row in range(count)])]


async def test_many_changes_are_one_transaction(api, user, change, calls):
    """Each item takes a version, changed texts are embedded in one call, and every tier shows what is now."""
    ids = await make(api, user, 30)
    await asyncio.gather(*(api.search(user, query="blue whale") for _ in range(3)))
    calls.clear()
    before = api.services.writer.snapshot().flushes
    items = [
        {"id": target} | ({"text": f"a blue whale {user} {row}"} if row % 3 else {"kind": "habit"})
        for row, target in enumerate(ids)
    ]
    response = await change(user, items)
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["id"] for result in results] == ids
    assert {result["status"] for result in results} == {"updated"}
    assert [result["version"] for result in results] == list(range(31, 61))
    assert response.headers["memfast-version"] == "60"
    assert response.headers["memfast-token"].endswith(".60")
    assert calls == [[item["text"] for item in items if "text" in item]]
    assert api.services.writer.snapshot().flushes == before + 1
    listed = (await api.listing(user, limit=100, order="created_asc")).json()["memories"]
    assert [memory["kind"] for memory in listed] == ["fact" if row % 3 else "habit" for row in range(30)]
    found = (await api.search(user, query=f"a blue whale {user} 1", limit=1)).json()
    assert found["results"][0]["id"] == ids[1]
    assert found["version"] == 60


async def test_an_item_that_cannot_be_changed_fails_alone(api, user, change):
    """Each says what was wrong and where; the others are changed."""
    ids = await make(api, user, 4)
    items = [
        {"id": ids[0], "kind": "habit"},
        {"id": UNKNOWN, "kind": "habit"},
        {"id": ids[1], "version": 9, "kind": "habit"},
        {"id": ids[1], "version": 2, "kind": "rule"},
        {"id": ids[2]},
        {"id": ids[2], "text": ""},
        {"id": ids[2], "text": None},
        {"id": ids[2], "mood": "good"},
        {"id": "no uuid", "kind": "habit"},
        {"kind": "habit"},
        {"id": ids[3], "embedding": [1.0]},
        {"id": ids[3], "importance": 0.25, "tags": ["a"]},
    ]
    results = (await change(user, items)).json()["results"]
    assert [result["status"] for result in results] == ["updated", *["error"] * 2, "updated", *["error"] * 7, "updated"]
    problems = [result.get("problem", {}) for result in results]
    assert [problem.get("status") for problem in problems] == [None, 404, 412, None, *[400] * 7, None]
    paths = [problem.get("path") for problem in problems[4:11]]
    names = ["", ".text", ".text", "", ".id", "", ".embedding"]
    assert paths == [f"$.memories[{row}]{name}" for row, name in enumerate(names, 4)]
    assert all(problem["path"] in problem["detail"] for problem in problems[4:11])
    assert "version 9 is asked for" in problems[2]["detail"]
    listed = (await api.listing(user, order="created_asc")).json()["memories"]
    assert [memory["kind"] for memory in listed] == ["habit", "rule", "fact", "fact"]
    assert (listed[3]["importance"], listed[3]["tags"]) == (0.25, ["a"])


async def test_changes_of_one_memory_follow_each_other(api, user, change):
    """Twice in one batch is two versions, the second on top of the first."""
    memory = await api.create(user)
    items = [{"id": memory["id"], "kind": "a", "version": 1}, {"id": memory["id"], "tags": ["b"], "version": 2}]
    assert [result["version"] for result in (await change(user, items)).json()["results"]] == [2, 3]
    now = (await api.get(user, memory["id"])).json()
    assert (now["kind"], now["tags"], now["version"]) == ("a", ["b"], 3)


async def test_changes_of_several_users(api, change):
    """The item's user wins over the batch's; nobody reaches another's; such an answer has no token."""
    one, two = api.new_user(), api.new_user()
    first, second = await api.create(one), await api.create(two)
    items = [
        {"id": first["id"], "kind": "habit"},
        {"id": second["id"], "kind": "habit", "user_id": two},
        {"id": second["id"], "kind": "habit"},
    ]
    response = await change(one, items)
    assert [result["status"] for result in response.json()["results"]] == ["updated", "updated", "error"]
    assert "memfast-token" not in response.headers
    nobody = (await api.request("PATCH", URL, json={"memories": items[:1]})).json()["results"][0]
    assert nobody["problem"]["path"] == "$.memories[0].user_id"


async def test_msgpack_says_the_same(api, user, change, remove):
    """Vectors as bytes, the answer as the client wants it."""
    (target,) = await make(api, user, 1)
    vector = bytes(4 * (api.site.prepared.dimensions - 1)) + b"\0\0\x80?"
    body = msgspec.msgpack.encode({"user_id": user, "memories": [{"id": target, "embedding": vector}]})
    headers = {"content-type": "application/msgpack", "accept": "application/msgpack"}
    response = await api.request("PATCH", URL, content=body, headers=headers)
    assert msgspec.msgpack.decode(response.content)["results"] == [{"id": target, "status": "updated", "version": 2}]
    found = await api.search(user, embedding=[0.0] * (api.site.prepared.dimensions - 1) + [1.0])
    assert found.json()["results"][0]["score"] == 1.0
    body = msgspec.msgpack.encode({"user_id": user, "ids": [target]})
    response = await api.request("DELETE", URL, content=body, headers=headers)
    assert msgspec.msgpack.decode(response.content)["results"][0]["status"] == "deleted"


@pytest.mark.parametrize("count", [3, 200])
async def test_many_deletes_are_one_transaction(api, user, remove, count):
    """Each id has a result: deleted now or before, or never there; every tier forgets at once."""
    ids = await make(api, user, count)
    await asyncio.gather(*(api.search(user, query="text") for _ in range(3)))
    await api.delete(user, ids[0])
    before = api.services.writer.snapshot().flushes
    response = await remove(user, [*ids[:-1], UNKNOWN])
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["id"] for result in results] == [*ids[:-1], UNKNOWN]
    assert [result["status"] for result in results] == ["deleted"] * (count - 1) + ["error"]
    versions = [result["version"] for result in results[:-1]]
    assert versions == [count + 1, *range(count + 3, 2 * count + 1)]  # the first had been deleted before
    assert results[-1]["problem"]["status"] == 404
    assert response.headers["memfast-version"] == str(2 * count + 1)
    assert api.services.writer.snapshot().flushes == before + 1
    assert [memory["id"] for memory in (await api.listing(user)).json()["memories"]] == ids[-1:]
    assert [hit["id"] for hit in (await api.search(user, query="text")).json()["results"]] == ids[-1:]
    assert (await api.get(user, ids[1])).status_code == 404
    assert [result["status"] for result in (await remove(user, ids)).json()["results"]] == ["deleted"] * count


async def test_purging_many(api, user, remove):
    """Nothing of them can be brought back."""
    kept, purged = await make(api, user, 2)
    await remove(user, [kept])
    await remove(user, [purged], purge=True)
    for target, status in ((kept, 200), (purged, 404)):
        response = await api.request("POST", f"/v1/memories/{target}/undelete", params={"user_id": user})
        assert response.status_code == status


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
@pytest.mark.parametrize("count", [0, 1001])
async def test_the_number_of_items_is_bounded(api, user, check_problem, method, count):
    """None and too many are refused as a whole."""
    items = {"ids": [UNKNOWN] * count} if method == "DELETE" else {"memories": [{"id": UNKNOWN, "kind": "x"}] * count}
    before = await api.counts()
    response = await api.request(method, URL, json={"user_id": user} | items)
    check_problem(response, 400, "invalid-request", path="$.ids" if method == "DELETE" else "$.memories")
    assert await api.counts() == before


async def test_a_thousand_changes_and_deletes(api, user, change, remove):
    """As many as may be."""
    ids = await make(api, user, 1000)
    changed = (await change(user, [{"id": target, "importance": 0.75} for target in ids])).json()["results"]
    assert [result["version"] for result in changed] == list(range(1001, 2001))
    deleted = (await remove(user, ids)).json()["results"]
    assert [result["version"] for result in deleted] == list(range(2001, 3001))
    assert (await api.listing(user)).json()["memories"] == []
