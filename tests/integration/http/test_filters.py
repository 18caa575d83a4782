"""Filters over HTTP: the same bytes from every tier, and no memory too few or too many."""

import base64
import itertools
import json
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings

from filter_world import EPOCH, METADATA, NAMES, passes, wire_filters
from memfast.http.wire import MemoriesFound

pytestmark = pytest.mark.asyncio(loop_scope="module")

RNG = np.random.default_rng(9)
DIMENSIONS = 16
TOTAL = 80
NESTED = {"AND": [{"OR": [{"kind": "a"}, {"NOT": {"metadata.n": {"gt": 0}}}]}, {"tags": {"nin": ["b", "Z"]}}]}


@pytest.fixture(scope="module", name="settings")
def own_settings():
    """Vectors come from the tests, and no search makes a user warm by itself."""
    return {"embedding.provider": "none", "embedding.dimensions": DIMENSIONS, "index.admit_window_s": 0.001}


def vector():
    """A random vector as base64."""
    return base64.b64encode(RNG.standard_normal(DIMENSIONS).astype("<f4").tobytes()).decode()


class Known(dict):
    """Memories by id; a failure does not print them all."""

    def __repr__(self):
        return f"{len(self)} memories"


@pytest.fixture(scope="module")
def known(site):
    """The memories of `filled` by id; filled by it."""
    return Known()


@pytest_asyncio.fixture(loop_scope="module")
async def filled(api, known):
    """A user with a memory of every kind."""
    if not known:
        names, metadata = itertools.cycle(NAMES), itertools.cycle(METADATA)
        items = [
            {
                "text": f"m{number}",
                "embedding": vector(),
                "kind": next(names),
                "tags": [next(names) for _ in range(number % 3)],
                "entities": [next(names) for _ in range(number % 2)],
                "importance": number % 5 / 4,
                "metadata": next(metadata),
                "agent_id": next(names) if number % 3 else None,
                "source": next(names) if number % 4 else None,
                "created_at": (EPOCH + timedelta(seconds=number % 10)).isoformat(),
                "expires_at": (datetime.now(UTC) + timedelta(days=1)).isoformat() if number % 2 else None,
            }
            for number in range(TOTAL)
        ]
        results = await api.create_many("filled", items)
        body = {"user_id": "filled", "ids": [result["id"] for result in results]}
        response = await api.client.post("/v1/memories/get", json=body)
        found = msgspec.json.decode(response.content, type=MemoriesFound)
        known.update({str(memory.id): memory for memory in found.memories})
    return "filled"


async def cold_and_warm(api, user, **question):
    """The answers of both tiers."""
    services = api.services
    scope = services.access.scope(await services.access.authenticate(None), user)
    answers = []
    for tier in ("cold", "warm"):
        services.answers.clear()
        services.warm.drop(scope.id)
        if tier == "warm":
            assert await services.warm.load(scope)
        answers.append(await api.search(user, **question))
        assert (answers[-1].status_code, answers[-1].headers["memfast-tier"]) == (200, tier)
    return answers


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=wire_filters)
async def test_every_tier_gives_the_same_bytes(api, filled, known, where):
    """Cold and warm answers are equal, and hold exactly what the filter says."""
    cold, warm = await cold_and_warm(api, filled, embedding=vector(), limit=TOTAL, filter=where)
    assert cold.content == warm.content
    wanted = {target for target, memory in known.items() if passes(where, memory)}
    assert {hit["id"] for hit in cold.json()["results"]} == wanted
    listed = (await api.listing(filled, limit=TOTAL, filter=json.dumps(where))).json()
    assert {memory["id"] for memory in listed["memories"]} == wanted


@pytest.mark.parametrize("limit", [1, 3, 8, TOTAL])
async def test_the_nearest_of_those_that_pass(api, filled, known, limit):
    """A filtered search gives the best of the unfiltered one that pass: k of them wherever there are k."""
    question = {"embedding": vector()}
    everything = (await api.search(filled, **question, limit=TOTAL)).json()["results"]
    wanted = [hit for hit in everything if passes(NESTED, known[hit["id"]])]
    assert 8 < len(wanted) < TOTAL
    for answer in await cold_and_warm(api, filled, **question, limit=limit, filter=NESTED):
        assert answer.json()["results"] == wanted[:limit]


async def test_one_question_in_two_writings_is_one_answer(api, filled):
    """The order of entries, 1 and 1.0, and other ways to say the same share what is kept."""
    target = vector()
    first = await api.search(filled, embedding=target, filter={"kind": "a", "metadata.n": 1})
    again = await api.search(filled, embedding=target, filter={"AND": [{"metadata.n": {"in": [1.0]}}, {"kind": "a"}]})
    assert (again.headers["memfast-tier"], again.content) == ("hot", first.content)
    for other in ({"kind": "a", "metadata.n": True}, {"kind": "a"}, None):
        assert (await api.search(filled, embedding=target, filter=other)).headers["memfast-tier"] != "hot"


@pytest.mark.parametrize("mode", ["any", "all", "any_strict", "all_strict"])
async def test_tags_modes(api, filled, known, mode):
    """By one or two tags: the first two modes also find memories without tags."""
    for tags in (["a"], ["a", "b"], []):
        answers = await cold_and_warm(api, filled, embedding=vector(), limit=TOTAL, tags=tags, tags_mode=mode)
        assert answers[0].content == answers[1].content
        meets = any if mode.startswith("any") else all
        wanted = {
            target
            for target, memory in known.items()
            if not tags
            or meets(tag in memory.tags for tag in tags)
            or (not memory.tags and not mode.endswith("strict"))
        }
        assert {hit["id"] for hit in answers[0].json()["results"]} == wanted
    assert (await api.search(filled, embedding=vector(), tags=["a"])).json() != []


async def test_tags_and_filter_narrow_together(api, filled, known):
    """Both hold; without a mode it is any."""
    answer = await api.search(filled, embedding=vector(), limit=TOTAL, tags=["a"], filter={"tags": {"exists": True}})
    wanted = {target for target, memory in known.items() if "a" in memory.tags}
    assert {hit["id"] for hit in answer.json()["results"]} == wanted


async def test_memories_of_an_entity(api, filled, known):
    """In a listing by `entity` and in a search by `entities`, alone and beside other parameters."""
    wanted = {target for target, memory in known.items() if "b" in memory.entities}
    assert len(wanted) > 1
    listed = (await api.listing(filled, entity="b", limit=TOTAL)).json()["memories"]
    assert {memory["id"] for memory in listed} == wanted
    found = (await api.search(filled, embedding=vector(), limit=TOTAL, filter={"entities": "b"})).json()["results"]
    assert {hit["id"] for hit in found} == wanted
    kind = known[min(wanted)].kind
    listed = (await api.listing(filled, entity="b", kind=kind, limit=TOTAL)).json()["memories"]
    assert {memory["id"] for memory in listed} == {each for each in wanted if known[each].kind == kind}


async def test_pages_of_a_filtered_listing(api, filled, known, check_problem):
    """Each memory that passes once; the cursor serves this filter alone, however it is written."""
    where = {"importance": {"gte": 0.5}, "kind": {"ne": "a"}}
    seen, cursor = [], {}
    while True:
        page = (await api.listing(filled, limit=7, filter=json.dumps(where), **cursor)).json()
        seen.extend(memory["id"] for memory in page["memories"])
        if not page["has_more"]:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(seen) == sorted(target for target, memory in known.items() if passes(where, memory))
    same = {"AND": [{"kind": {"nin": ["a"]}}, {"importance": {"gte": 0.5}}]}
    assert (await api.listing(filled, filter=json.dumps(same), **cursor)).status_code == 200
    for other in ({"filter": json.dumps(where | {"kind": "a"})}, {}, {"entity": "a"}):
        check_problem(await api.listing(filled, **cursor, **other), 400, "invalid-request", "cursor")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"filter": {"AND": [{"importance": {"gt": "high"}}]}}, "$.filter.AND[0].importance.gt"),
        ({"filter": {"colour": "red"}}, "$.filter.colour"),
        ({"filter": {"created_at": {"gt": "2026-01-01"}}}, "$.filter.created_at.gt"),
        ({"filter": {"kind": {"like": "a%"}}}, "$.filter.kind.like"),
        ({"filter": []}, "$.filter"),
        ({"filter": "kind"}, "$.filter"),
        ({"tags": "a"}, "$.tags"),
        ({"tags": ["a", ""]}, "$.tags[1]"),
        ({"tags": ["a"] * 65}, "$.tags"),
        ({"tags_mode": "some"}, "$.tags_mode"),
    ],
)
async def test_a_wrong_filter_is_a_problem_with_its_path(api, filled, check_problem, body, path):
    """In a search; nothing is guessed and nothing compared as a string."""
    check_problem(await api.search(filled, embedding=vector(), **body), 400, "invalid-request", path)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"AND": [{"importance": {"gt": "high"}}]}', "filter.AND[0].importance.gt"),
        ("{kind: a}", "filter"),
        ("", "filter"),
        ("[" * 3000, "filter"),
        ("[]", "filter"),
    ],
)
async def test_a_wrong_filter_of_a_listing(api, filled, check_problem, text, path):
    """Also what is no JSON at all."""
    check_problem(await api.listing(filled, filter=text), 400, "invalid-request", path)


async def test_a_filter_in_msgpack(api, filled):
    """Numbers, booleans and times of msgpack are those of JSON."""
    target = vector()
    body = {"user_id": filled, "embedding": target, "limit": TOTAL}
    moment = EPOCH + timedelta(seconds=4)
    where = {"metadata.n": {"ne": True}, "importance": {"lte": 0.5}, "created_at": {"gte": moment}}
    packed = msgspec.msgpack.encode(body | {"embedding": base64.b64decode(target), "filter": where})
    headers = {"content-type": "application/msgpack"}
    one = await api.client.post("/v1/search", content=packed, headers=headers)
    where["created_at"] = {"gte": moment.isoformat()}
    two = await api.client.post("/v1/search", json=body | {"filter": where})
    assert one.content == two.content
    assert one.json()["results"]


async def test_a_write_changes_a_filtered_answer(api, user):
    """What passes after a write is found, what passes no longer is not, from every tier."""
    question = {"embedding": vector(), "filter": {"metadata.state": "open"}}
    for warm in (False, True):
        if warm:
            assert (await api.client.post("/v1/warm", json={"users": [user]})).json()["users"] == 1
        assert (await api.search(user, **question)).json()["results"] == []
        made = await api.create(user, "x", embedding=vector(), metadata={"state": "open"})
        assert [hit["id"] for hit in (await api.search(user, **question)).json()["results"]] == [made["id"]]
        await api.patch(user, made["id"], {"metadata": {"state": "closed"}})
        assert (await api.search(user, **question)).json()["results"] == []


async def test_filters_in_a_batch_of_searches(api, filled, known):
    """Each search has its own; a wrong one fails alone, with its place in the batch."""
    target = vector()
    searches = [
        {"embedding": target, "limit": TOTAL, "filter": {"kind": "a"}},
        {"embedding": target, "filter": {"kind": {"like": "a"}}},
        {"embedding": target, "limit": TOTAL, "tags": ["a"], "tags_mode": "all_strict"},
    ]
    response = await api.client.post("/v1/search/batch", json={"user_id": filled, "searches": searches})
    one, wrong, three = response.json()["results"]
    assert {hit["id"] for hit in one["results"]} == {each for each, memory in known.items() if memory.kind == "a"}
    assert wrong["problem"]["path"] == "$.searches[1].filter.kind.like"
    assert {hit["id"] for hit in three["results"]} == {each for each, memory in known.items() if "a" in memory.tags}
