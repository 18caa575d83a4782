"""The three tiers over HTTP: who answers, that all say the same, and the routes that manage them."""

import asyncio
import base64
from uuid import uuid4

import numpy as np
import pytest

from memfast.errors import StoreUnavailable
from memfast.service.coherence import SILENT_CHECKS, TRUST_S

pytestmark = pytest.mark.asyncio(loop_scope="module")

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def settings():
    """Vectors come from the tests."""
    return {"embedding.provider": "none", "embedding.dimensions": 16}


def vector():
    """A random vector as base64."""
    return base64.b64encode(RNG.standard_normal(16).astype("<f4").tobytes()).decode()


async def fill(api, user, count=40):
    """Give a user memories."""
    await api.create_many(user, [{"text": f"m{n}", "embedding": vector()} for n in range(count)])


async def make_warm(api, user):
    """Load a user into memory."""
    response = await api.client.post("/v1/warm", json={"users": [user]})
    assert response.json()["users"] == 1
    return response.json()


async def test_all_tiers_give_the_same_bytes(api, user):
    """Cold, hot and warm answers to one question differ in the header alone."""
    await fill(api, user)
    question = {"embedding": vector(), "limit": 7}
    cold = await api.search(user, **question)
    hot = await api.search(user, **question)
    await make_warm(api, user)
    api.services.answers.clear()
    warm = await api.search(user, **question)
    assert [r.headers["memfast-tier"] for r in (cold, hot, warm)] == ["cold", "hot", "warm"]
    assert cold.content == hot.content == warm.content


async def test_the_second_search_of_a_user_loads_it(api, user):
    """A user who is searched twice within the window is answered from memory from then on."""
    await fill(api, user)
    await api.search(user, embedding=vector())
    await api.search(user, embedding=vector())
    await api.services.warm.load(await scope_of(api, user))
    assert (await api.search(user, embedding=vector())).headers["memfast-tier"] == "warm"


async def scope_of(api, user):
    """The scope of a user in the default namespace."""
    principal = await api.services.access.authenticate(None)
    return api.services.access.scope(principal, user)


async def test_a_warm_user_follows_every_write(api, user):
    """Create, change, delete and forget are seen by the next search, get and list, without leaving memory."""
    await fill(api, user)
    await make_warm(api, user)
    target = vector()
    made = await api.create(user, "new", embedding=target)
    found = await api.search(user, embedding=target, limit=1)
    assert (found.headers["memfast-tier"], found.json()["results"][0]["text"]) == ("warm", "new")
    got = await api.get(user, made["id"])
    assert (got.headers["memfast-tier"], got.headers["etag"]) == ("warm", f'"{made["version"]}"')
    await api.patch(user, made["id"], {"text": "newer", "embedding": target})
    found = await api.search(user, embedding=target, limit=1)
    assert (found.headers["memfast-tier"], found.json()["results"][0]["text"]) == ("warm", "newer")
    await api.delete(user, made["id"])
    assert (await api.get(user, made["id"])).status_code == 404
    found = await api.search(user, embedding=target, limit=1)
    assert (found.headers["memfast-tier"], found.json()["results"][0]["text"] != "newer") == ("warm", True)
    await api.client.delete(f"/v1/users/{user}")
    assert (await api.search(user, embedding=target)).json()["results"] == []


async def test_a_list_is_kept_until_a_write(api, user):
    """An equal listing is answered from finished bytes; after a write it is not."""
    await fill(api, user, 3)
    first = await api.listing(user)
    again = await api.listing(user)
    assert (again.headers["memfast-tier"], again.content) == ("hot", first.content)
    await api.create(user, "one more", embedding=vector())
    after = await api.listing(user)
    assert after.headers["memfast-tier"] == "cold"
    assert len(after.json()["memories"]) == 4


@pytest.mark.parametrize("mode", ["vector", "lexical", "hybrid"])
async def test_users_of_equal_age_are_kept_apart(api, mode):
    """Two users with as many writes, equal ids, vectors and words: whatever answers, each is shown its own."""
    users, shared, ids = (api.new_user(), api.new_user()), vector(), [str(uuid4()) for _ in range(3)]
    for user in users:
        items = [{"id": own, "text": f"a word of {user}", "embedding": shared} for own in ids]
        await api.create_many(user, items)
    question = {"embedding": shared, "mode": mode} if mode != "lexical" else {"mode": mode}
    question |= {} if mode == "vector" else {"query": "words"}
    tiers = set()
    for turn in range(3):
        for user in (*users, *users):
            found = await api.search(user, **question)
            listed, got = await api.listing(user), await api.get(user, ids[0])
            shown = [*found.json()["results"], *listed.json()["memories"], got.json()]
            assert [memory["text"] for memory in shown] == [f"a word of {user}"] * 7
            tiers.add(found.headers["memfast-tier"])
        for user in users if turn == 1 else ():
            await make_warm(api, user)
        question["limit"] = 10 + turn
    assert tiers == {"cold", "hot", "warm"}


async def test_msgpack_and_json_are_kept_apart(api, user):
    """The form of an answer is part of what it is kept under."""
    await fill(api, user, 3)
    body = {"user_id": user, "embedding": vector()}
    for _ in range(2):
        plain = await api.client.post("/v1/search", json=body)
        packed = await api.client.post("/v1/search", json=body, headers={"accept": "application/msgpack"})
        assert plain.headers["content-type"] == "application/json"
        assert packed.headers["content-type"] == "application/msgpack"


async def test_counters_and_clearing(api, user):
    """The counters say what happened, and clearing drops every copy in every worker."""
    await fill(api, user, 3)
    question = {"embedding": vector()}
    before = (await api.client.get("/v1/cache")).json()["layers"]
    await api.search(user, **question)
    await api.search(user, **question)
    after = (await api.client.get("/v1/cache")).json()["layers"]
    assert after["search"]["misses"] > before["search"]["misses"]
    assert after["search"]["hits"] == before["search"]["hits"] + 1
    assert 0 <= after["search"]["hit_rate"] <= 1
    epoch = api.services.coherence.current(0)[1]
    assert (await api.client.post("/v1/cache/clear")).json() == {"cleared": "everything"}
    assert api.services.coherence.current(0)[1] == epoch + 1, "the slot that every worker looks at was raised"
    assert (await api.search(user, **question)).headers["memfast-tier"] == "cold"


async def test_invalidating_a_user_leaves_others(api):
    """Dropping one user's copies, or one memory's, leaves the answers of others."""
    one, two = api.new_user(), api.new_user()
    questions = {}
    for user in (one, two):
        await fill(api, user, 3)
        questions[user] = {"embedding": vector()}
        await api.search(user, **questions[user])
    answer = await api.client.post("/v1/cache/invalidate", json={"user_id": one})
    assert answer.json() == {"cleared": "user"}
    tiers = [(await api.search(user, **questions[user])).headers["memfast-tier"] for user in (one, two)]
    assert tiers == ["cold", "hot"]
    memory = {"user_id": two, "memory_id": "0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e01"}
    assert (await api.client.post("/v1/cache/invalidate", json=memory)).json() == {"cleared": "memory"}
    assert (await api.search(two, **questions[two])).headers["memfast-tier"] == "cold"
    assert (await api.client.post("/v1/cache/invalidate", json={})).json() == {"cleared": "namespace"}


async def test_warming_the_most_read(api, user):
    """What was read most is warmed, and its frequent questions are finished before they are asked."""
    await fill(api, user)
    for _ in range(3):
        await api.listing(user)
    await api.services.heat.flush()
    answer = (await api.client.post("/v1/warm", json={"limit": 1000})).json()
    assert answer["users"] >= 1
    assert (await api.search(user, embedding=vector())).headers["memfast-tier"] == "warm"


async def test_readiness_tells_of_the_warm_up(api):
    """A worker says how far its warm-up is."""
    warming = (await api.client.get("/v1/health/ready")).json()["warming"]
    assert warming["users"] <= warming["users_total"]


async def test_copies_are_served_and_marked_while_the_database_is_silent(api, user, monkeypatch):
    """Without PostgreSQL what is known is served, says so, and says how old it may be; what is not known is refused."""
    await fill(api, user, 3)
    question = {"embedding": vector()}
    fresh = await api.search(user, **question)
    assert "memfast-mode" not in fresh.headers
    coherence = api.services.coherence
    monkeypatch.setattr(coherence, "_trusted_until", coherence._clock.monotonic() - 5 * TRUST_S)
    monkeypatch.setattr(coherence, "_unanswered", SILENT_CHECKS)
    stale = await api.search(user, **question)
    assert (stale.headers["memfast-mode"], stale.content) == ("cache_only", fresh.content)
    assert int(stale.headers["age"]) >= 5
    assert stale.headers["memfast-mode-reason"] == "postgresql does not confirm copies"
    await coherence.check()
    async with asyncio.timeout(10):  # the mode is held for a second after its trigger
        while "memfast-mode" in (await api.search(user, **question)).headers:
            await asyncio.sleep(0.02)


async def test_an_unreachable_ledger_keeps_what_was_served(api, user, monkeypatch):
    """A check that fails neither renews trust nor forgets what it had to look at."""
    await fill(api, user, 3)
    question = {"embedding": vector()}
    await api.search(user, **question)
    await api.search(user, **question)
    coherence = api.services.coherence

    async def refuse(_ids):
        raise StoreUnavailable("away")

    await coherence.check()  # none of the background is under way then
    with monkeypatch.context() as patch:
        patch.setattr(coherence._ledger, "versions", refuse)
        trusted = coherence._trusted_until
        with pytest.raises(StoreUnavailable):
            await coherence.check()
        assert coherence._trusted_until == trusted
    await coherence.check()
    assert coherence._trusted_until > trusted


async def test_forgetting_and_deleting_remove_what_was_saved(api, user):
    """A snapshot on disk does not outlive what it says."""
    await fill(api, user, 20)
    scope = await scope_of(api, user)
    shards = api.services.shards
    await make_warm(api, user)
    path = shards._path(scope.id)
    for erase in ("delete", "forget"):
        made = await api.create(user, "to be erased", embedding=vector())
        shards.save(scope, shards.get(scope.id) or await built(api, scope))
        assert path.exists()
        if erase == "delete":
            await api.delete(user, made["id"])
        else:
            await api.client.delete(f"/v1/users/{user}")
        assert not path.exists()


async def built(api, scope):
    """A shard of a scope as it is now."""
    return api.services.shards.build(scope, await api.services.warm._store.load(scope))


async def test_a_saved_user_is_restored_and_caught_up(api, user):
    """A shard from disk answers with what was written after it was saved."""
    await fill(api, user)
    scope = await scope_of(api, user)
    shards = api.services.shards
    shards.save(scope, await built(api, scope))
    target = vector()
    await api.create(user, "after the save", embedding=target)
    assert shards.restore(scope).version < (await api.client.get(f"/v1/users/{user}")).json()["version"]
    await make_warm(api, user)
    found = await api.search(user, embedding=target, limit=1)
    assert (found.headers["memfast-tier"], found.json()["results"][0]["text"]) == ("warm", "after the save")
