"""What memories speak of, over HTTP: which entities there are, and the memories of one."""

import asyncio
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = ["Ann", "ann", "Bob", "ümlaut", "東京", "a b", "Z", "100%_x", '"quoted"']


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


async def entities(api, user, **parameters):
    """The answer of the route."""
    response = await api.client.get("/v1/entities", params={"user_id": user} | parameters)
    assert response.status_code == 200, response.text
    return response.json()


async def every(api, user, limit):
    """All entities, page by page, as pairs."""
    found, cursor = [], {}
    while True:
        page = await entities(api, user, limit=limit, **cursor)
        assert len(page["entities"]) <= limit
        assert page["has_more"] == (page["next_cursor"] is not None)
        found += [(each["entity"], each["memories"]) for each in page["entities"]]
        if not page["has_more"]:
            return found
        cursor = {"cursor": page["next_cursor"]}


@pytest.mark.parametrize("number", range(3))
async def test_entities_are_counted_over_live_memories(api, user, number):
    """Compared with plain Python after creates, a patch and a delete, in byte order, whatever the page."""
    chance = random.Random(number)
    items = [{"text": f"m{n}", "entities": chance.sample(NAMES, chance.randrange(5))} for n in range(30)]
    ids = [each["id"] for each in await api.create_many(user, items)]
    await api.create_many(api.new_user(), items)
    await api.patch(user, ids[0], {"entities": ["only here"]})
    await api.delete(user, ids[1])
    ends = datetime.now(UTC) + timedelta(seconds=0.3)
    await api.patch(user, ids[2], {"expires_at": ends.isoformat()})
    while (await api.get(user, ids[2])).status_code == 200:
        assert datetime.now(UTC) < ends + timedelta(seconds=10)
        await asyncio.sleep(0.02)
    live = [["only here"], *(item["entities"] for item in items[3:])]
    counts = Counter(entity for each in live for entity in each)
    wanted = sorted(counts.items(), key=lambda each: each[0].encode())
    for limit in (1, 4, 100):
        assert await every(api, user, limit) == wanted
    for entity, count in wanted:
        listed = (await api.listing(user, entity=entity, limit=100)).json()["memories"]
        assert len(listed) == count
        assert all(entity in memory["entities"] for memory in listed)
        searched = await api.search(user, query="m", limit=100, mode="vector", filter={"entities": entity})
        assert {hit["id"] for hit in searched.json()["results"]} == {memory["id"] for memory in listed}


async def test_a_write_shows_at_once(api, user, check_problem):
    """The version is that of the state; nobody has none; a cursor is bound to the user."""
    assert await entities(api, user) == {"entities": [], "next_cursor": None, "has_more": False}
    for number, name in enumerate(("b", "a"), 1):
        await api.create(user, entities=[name])
        answer = await api.client.get("/v1/entities", params={"user_id": user, "limit": 1})
        assert answer.headers["memfast-version"] == str(number)
        assert answer.json()["entities"] == [{"entity": name, "memories": 1}]
    cursor = answer.json()["next_cursor"]
    assert (await entities(api, user, cursor=cursor))["entities"] == [{"entity": "b", "memories": 1}]
    response = await api.client.get("/v1/entities", params={"user_id": api.new_user(), "cursor": cursor})
    check_problem(response, 400, "invalid-request", "cursor")
    response = await api.client.get("/v1/entities", params={"user_id": user, "limit": 1001})
    check_problem(response, 400, "invalid-request", "limit")
