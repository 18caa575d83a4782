"""Deleting what a filter finds: exactly that, in bounded steps, and never a user by mistake."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from memfast.resilience.clock import SystemClock
from memfast.service import forget
from memfast.service.sweeps import STEP_ROWS

URL = "/v1/memories/delete"
SEA = {"tags": "sea"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def remove(api):
    """Function: delete by a filter; returns the response."""

    async def removed(user_id, where=SEA, **fields):
        return await api.client.post(URL, json={"user_id": user_id, "filter": where} | fields)

    return removed


async def make(api, user, count, tags=("sea",)):
    """Create memories; returns their ids, in their order."""
    items = [{"text": f"text {row}", "tags": list(tags)} for row in range(count)]
    return sorted(each["id"] for each in await api.create_many(user, items))


async def living(api, user):
    """The ids that a listing shows."""
    return {memory["id"] for memory in (await api.listing(user, limit=1000)).json()["memories"]}


async def test_exactly_what_passes_is_deleted(api, user, remove):
    """More than two steps: counted, named, gone from every tier and to be brought back; everything else stays."""
    kept = await make(api, user, 3, tags=["land"])
    gone = await make(api, user, 2 * STEP_ROWS + 5)
    neighbour = api.new_user()
    others = await make(api, neighbour, 1)
    await asyncio.gather(*(api.search(user, query="text", limit=500) for _ in range(3)))
    response = await remove(user)
    answer = response.json()
    assert (answer["matched"], answer["deleted"], answer["changed"]) == (len(gone), len(gone), 0)
    assert (answer["has_more"], answer["dry_run"], answer["ids"]) == (False, False, gone)
    assert response.headers["memfast-version"] == str(answer["version"]) == str(3 + 2 * len(gone))
    assert response.headers["memfast-token"].endswith(f".{answer['version']}")
    assert await living(api, user) == set(kept)
    found = (await api.search(user, query="text", limit=500)).json()["results"]
    assert {hit["id"] for hit in found} == set(kept)
    assert (await api.client.get(f"/v1/users/{user}")).json()["memories"] == 3
    assert await living(api, neighbour) == set(others)
    path = f"/v1/memories/{gone[0]}/undelete"
    assert (await api.client.post(path, params={"user_id": user})).status_code == 200


async def test_a_dry_run_tells_and_changes_nothing(api, user, remove):
    """The same ids as the real one, no version taken, and no token."""
    ids = await make(api, user, STEP_ROWS + 1)
    before = await api.counts()
    response = await remove(user, dry_run=True)
    answer = response.json()
    assert (answer["matched"], answer["deleted"], answer["dry_run"], answer["ids"]) == (len(ids), 0, True, ids)
    assert answer["version"] == len(ids)
    assert "memfast-token" not in response.headers
    assert await api.counts() == before
    assert (await remove(user)).json()["ids"] == ids


@pytest.mark.parametrize("limit", [1, STEP_ROWS, STEP_ROWS + 1])
async def test_a_limit_leaves_the_rest(api, user, remove, limit):
    """The first by id go, and the answer says that others match until none does."""
    ids = await make(api, user, limit + 1)
    first, second = [(await remove(user, limit=limit)).json() for _ in range(2)]
    assert (first["deleted"], first["has_more"], first["ids"]) == (limit, True, ids[:-1])
    assert (second["deleted"], second["has_more"], second["ids"]) == (1, False, ids[-1:])
    third = await remove(user, limit=limit)
    assert (third.json()["matched"], third.json()["ids"]) == (0, [])
    assert "memfast-token" not in third.headers


async def test_the_ids_that_are_told_are_bounded(api, user, remove, monkeypatch):
    """All are deleted and counted, the first are named."""
    monkeypatch.setattr(forget, "REMOVED_IDS_MAX", 2)
    ids = await make(api, user, 5)
    answer = (await remove(user)).json()
    assert (answer["deleted"], answer["ids"]) == (5, ids[:2])


@pytest.mark.parametrize("purge", [True, False])
async def test_purge_erases_from_history(api, user, remove, purge):
    """What was said goes with its past; without purge it can be read there."""
    (target,) = await make(api, user, 1)
    await api.patch(user, target, {"text": "changed"})
    assert (await remove(user, purge=purge)).json()["deleted"] == 1
    events = await api.client.get(f"/v1/memories/{target}/history", params={"user_id": user})
    assert ("changed" in events.text) is not purge
    undone = await api.client.post(f"/v1/memories/{target}/undelete", params={"user_id": user})
    assert undone.status_code == (404 if purge else 200)


class Later(SystemClock):
    """A clock that is an hour ahead."""

    def now(self):
        return super().now() + timedelta(hours=1)


async def test_what_a_listing_does_not_show_is_left(api, user, remove, monkeypatch):
    """Expired and deleted memories do not pass, whatever they said."""
    deleted, expired, lives = await make(api, user, 3)
    await api.delete(user, deleted)
    await api.patch(user, expired, {"expires_at": (datetime.now(UTC) + timedelta(minutes=30)).isoformat()})
    monkeypatch.setattr(api.services.forget, "_clock", Later())
    assert (await remove(user)).json()["ids"] == [lives]


async def test_what_changes_meanwhile_is_left_alone(api, user, remove, monkeypatch):
    """A memory that was changed after it was found, and one that was stored since, are not what was asked about."""
    ids = await make(api, user, STEP_ROWS + 1)
    store = api.services.forget._store
    real, looks = store.matching, []

    async def matching(*arguments, **more):
        page = await real(*arguments, **more)
        if not looks:
            await api.patch(user, ids[0], {"importance": 1.0})
            await api.patch(user, ids[-1], {"importance": 1.0})
            looks.append(await make(api, user, 1))
        return page

    monkeypatch.setattr(store, "matching", matching)
    answer = (await remove(user)).json()
    assert (answer["matched"], answer["deleted"], answer["changed"]) == (STEP_ROWS, STEP_ROWS - 1, 1)
    assert await living(api, user) == {ids[0], ids[-1], *looks[0]}
    monkeypatch.undo()
    assert set((await remove(user)).json()["ids"]) == {ids[0], ids[-1], *looks[0]}


@pytest.mark.parametrize(
    "body",
    [
        {"filter": SEA},
        {"user_id": "u"},
        {"user_id": "u", "filter": None},
        {"user_id": "", "filter": SEA},
        {"user_id": "u", "filter": SEA, "limit": 0},
        {"user_id": "u", "filter": SEA, "limit": 10_001},
        {"user_id": "u", "filter": {"colour": "red"}},
        {"user_id": "u", "filter": SEA, "ids": []},
    ],
)
async def test_a_request_without_a_user_or_a_filter_is_refused(api, check_problem, body):
    """Nothing is deleted by what was left out."""
    before = await api.counts()
    check_problem(await api.client.post(URL, json=body), 400, "invalid-request")
    assert await api.counts() == before


@pytest.mark.parametrize("where", [{}, {"AND": []}, {"NOT": {"OR": []}}, {"AND": [{}, {"OR": []}]}])
async def test_a_filter_without_a_condition_is_refused(api, user, remove, check_problem, where):
    """It would be everything, which has a route of its own."""
    await make(api, user, 1)
    problem = check_problem(await remove(user, where), 400, "invalid-request", "$.filter")
    assert "/v1/users/" in problem["detail"]
    assert len(await living(api, user)) == 1


async def test_a_user_who_is_not_there_has_nothing_to_delete(api, user, remove):
    """And is not made by asking."""
    assert (await remove(user)).json()["matched"] == 0
    assert (await api.client.get(f"/v1/users/{user}")).status_code == 404
