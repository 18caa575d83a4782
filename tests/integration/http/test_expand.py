"""Searches that go on over links: what is added, what it counts, and that every tier says the same."""

import asyncio
import base64
import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord"]
SEEDS = 10
"""Hits that lend."""


@pytest.fixture(scope="module")
def settings():
    """Vectors come from the tests; a leg has so long."""
    return {"embedding.provider": "none", "embedding.dimensions": 8, "search.leg_timeout_ms": 1500}


def vector(chance):
    """A random vector as base64."""
    return base64.b64encode(np.array([chance.gauss() for _ in range(8)], "<f4").tobytes()).decode()


async def scope_of(api, user):
    """The scope of a user in the default namespace."""
    return api.services.access.scope(await api.services.access.authenticate(None), user)


async def fresh(api, user, *, warm=False):
    """Have no copy of the user, or the user in memory alone."""
    scope = await scope_of(api, user)
    await asyncio.gather(*api.services.warm._loads.values())
    api.services.answers.clear()
    api.services.warm.drop(scope.id)
    if warm:
        assert await api.services.warm.load(scope)


async def link(api, user, from_id, to_id, **fields):
    """Link two memories."""
    body = {"user_id": user, "from_id": from_id, "to_id": to_id} | fields
    assert (await api.client.post("/v1/links", json=body)).status_code in {200, 201}


async def found(api, user, **body):
    """Ids and scores of hits, best first."""
    response = await api.search(user, **body)
    assert response.status_code == 200, response.text
    assert response.json()["degraded"] == []
    return [(hit["id"], hit["score"]) for hit in response.json()["results"]]


async def world(api, user, chance, count=30):
    """Give a user memories and links by chance; returns the links and what passes the filter of the tests."""
    items = [
        {
            "text": " ".join(chance.sample(WORDS, 2)) if number % 3 else f"nothing {number}",
            "embedding": vector(chance),
            "tags": ["kept"] if chance.random() < 0.6 else ["other"],
            "run_id": chance.choice(["a", "b", None]),
        }
        for number in range(count)
    ]
    ids = [result["id"] for result in await api.create_many(user, items)]
    links = []
    for _ in range(chance.randrange(10, 80)):
        a, b = chance.sample(ids, 2)
        weight, directed = chance.choice([0.0, 0.25, 0.5, 0.9, 1.0]), chance.random() < 0.4
        links.append({"from_id": a, "to_id": b, "weight": weight, "directed": directed, "type": str(len(links))})
    answer = await api.client.post("/v1/links/batch", json={"user_id": user, "links": links})
    assert {each["status"] for each in answer.json()["results"]} == {"created"}
    return links, {target for target, item in zip(ids, items, strict=True) if item["tags"] == ["kept"]}


def arrived(links, hits, depth):
    """What arrives at which memory, in plain Python: the best product over all paths of at most `depth` links."""
    score = dict(hits[:SEEDS])
    best = {}
    for _ in range(depth):
        step = {}
        for each in links:
            ways = [(each["from_id"], each["to_id"])]
            ways += [] if each["directed"] else [(each["to_id"], each["from_id"])]
            for near, far in ways:
                step[far] = max(step.get(far, 0.0), score.get(near, 0.0) * each["weight"])
        score = step
        best = {target: max(step.get(target, 0.0), best.get(target, 0.0)) for target in step.keys() | best.keys()}
    return best


@pytest.mark.parametrize("number", range(8))
async def test_an_expanded_search_is_the_plain_one_and_what_links_lend(api, user, number):
    """Compared with plain Python over the plain answer, for many questions; every tier gives the same bytes."""
    chance = random.Random(number)
    links, kept = await world(api, user, chance)
    for mode in ("hybrid", "lexical", "vector"):
        limit, depth, weight = chance.choice([1, 3, 10, 100]), chance.choice([1, 2, 4]), chance.choice([0.3, 1.0])
        least, narrow = chance.choice([0.0, 0.0, 0.25]), chance.random() < 0.5
        asked = {} if mode == "lexical" else {"embedding": vector(chance)}
        asked |= {} if mode == "vector" else {"query": " ".join(chance.sample(WORDS, 2))}
        asked |= {"mode": mode, "neighbors": chance.random() < 0.5, "min_score": least}
        asked |= {"filter": {"tags": "kept"}} if narrow else {}
        plain = await found(api, user, limit=100, **asked)
        lent = arrived(links, plain[: min(limit, SEEDS)], depth)
        worth = {each: float(np.round(weight * score, 6)) for each, score in lent.items() if not narrow or each in kept}
        own = dict(plain)
        wanted = own | {each: max(score, own.get(each, 0)) for each, score in worth.items() if score >= least and score}
        order = sorted(wanted.items(), key=lambda each: (-each[1], each[0]))[:limit]
        if mode == "hybrid" and limit > 1 and len(order) == limit:  # the best by words has a place anyway
            order, exact = order[:-1], limit - 1
        else:
            exact = limit
        bodies = []
        for warm in (False, True):
            await fresh(api, user, warm=warm)
            for tier in ("warm" if warm else "cold", "hot"):
                answer = await api.search(user, limit=limit, expand={"depth": depth, "weight": weight}, **asked)
                assert answer.headers["memfast-tier"] == tier
                bodies.append(answer.content)
        assert len(set(bodies)) == 1
        assert [(hit["id"], hit["score"]) for hit in answer.json()["results"]][:exact] == order


async def test_a_memory_without_the_words_is_found_over_a_link(api, user):
    """It has a share of the hit's score; without `expand`, or with no weight, it is not there."""
    hit = await api.create(user, "the amber lamp", embedding=[1.0] + [0.0] * 7)
    other = await api.create(user, "nothing of it", embedding=[0.0, 1.0] + [0.0] * 6)
    await link(api, user, hit["id"], other["id"], weight=0.8)
    asked = {"query": "amber", "mode": "lexical"}
    ((first, score),) = await found(api, user, **asked)
    assert first == hit["id"]
    assert await found(api, user, expand={}, **asked) == [(first, score), (other["id"], round(0.5 * 0.8 * score, 6))]
    assert await found(api, user, expand={"weight": 0.0}, **asked) == [(first, score)]
    assert await found(api, user, expand={"weight": 1.0}, min_score=score, **asked) == [(first, score)]


async def test_explain_says_where_it_came_from(api, user):
    """The hit that lent, the links between, what arrived and what counts of it; other legs only where they looked."""
    ids = [item["id"] for item in await api.create_many(user, [{"text": t, "embedding": e} for t, e in LAMPS])]
    await link(api, user, ids[0], ids[1], weight=0.5, directed=True)
    await link(api, user, ids[1], ids[2], weight=0.5, directed=True)
    expand = {"depth": 2, "weight": 0.4}
    answer = await api.search(user, query="amber", mode="lexical", explain=True, expand=expand)
    first, second, third = answer.json()["results"]
    assert "graph" not in first["scores"]
    assert {"lexical", "convergence", "added"} == set(first["scores"])
    for hit, depth in ((second, 1), (third, 2)):
        raw = round(first["score"] * 0.5**depth, 6)
        graph = {"raw": raw, "weight": 0.4, "score": hit["score"], "from_id": ids[0], "depth": depth}
        assert hit["scores"] == {"convergence": 0.0, "added": 0.0, "graph": graph}
        assert abs(hit["score"] - 0.4 * raw) < 2e-6
    both = await api.search(user, query="amber", embedding=LAMPS[0][1], explain=True, expand={"depth": 2, "weight": 1})
    assert {"lexical", "context", "graph"} <= set(both.json()["results"][1]["scores"])


LAMPS = [
    ("the amber lamp", [1.0] + [0.0] * 7),
    ("one that is beside it", [0.0, 1.0] + [0.0] * 6),
    ("another one", [0.0, 0.0, 1.0] + [0.0] * 5),
]


async def test_links_are_not_followed_over_what_is_gone(api, user):
    """What expires or is deleted is neither added nor led over, and the answer that had it is void."""
    hit, way, far = [await api.create(user, text, embedding=numbers) for text, numbers in LAMPS]
    await link(api, user, hit["id"], way["id"])
    await link(api, user, way["id"], far["id"])
    asked = {"query": "amber", "mode": "lexical", "expand": {"depth": 2}}
    assert [each for each, _ in await found(api, user, **asked)] == [hit["id"], *sorted([way["id"], far["id"]])]
    moment = datetime.now(UTC) + timedelta(seconds=0.5)
    await api.patch(user, way["id"], {"expires_at": moment.isoformat()})
    before = await found(api, user, **asked)
    while len(before) == 3:
        assert datetime.now(UTC) < moment + timedelta(seconds=5)
        await asyncio.sleep(0.05)
        before = await found(api, user, **asked)
    assert [each for each, _ in before] == [hit["id"]]
    await link(api, user, hit["id"], far["id"])
    assert [each for each, _ in await found(api, user, **asked)] == [hit["id"], far["id"]]
    await api.delete(user, far["id"])
    assert [each for each, _ in await found(api, user, **asked)] == [hit["id"]]


async def test_a_batch_and_msgpack_take_it_too(api, user, check_problem):
    """Each search of a batch for itself; what is out of bounds is refused where it stands."""
    hit = await api.create(user, *LAMPS[0][:1], embedding=LAMPS[0][1])
    other = await api.create(user, *LAMPS[1][:1], embedding=LAMPS[1][1])
    await link(api, user, hit["id"], other["id"])
    search = {"query": "amber", "mode": "lexical"}
    body = {"user_id": user, "searches": [search, search | {"expand": {"depth": 1}}, search | {"expand": {"depth": 5}}]}
    results = (await api.client.post("/v1/search/batch", json=body)).json()["results"]
    assert [len(each.get("results", [])) for each in results] == [1, 2, 0]
    assert results[2]["problem"]["path"] == "$.searches[2].expand.depth"
    for expand, path in (({"depth": 0}, "$.expand.depth"), ({"weight": 1.1}, "$.expand.weight")):
        check_problem(await api.search(user, expand=expand, **search), 400, "invalid-request", path)


@pytest.mark.parametrize("warm", [False, True])
async def test_links_that_come_too_late_are_left_out_and_named(api, user, warm):
    """The search goes on without them, says so and is not kept: the next one has them."""
    hit = await api.create(user, *LAMPS[0][:1], embedding=LAMPS[0][1])
    other = await api.create(user, *LAMPS[1][:1], embedding=LAMPS[1][1])
    await link(api, user, hit["id"], other["id"])
    await fresh(api, user, warm=warm)
    asked = {"query": "amber", "mode": "lexical", "expand": {}}
    async with api.database() as connection:
        async with connection.transaction():
            await connection.execute("LOCK TABLE links IN ACCESS EXCLUSIVE MODE")
            answers = await asyncio.gather(*(api.search(user, **asked) for _ in range(3)))
        for answer in answers:
            assert answer.json()["degraded"] == ["graph"]
            assert [each["id"] for each in answer.json()["results"]] == [hit["id"]]
    assert [each for each, _ in await found(api, user, **asked)] == [hit["id"], other["id"]]


async def test_equal_searches_at_once_follow_links_once(api, user):
    """Thirty askers, one walk: the others are given its answer."""
    hit = await api.create(user, *LAMPS[0][:1], embedding=LAMPS[0][1])
    other = await api.create(user, *LAMPS[1][:1], embedding=LAMPS[1][1])
    await link(api, user, hit["id"], other["id"])
    await fresh(api, user, warm=True)
    asked = {"query": "amber", "mode": "lexical", "expand": {}}
    scope, walks = await scope_of(api, user), []
    spread = api.services.search._links.spread

    async def counted(*arguments, **named):
        walks.append(arguments[0].id)
        return await spread(*arguments, **named)

    api.services.search._links.spread = counted
    try:
        answers = await asyncio.gather(*(api.search(user, **asked) for _ in range(30)))
    finally:
        del api.services.search._links.spread
    assert walks == [scope.id]
    assert {answer.content for answer in answers} == {answers[0].content}
    assert len(answers[0].json()["results"]) == 2
