"""Links that memories get by themselves: which, when, and what they leave alone."""

import asyncio
import random

import numpy as np
import pytest

from memfast.service import associations

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTOMATIC = {"by": "memfast"}
WAIT_S = 20.0
DIMENSIONS = 8


@pytest.fixture(scope="module")
def settings():
    """Vectors come from the tests; links come soon."""
    return {
        "embedding.provider": "none",
        "embedding.dimensions": DIMENSIONS,
        "links.similar": 2,
        "links.similar_min": 0.75,
        "links.entities": 2,
        "links.entity_memories": 4,
        "links.pause_ms": 20.0,
        "links.queue_items": 40,
    }


def vector(*angles):
    """A unit vector: each angle turns it out of the first axis into another, in degrees."""
    numbers = np.zeros(DIMENSIONS)
    numbers[0] = 1.0
    for axis, angle in enumerate(angles, 1):
        turned = np.radians(angle)
        numbers[axis] = numbers[0] * np.sin(turned)
        numbers[0] *= np.cos(turned)
    return numbers.tolist()


ASIDE = [0.0] * (DIMENSIONS - 1) + [1.0]
"""A vector at right angles to those."""


async def settled(api):
    """Return when no memory waits for links or is being linked."""
    async with asyncio.timeout(WAIT_S):
        while True:
            snapshot = api.services.associations.snapshot()
            await api.services.background.join()
            if not snapshot.waiting and not api.services.associations.snapshot().waiting:
                return
            await asyncio.sleep(0.005)


async def links(api, user, **parameters):
    """The user's links, by (lower id, higher id, type)."""
    await settled(api)
    response = await api.client.get("/v1/links", params={"user_id": user, "limit": 1000} | parameters)
    found = response.json()["links"]
    return {(each["from_id"], each["to_id"], each["type"]): each for each in found}


def between(one, other, type_):
    """The key of an undirected link."""
    return (min(one, other), max(one, other), type_)


async def make(api, user, *items):
    """Create memories one after the other; returns their ids."""
    made = [await api.create(user, f"text {number}", **item) for number, item in enumerate(items)]
    return [each["id"] for each in made]


@pytest.mark.parametrize("warm", [False, True])
async def test_a_new_memory_is_linked_with_the_most_similar(api, user, warm):
    """With two of them, by falling cosine, undirected and marked; not with what is less similar."""
    near, nearer, nearest, far = await make(
        api, user, *({"embedding": vector(0, angle)} for angle in (40, 20, 10)), {"embedding": ASIDE}
    )
    await links(api, user)
    if warm:
        assert (await api.client.post("/v1/warm", json={"users": [user]})).json()["users"] == 1
    before = await links(api, user)
    (new,) = await make(api, user, {"embedding": vector(0)})
    after = await links(api, user)
    made = {key: each for key, each in after.items() if key not in before}
    assert {key: each["weight"] for key, each in made.items()} == {
        between(new, nearest, "similar_to"): pytest.approx(np.cos(np.radians(10)), abs=2e-6),
        between(new, nearer, "similar_to"): pytest.approx(np.cos(np.radians(20)), abs=2e-6),
    }
    assert all(each["metadata"] == AUTOMATIC and not each["directed"] for each in after.values())
    assert not [key for key in after if far in key]
    assert between(near, nearer, "similar_to") in before
    search = {"embedding": vector(0), "limit": 10, "expand": {"depth": 1}}
    assert (await api.search(user, **search)).json()["degraded"] == []


async def test_memories_of_one_entity_are_linked(api, user):
    """With those that share most; an entity that too many have says nothing, and weight is the share of all."""
    common = [{"embedding": each, "entities": ["all"]} for each in np.eye(DIMENSIONS)[3:7].tolist()]
    ids = await make(
        api,
        user,
        {"embedding": np.eye(DIMENSIONS)[1].tolist(), "entities": ["ann", "bob"]},
        {"embedding": np.eye(DIMENSIONS)[2].tolist(), "entities": ["ann", "cid", "all"]},
        *common,
    )
    assert {key: each["weight"] for key, each in (await links(api, user)).items() if ids[0] in key} == {
        between(ids[0], ids[1], "shares_entity"): 0.25
    }
    (new,) = await make(api, user, {"embedding": ASIDE, "entities": ["ann", "bob", "all"]})
    found = await links(api, user)
    assert {key: each["weight"] for key, each in found.items() if new in key} == {
        between(new, ids[0], "shares_entity"): 0.666667,
        between(new, ids[1], "shares_entity"): 0.5,
    }
    assert all(each["metadata"] == AUTOMATIC for each in found.values())


async def test_a_link_that_somebody_made_stays_as_it_is(api, user):
    """Of the same type, in either form, it is neither overwritten nor dropped when the memory changes."""
    one, other = await make(api, user, {"embedding": ASIDE}, {"embedding": vector(0)})
    body = {"user_id": user, "from_id": one, "to_id": other, "type": "similar_to", "weight": 0.1}
    await api.client.post("/v1/links", json=body)
    before = await links(api, user)
    await api.patch(user, one, {"text": "as the other", "embedding": vector(0)})
    assert await links(api, user) == before
    await api.patch(user, one, {"text": "alone again", "embedding": ASIDE})
    assert await links(api, user) == before


async def test_links_follow_a_change_of_what_is_said(api, user):
    """A new text drops the old links by text, new entities those by entity; another change neither."""
    items = [{"embedding": vector(0), "entities": ["ann"]}, {"embedding": vector(0, 10), "entities": ["ann"]}]
    one, other = await make(api, user, *items)
    both = {between(one, other, "similar_to"), between(one, other, "shares_entity")}
    before = await links(api, user)
    assert set(before) == both
    await api.patch(user, one, {"tags": ["new"], "importance": 0.9})
    assert await links(api, user) == before
    await api.patch(user, one, {"text": "of something else", "embedding": ASIDE})
    assert set(await links(api, user)) == {between(one, other, "shares_entity")}
    await api.patch(user, one, {"entities": ["bob"]})
    assert await links(api, user) == {}
    await api.patch(user, one, {"text": "as before", "embedding": vector(0), "entities": ["ann"]})
    assert set(await links(api, user)) == both


async def test_what_was_deleted_is_not_linked(api, user):
    """Nor what was forgotten while it waited; and no link brings anything back."""
    (kept,) = await make(api, user, {"embedding": vector(0)})
    (gone,) = await make(api, user, {"embedding": vector(0, 5), "entities": ["ann"]})
    await api.delete(user, gone)
    assert await links(api, user) == {}
    assert (await api.get(user, gone)).status_code == 404
    await make(api, user, {"embedding": vector(0, 3)}, {"embedding": vector(0, 4)})
    assert (await api.client.delete(f"/v1/users/{user}")).status_code == 200
    assert await links(api, user) == {}
    assert (await api.get(user, kept)).status_code == 404


async def test_a_batch_is_linked_within_itself(api, user, monkeypatch):
    """As single creates are, to the same weights, however the user is read: by queries, or as a whole."""
    chance = random.Random(4)
    items = [{"text": f"m{n}", "embedding": vector(*(chance.uniform(-30, 30) for _ in range(4)))} for n in range(30)]
    found = []
    for cold_max in (0, 100):
        monkeypatch.setattr(associations, "COLD_MAX", cold_max)
        owner = api.new_user()
        ids = [each["id"] for each in await api.create_many(owner, items)]
        place = {target: number for number, target in enumerate(ids)}
        made = await links(api, owner)
        found.append({(place[a], place[b]): each["weight"] for (a, b, _), each in made.items()})
    assert found[0] == found[1]
    matrix = np.array([item["embedding"] for item in items], np.float32)
    cosines = np.round(matrix.astype(float) @ matrix.T, 6)
    np.fill_diagonal(cosines, 0)
    wanted = set()
    for row in range(len(items)):
        best = [other for other in np.argsort(-cosines[row])[:2].tolist() if cosines[row][other] >= 0.75]
        wanted |= {(row, other) for other in best} | {(other, row) for other in best}
    assert {pair for each in found[0] for pair in (each, each[::-1])} == wanted


async def test_what_finds_no_place_is_counted(api, user):
    """More memories than may wait get no links; the queue says how many, and the writes are answered all the same."""
    await settled(api)
    before = (await api.client.get("/v1/background")).json()["links"]
    await api.create_many(user, [{"text": f"m{n}", "embedding": vector(0, n)} for n in range(50)])
    await links(api, user)
    after = (await api.client.get("/v1/background")).json()["links"]
    assert (after["queue_limit"], after["waiting"]) == (40, 0)
    assert after["dropped"] - before["dropped"] == 10
    assert after["done"] - before["done"] == 40
    assert after["links"] > before["links"]


async def test_several_creates_share_one_write_of_links(api, user, monkeypatch):
    """A pause gathers them: the version rises by the number of links in one transaction."""
    monkeypatch.setattr(
        api.services.associations, "_settings", _with_pause(api.services.associations._settings, pause_s=0.3)
    )
    await make(api, user, *({"embedding": vector(0, angle)} for angle in (0, 5, 10, 15)))
    async with api.database() as connection:
        found = await links(api, user)
        query = "SELECT count(DISTINCT l.xmin::text) FROM links l JOIN scopes USING (scope_id) WHERE user_id = $1"
        assert await connection.fetchval(query, user) == 1
    assert len(found) >= 4


def _with_pause(settings, **changes):
    """The settings, changed."""
    return associations.AssociationSettings(
        **{name: getattr(settings, name) for name in settings.__struct_fields__} | changes
    )
