"""Settings that are changed while the service runs: what is held follows, and answers stay right."""

import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def settings_of(api):
    """Function: the settings that can be changed, as they are now."""

    async def read():
        return (await api.request("GET", "/v1/settings")).json()["settings"]

    return read


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def as_configured(api):
    """Nothing that a test ordered is left to the next one."""
    yield
    settings = (await api.request("GET", "/v1/settings")).json()["settings"]
    await api.request("PATCH", "/v1/settings", json=dict.fromkeys(settings))


async def test_a_smaller_cache_keeps_less_and_a_larger_one_more(api, user, settings_of):
    """The very caches that answer are resized; every answer is the same."""
    await api.create(user, "the kitchen is blue")
    bodies = [(await api.search(user, query=f"kitchen {number}")).content for number in range(30)]
    held = api.services.caches()["search"]
    assert held.entries >= 30
    response = await api.request("PATCH", "/v1/settings", json={"cache.entries": 10, "cache.search_share": 0.5})
    assert response.json()["settings"]["cache.entries"] == {"value": 10, "configured": 10_000}
    smaller = api.services.caches()["search"]
    assert smaller.entries == smaller.entry_limit == 10
    assert smaller.capacity_bytes == 64 * 1024 * 1024
    assert [(await api.search(user, query=f"kitchen {number}")).content for number in range(30)] == bodies
    await api.request("PATCH", "/v1/settings", json={"cache.entries": None})
    assert [(await api.search(user, query=f"kitchen {number}")).content for number in range(30)] == bodies
    assert api.services.caches()["search"].entries == 30
    now = await settings_of()
    assert now["cache.entries"]["value"] == 10_000
    assert now["cache.search_share"] == {"value": 0.5, "configured": 0.65}


async def test_users_leave_memory_and_come_back(api, user, settings_of):
    """`index.memory_mb` of 0 holds nobody; with room again the second search loads, also who was too large meanwhile."""
    await api.create(user, "the kitchen is blue")
    await api.request("POST", "/v1/warm", json={"users": [user]})
    assert api.services.shards.stats().shards >= 1
    await api.request("PATCH", "/v1/settings", json={"index.memory_mb": 0})
    assert api.services.shards.stats().bytes == 0
    answer = (await api.request("POST", "/v1/warm", json={"users": [user]})).json()
    assert not answer["complete"]
    await api.request("PATCH", "/v1/settings", json={"index.memory_mb": None})
    assert (await api.request("POST", "/v1/warm", json={"users": [user]})).json()["complete"]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"cache.memory_mb": -1}, '$["cache.memory_mb"]'),
        ({"cache.memory_mb": 1.5}, '$["cache.memory_mb"]'),
        ({"server.port": 80}, "$"),
        ({"cache.search_share": 0.9}, "$"),
    ],
)
async def test_what_will_not_do_is_refused(api, check_problem, settings_of, body, path):
    """A value out of its range, one that leaves nothing for the others, and what needs a restart."""
    before = await settings_of()
    response = await api.request("PATCH", "/v1/settings", json={"cache.entries": 7} | body)
    problem = check_problem(response, 400, "invalid-request")
    assert problem["detail"]
    assert await settings_of() == before
