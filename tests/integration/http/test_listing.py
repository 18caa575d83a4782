"""Pages of memories, on every PostgreSQL that is supported: each memory exactly once, and nothing of others."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")

START = datetime(2024, 1, 1, tzinfo=UTC)
KINDS, AGENTS, RUNS = ("fact", "event"), ("a1", "a2", None), ("r1", None)
TOTAL = 60


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


@pytest.fixture(scope="module")
def expected(site):
    """What `listed` stored, newest first; filled by it."""
    return []


@pytest_asyncio.fixture(loop_scope="module")
async def listed(api, expected):
    """A user with 60 memories of four moments, so that most created_at are equal, and a neighbour like it."""
    if not expected:
        items = [
            {
                "text": f"m{number}",
                "created_at": (START + timedelta(seconds=number % 4)).isoformat(),
                "kind": KINDS[number % 2],
                "agent_id": AGENTS[number % 3],
                "run_id": RUNS[number % 2],
                "tags": [f"t{number % 5}", "all"],
            }
            for number in range(TOTAL)
        ]
        for name in ("neighbour", "listed"):
            results = await api.create_many(name, items)
        body = {"user_id": "listed", "ids": [result["id"] for result in results]}
        memories = (await api.client.post("/v1/memories/get", json=body)).json()["memories"]
        expected.extend(sorted(memories, key=lambda memory: (memory["created_at"], memory["id"]), reverse=True))
    return "listed"


async def pages(api, user_id, **parameters):
    """All pages of a listing."""
    found, cursor = [], {}
    for _ in range(TOTAL + 2):
        answer = (await api.listing(user_id, **parameters, **cursor)).json()
        assert answer["has_more"] == (answer["next_cursor"] is not None)
        found.append(answer["memories"])
        if not answer["has_more"]:
            return found
        cursor = {"cursor": answer["next_cursor"]}
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("order", ["created_desc", "created_asc"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 15, 20, 59, 60, 61, 1000])
async def test_pages_of_any_size_hold_each_memory_once(api, listed, expected, order, limit):
    """Equal times included; only the last page may be shorter, and none is empty."""
    found = await pages(api, listed, order=order, limit=limit)
    assert list(itertools.chain(*found)) == (expected if order == "created_desc" else expected[::-1])
    assert all(len(page) == limit for page in found[:-1])
    assert 0 < len(found[-1]) <= limit


async def test_the_default_is_twenty_newest_first(api, listed, expected):
    """Without limit and order."""
    assert (await api.listing(listed)).json()["memories"] == expected[:20]


FILTERS = [
    {"kind": "event"},
    {"tag": "t3"},
    {"agent_id": "a2"},
    {"run_id": "r1"},
    {"kind": "fact", "tag": "t0", "agent_id": "a1"},
    {"kind": "event", "run_id": "r1"},
    {"tag": "nothing"},
    {"kind": "null"},
    {"agent_id": ""},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("limit", [1, 4, 100])
async def test_filters_narrow_a_listing(api, listed, expected, filters, limit):
    """One filter or several; a value that nothing has gives an empty page, never everything."""
    wanted = [
        memory
        for memory in expected
        if all(value in memory["tags"] if name == "tag" else memory[name] == value for name, value in filters.items())
    ]
    assert list(itertools.chain(*await pages(api, listed, limit=limit, **filters))) == wanted


async def test_an_unknown_user_has_an_empty_page(api, user):
    """Not a 404: a user is whoever stores something."""
    response = await api.listing(user)
    assert response.json() == {"memories": [], "next_cursor": None, "has_more": False}
    assert response.headers["memfast-version"] == "0"


async def test_a_cursor_serves_its_own_listing_alone(api, listed, check_problem):
    """Another user, filter or order refuses it; another limit does not."""
    cursor = (await api.listing(listed, limit=5)).json()["next_cursor"]
    assert (await api.listing(listed, limit=7, cursor=cursor)).status_code == 200
    for user_id, parameters in [
        ("neighbour", {}),
        ("nobody", {}),
        (listed, {"kind": "fact"}),
        (listed, {"tag": "all"}),
        (listed, {"agent_id": "a1"}),
        (listed, {"run_id": "r1"}),
        (listed, {"order": "created_asc"}),
    ]:
        response = await api.listing(user_id, cursor=cursor, limit=5, **parameters)
        check_problem(response, 400, "invalid-request", "cursor")


async def test_a_cursor_of_one_filter_does_not_serve_another(api, listed, check_problem):
    """The same value under another name is another filter."""
    cursor = (await api.listing(listed, limit=1, kind="fact")).json()["next_cursor"]
    check_problem(await api.listing(listed, tag="fact", cursor=cursor), 400, "invalid-request", "cursor")


async def test_a_changed_cursor_is_refused(api, listed, check_problem):
    """Every single character counts, and so does the length."""
    cursor = (await api.listing(listed, limit=5)).json()["next_cursor"]
    changed = {
        cursor[:-1],
        cursor[1:],
        cursor + "AAAA",
        cursor[:4],
        cursor.swapcase(),
        "",
        "null",
        "é",
        "=",
        cursor * 50,
    }
    for place in range(len(cursor) - 1):  # the last one may hold bits that base64 does not use
        changed.add(cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :])
    for each in sorted(changed):
        check_problem(await api.listing(listed, cursor=each), 400, "invalid-request", "cursor")


async def test_a_users_cursor_is_no_cursor_of_memories(api, listed, check_problem):
    """Cursors of the two listings cannot be exchanged."""
    users = (await api.client.get("/v1/users", params={"limit": 1})).json()["next_cursor"]
    memories = (await api.listing(listed, limit=5)).json()["next_cursor"]
    check_problem(await api.listing(listed, cursor=users), 400, "invalid-request", "cursor")
    response = await api.client.get("/v1/users", params={"cursor": memories})
    check_problem(response, 400, "invalid-request", "cursor")


async def test_paging_on_while_memories_come_and_go(api, user):
    """What was there all the time is listed exactly once, whatever is stored and deleted between the pages."""
    stayed = {result["id"] for result in await api.create_many(user, [{"text": "x"}] * 20)}
    gone = [result["id"] for result in await api.create_many(user, [{"text": "y"}] * 20)]
    seen, cursor = [], {}
    while True:
        answer = (await api.listing(user, limit=3, **cursor)).json()
        seen.extend(memory["id"] for memory in answer["memories"])
        if not answer["has_more"]:
            break
        cursor = {"cursor": answer["next_cursor"]}
        await api.create(user, "new")
        if gone:
            await api.delete(user, gone.pop())
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)


async def test_a_page_is_a_snapshot_of_one_version(api, user):
    """While a batch commits, a page shows all of it or none, and the version that belongs to it."""
    await api.create(user, "first")

    async def write():
        for _ in range(10):
            await api.create_many(user, [{"text": "x"}] * 10)

    writing = asyncio.create_task(write())
    while not writing.done():
        await asyncio.sleep(0)  # an answer from the cache never waits, and the writer needs its turn
        response = await api.listing(user, limit=1000)
        assert int(response.headers["memfast-version"]) == len(response.json()["memories"])
        response = await api.search(user, query="x", limit=1000)
        assert response.json()["version"] == len(response.json()["results"])
    await writing


async def test_users_are_listed_in_byte_order_of_their_ids(api):
    """Every user once, whatever the size of the page."""
    names = {"b", "a", "Z", "é", "aa", "a ", "~", "👋"}
    for name in names:
        await api.create(f"order/{name}", "x")
    for limit in (1, 3, 1000):
        found, cursor = [], {}
        while True:
            response = await api.client.get("/v1/users", params={"limit": limit} | cursor)
            assert response.is_success, response.text
            answer = response.json()
            found.extend(user["user_id"] for user in answer["users"])
            if not answer["has_more"]:
                break
            cursor = {"cursor": answer["next_cursor"]}
        assert len(found) == len(set(found))
        assert found == sorted(found, key=str.encode)
        assert {name for name in found if name.startswith("order/")} == {f"order/{name}" for name in names}
