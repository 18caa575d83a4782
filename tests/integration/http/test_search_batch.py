"""Several searches in one request answer as each of them alone, and fail alone."""

import asyncio

import msgspec
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = ("the cat sleeps on the sofa", "the invoice is due in March", "alice is allergic to peanuts")


@pytest.fixture
def counted(api, monkeypatch):
    """Calls of the embedder's model by this test, as lists of texts, and the most searches that ran at once."""
    calls, running = [], {"now": 0, "most": 0}
    inner, service = api.services.embedder._embedder, api.services.search
    embed, search = inner.embed, service.find

    async def counting(texts):
        calls.append(list(texts))
        return await embed(texts)

    async def watching(*arguments):
        running["now"] += 1
        running["most"] = max(running["most"], running["now"])
        try:
            await asyncio.sleep(0)
            return await search(*arguments)
        finally:
            running["now"] -= 1

    monkeypatch.setattr(inner, "embed", counting)
    monkeypatch.setattr(service, "find", watching)
    return calls, running


async def batch(api, searches, **fields):
    """Send several searches."""
    return await api.client.post("/v1/search/batch", json={"searches": searches} | fields)


async def test_each_answer_is_that_of_the_search_alone(api, user):
    """Same hits, scores and version; a search may name a user of its own."""
    other = api.new_user()
    await api.create_many(user, [{"text": text} for text in TEXTS])
    await api.create(other, "bob likes tea")
    searches = [{"query": "pets"}, {"query": "payment", "limit": 2}, {"query": "tea", "user_id": other}]
    alone = [(await api.search(search.get("user_id", user), **_without_user(search))).json() for search in searches]
    response = await batch(api, searches, user_id=user)
    assert response.status_code == 200
    assert response.json()["results"] == alone


async def test_msgpack_says_the_same(api, user):
    """A client that asks for msgpack gets what JSON says."""
    await api.create(user, TEXTS[0])
    body = msgspec.msgpack.encode({"user_id": user, "searches": [{"query": "pets"}]})
    headers = {"content-type": "application/msgpack", "accept": "application/msgpack"}
    response = await api.client.post("/v1/search/batch", content=body, headers=headers)
    plain = await batch(api, [{"query": "pets"}], user_id=user)
    assert msgspec.msgpack.decode(response.content) == plain.json()


async def test_texts_are_embedded_in_one_batch_and_equal_searches_made_once(api, user, counted):
    """Twenty searches of ten texts: one call of the model, ten searches, four at a time."""
    calls, running = counted
    await api.create_many(user, [{"text": text} for text in TEXTS])
    calls.clear()
    texts = [f"a question nobody asked before {user} {number}" for number in range(10)]
    results = (await batch(api, [{"query": text} for text in texts * 2], user_id=user)).json()["results"]
    assert calls == [texts]
    assert running["most"] == 4
    assert results[:10] == results[10:]


async def test_one_that_fails_leaves_the_others_alone(api, user, check_item):
    """A search without a question, with an unknown field, without a user; each says where."""
    await api.create(user, TEXTS[0])
    searches = [
        {"query": "pets", "user_id": user},
        {"limit": 3, "user_id": user},
        {"query": "a", "mood": 1},
        {"query": "a"},
    ]
    results = (await batch(api, searches)).json()["results"]
    assert results[0]["results"][0]["text"] == TEXTS[0]
    check_item(results[1], "$.searches[1]")
    check_item(results[2], "$.searches[2]")
    check_item(results[3], "$.searches[3].user_id")


@pytest.fixture
def check_item():
    """Function: an entry is a problem of the request at this path."""

    def check(item, path):
        assert list(item) == ["problem"]
        assert item["problem"]["status"] in {400, 422}
        assert item["problem"]["path"] == path
        assert item["problem"]["detail"].startswith(path)

    return check


@pytest.mark.parametrize("count", [0, 21])
async def test_the_number_of_searches_is_bounded(api, user, check_problem, count):
    """None and too many are refused as a whole."""
    response = await batch(api, [{"query": "pets"}] * count, user_id=user)
    check_problem(response, 400, "invalid-request", path="$.searches")


async def test_nobody_reads_another_user(api, user):
    """A search in a batch sees its own user's memories and no others."""
    other = api.new_user()
    await api.create(user, "mine alone")
    results = (await batch(api, [{"query": "mine alone"}], user_id=other)).json()["results"]
    assert results[0]["results"] == []


def _without_user(search):
    return {name: value for name, value in search.items() if name != "user_id"}
