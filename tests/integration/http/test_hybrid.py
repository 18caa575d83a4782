"""Search by words and meaning over HTTP: what is found, how it is scored, and that every tier says the same."""

import asyncio
import base64
import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import pytest_asyncio

from memfast.errors import EmbedderUnavailable

pytestmark = pytest.mark.asyncio(loop_scope="module")

BEGAN = datetime(2025, 3, 3, 9, 0, tzinfo=UTC)
RUNS = {
    "kitchen": [
        "Ann: The landlord will paint the kitchen next week.",
        "Ben: Which colour did you choose in the end?",
        "Ann: A pale yellow, it makes the room look larger.",
        "Ben: Send me a photo when it is done.",
    ],
    "travel": [
        "Ann: I booked the night train to Vienna for the conference.",
        "Ben: Did you find a hotel near the station?",
        "Ann: Yes, the Wombat, two minutes from platform nine.",
        "Ben: Remember that your passport expires in June.",
    ],
    "work": [
        "Ben: The import job failed again with ERR-4711 last night.",
        "Ann: Restart the worker after you raised pool_size.max in /etc/memfast/memfast.toml.",
        "Ben: Mail the report to ops@example.com, please.",
        "Ann: 東京タワーの近くの会議室を予約しました。",
    ],
}
NOISE = [f"Note {number}: nothing about number {number * 7919 % 1000} is worth a second look." for number in range(120)]
DETAILS = {"explain": True, "neighbors": True, "include_neighbors": 1}


def memories():
    """The conversations, a minute a turn, and a lot that says nothing."""
    moments = (BEGAN + timedelta(minutes=number) for number in itertools.count())
    turns = [
        {"text": text, "run_id": run, "created_at": next(moments).isoformat(), "tags": [run], "importance": 0.5}
        for run, texts in RUNS.items()
        for text in texts
    ]
    return turns + [{"text": text, "created_at": next(moments).isoformat(), "tags": ["noise"]} for text in NOISE]


@pytest_asyncio.fixture(loop_scope="module")
async def talks(api, user):
    """A user with the conversations."""
    await api.create_many(user, memories())
    return user


async def found(api, user, query, **options):
    """The hits of a search."""
    response = await api.search(user, query=query, **options)
    assert response.status_code == 200, response.text
    return response.json()["results"]


async def texts(api, user, query, **options):
    """What a search finds, best first."""
    return [hit["text"] for hit in await found(api, user, query, **options)]


async def drop(api, user, *, load=False):
    """Forget every copy of a user, or hold the user in memory alone."""
    services = api.services
    scope = services.access.scope(await services.access.authenticate(None), user)
    await asyncio.gather(*services.warm._loads.values())  # what an earlier search began would be waited for
    services.answers.clear()
    services.warm.drop(scope.id)
    if load:
        assert await services.warm.load(scope)


OPTIONS = [
    {},
    {"mode": "lexical"},
    {"mode": "vector"},
    {"mode": "vector", "neighbors": True},
    {"mode": "lexical", "neighbors": True, "explain": True},
    {"fusion": "rrf"},
    DETAILS,
    {"weights": {"lexical": 0.2, "vector": 0.5, "context": 0.3}, "explain": True},
    {"weights": {"context": 0.0}},
    {"convergence": 0.2, "explain": True},
    {"fold_duplicates": True},
    {"expansion": {"feedback": 1.0}},
    {"boosts": {"importance": 0.3, "similarity": 0.6, "recency": 1.15}},
    {"filter": {"tags": {"in": ["travel", "work"]}}, "neighbors": True},
    {"limit": 1},
    {"limit": 500},
    {"min_score": 0.3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
async def test_every_tier_gives_the_same_bytes(api, talks, options):
    """Cold, hot and warm answers to one question differ in the header alone, also after memory was written to."""
    questions = ["Where does Ann stay in Vienna?", "ERR-4711", "会議室", "which colour is the kitchen"]
    cold, hot, warm = [], [], []
    for question in questions:
        await drop(api, talks)
        cold.append(await api.search(talks, query=question, **options))
        hot.append(await api.search(talks, query=question, **options))
    await drop(api, talks, load=True)
    warm += [await api.search(talks, query=question, **options) for question in questions]
    for tier, answers in (("cold", cold), ("hot", hot), ("warm", warm)):
        assert [answer.headers["memfast-tier"] for answer in answers] == [tier] * len(questions)
    contents = [[answer.content for answer in answers] for answers in (cold, hot, warm)]
    assert contents[0] == contents[1] == contents[2]
    assert all(answer.json()["results"] for answer in cold[:1])


@pytest.mark.parametrize("options", [{}, {"mode": "lexical"}, DETAILS], ids=str)
async def test_a_shard_that_followed_writes_answers_like_a_new_one(api, talks, options):
    """After creates, changes and deletes, warm answers equal those of a shard made of the same memories."""
    await drop(api, talks, load=True)
    listed = (await api.listing(talks, limit=200)).json()["memories"]
    for memory in listed[5:30]:
        await api.delete(talks, memory["id"])
    await api.patch(talks, listed[0]["id"], {"text": "Ann: The kitchen is painted, in pale green after all."})
    for number in range(20):
        await api.create(talks, f"Ben: a late remark on trains and kitchens, number {number}", run_id="kitchen")
    followed = await api.search(talks, query="the colour of the kitchen", **options)
    await drop(api, talks)
    anew = await api.search(talks, query="the colour of the kitchen", **options)
    assert [followed.headers["memfast-tier"], anew.headers["memfast-tier"]] == ["warm", "cold"]
    assert followed.content == anew.content


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("ERR-4711", "ERR-4711"),
        ("4711", "ERR-4711"),
        ("pool_size.max", "pool_size.max"),
        ("memfast.toml", "/etc/memfast"),
        ("ops@example.com", "ops@example.com"),
        ("example.com", "ops@example.com"),
        ("会議室", "東京タワー"),
        ("東京", "東京タワー"),
        ("booking a hotel", "hotel near the station"),
    ],
)
@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
async def test_words_identifiers_and_unspaced_scripts_are_found(api, talks, mode, query, part):
    """The one memory that has them comes first."""
    assert part in (await texts(api, talks, query, mode=mode))[0]


async def test_a_memory_is_found_by_its_tags_entities_source_and_day(api, user):
    """What stands beside the text is searched by words as well."""
    await api.create_many(user, [{"text": text} for text in NOISE[:30]])
    made = await api.create(
        user,
        "An appointment.",
        tags=["dentist"],
        entities=["Dr. Kowalski"],
        source="calendar",
        created_at="2024-02-29T08:00:00Z",
    )
    for query in ("dentist", "Kowalski", "calendar", "February 2024", "Thursday"):
        assert (await found(api, user, query, mode="lexical"))[0]["id"] == made["id"], query


async def test_a_hit_by_words_alone_survives_any_weights(api, user):
    """The one memory with the number is found though vectors rank everything else before it."""
    vectors = np.random.default_rng(3).standard_normal((200, 256)).astype("<f4")
    ask = base64.b64encode(vectors[0].tobytes()).decode()
    near = [
        {"text": f"filler {number}", "embedding": base64.b64encode((vectors[0] + 0.1 * row).tobytes()).decode()}
        for number, row in enumerate(vectors)
    ]
    far = {"text": "ticket AB-90017", "embedding": base64.b64encode((-vectors[0]).tobytes()).decode()}
    await api.create_many(user, [*near, far])
    for weights in ({}, {"weights": {"lexical": 0.05, "vector": 0.95}}):
        hits = await texts(api, user, "AB-90017", embedding=ask, limit=10, **weights)
        assert "ticket AB-90017" in hits


async def test_a_score_does_not_depend_on_what_else_is_found(api, talks):
    """A hit scores the same whatever the limit, the filter on others, and min_score are; scores are 0 to 1."""
    query = "the night train to Vienna"
    hits = await found(api, talks, query, limit=100)
    scores = {hit["id"]: hit["score"] for hit in hits}
    assert all(0 <= score <= 1 for score in scores.values())
    assert [*scores.values()] == sorted(scores.values(), reverse=True)
    for options in ({"limit": 3}, {"limit": 20, "min_score": 0.1}):
        for hit in await found(api, talks, query, **options):
            assert hit["score"] == scores[hit["id"]]
            assert hit["score"] >= options.get("min_score", 0)


async def test_neighbours_are_lifted_and_come_along(api, talks):
    """The answer that shares no word with the question stands beside the question that was asked before."""
    query = "Which colour did you choose?"
    alone = await texts(api, talks, query, mode="lexical")
    assert "Ann: A pale yellow, it makes the room look larger." not in alone
    hits = await found(api, talks, query, mode="lexical", neighbors=True, include_neighbors=1, limit=5)
    assert "Ann: A pale yellow, it makes the room look larger." in [hit["text"] for hit in hits]
    first = hits[0]
    assert [(beside["distance"], beside["text"]) for beside in first["neighbors"]] == [
        (-1, RUNS["kitchen"][0]),
        (1, RUNS["kitchen"][2]),
    ]


async def test_a_filter_holds_for_neighbours_too(api, talks):
    """No option brings a memory among the hits that the filter leaves out."""
    options = {"neighbors": True, "filter": {"tags": "travel"}, "limit": 50}
    assert set(await texts(api, talks, "the kitchen in Vienna", **options)) == set(RUNS["travel"])


@pytest.mark.parametrize("options", [{"mode": "lexical", "neighbors": True}, {"mode": "hybrid"}], ids=str)
async def test_a_filter_parts_a_run(api, talks, options):
    """What stands beside a hit and does not pass is looked at, lent nothing, and not found."""
    said = [turn["text"] for turn in memories()]
    until = said.index(RUNS["kitchen"][1])
    where = {"created_at": {"lt": (BEGAN + timedelta(minutes=until, seconds=30)).isoformat()}}
    hits = await texts(api, talks, "Which colour did you choose?", filter=where, limit=50, **options)
    assert RUNS["kitchen"][1] in hits
    assert set(hits) <= set(said[: until + 1])


async def test_duplicates_are_folded(api, talks):
    """Of ten memories that say the same only one is found, and the others stay where nobody folds."""
    await api.create_many(talks, [{"text": f"Ben: The cat is called Mimi{'!' * number}"} for number in range(10)])
    query, options = "What is the cat called?", {"limit": 10}
    assert sum("Mimi" in text for text in await texts(api, talks, query, **options)) == 10
    folded = await texts(api, talks, query, **options, fold_duplicates=True)
    assert sum("Mimi" in text for text in folded) == 1
    assert len(folded) == 10


async def test_boosts_move_hits_by_importance_and_age(api, user):
    """Two memories that match alike: the important one, then the young one comes first when that is asked for."""
    old = {"text": "the cat sleeps", "created_at": "2020-01-01T00:00:00Z", "tags": ["same"]}
    important = (await api.create_many(user, [old | {"importance": 1.0}]))[0]["id"]
    young = (await api.create(user, "the cat sleeps", importance=0.0, tags=["same"]))["id"]
    options = {"mode": "vector"}
    by_importance = await found(api, user, "cat", **options, boosts={"importance": 0.3, "similarity": 0.6})
    assert [hit["id"] for hit in by_importance] == [important, young]
    by_age = await found(api, user, "cat", **options, boosts={"recency": 1.5, "recency_window_s": 3600})
    assert [hit["id"] for hit in by_age] == [young, important]


async def test_an_explanation_adds_up(api, talks):
    """The shares of the legs, the bonus and what was added make the score; the terms are those of the query."""
    answer = (await api.search(talks, query="trains to Vienna", explain=True, convergence=0.1, neighbors=True)).json()
    assert answer["explain"] == {"mode": "hybrid", "terms": {"train": 1.0, "vienna": 1.0}}
    for hit in answer["results"]:
        told = hit["scores"]
        legs = [leg for name, leg in told.items() if name in {"lexical", "vector", "context"}]
        total = sum(leg["scaled"] * leg["weight"] for leg in legs) + told["convergence"] + told["added"]
        assert hit["score"] == pytest.approx(total, abs=5e-6)


async def test_an_embedder_that_is_away_costs_the_vectors_alone(api, talks, monkeypatch):
    """A hybrid search goes on by words and says so, and the answer is not kept; a search by vector is refused."""

    async def away(_texts):
        raise EmbedderUnavailable("away")

    monkeypatch.setattr(api.services.embedder._embedder, "embed", away)
    answer = (await api.search(talks, query="a question about ERR-4711")).json()
    assert answer["degraded"] == ["vector"]
    assert "ERR-4711" in answer["results"][0]["text"]
    assert (await api.search(talks, query="another about ERR-4711", mode="vector")).status_code == 503
    monkeypatch.undo()
    assert (await api.search(talks, query="a question about ERR-4711")).json()["degraded"] == []


async def test_a_user_that_takes_long_to_read_is_answered_by_vectors(api, talks, monkeypatch, check_problem):
    """A hybrid search says that words are missing and is not kept, one by words is refused; then the user is warm."""
    await drop(api, talks)
    gate, services = asyncio.Event(), api.services
    load = services.search._store.load

    async def slow(scope):
        await gate.wait()
        return await load(scope)

    monkeypatch.setattr(services.search._store, "load", slow)
    monkeypatch.setattr(services.search, "_leg_timeout_s", 0.05)
    answer = await api.search(talks, query="the kitchen")
    vectors = await api.search(talks, query="the kitchen", mode="vector")
    assert answer.json()["degraded"] == ["lexical"]
    assert answer.json()["results"] == vectors.json()["results"]
    refused = await api.search(talks, query="the kitchen", mode="lexical")
    check_problem(refused, 503, "still-reading")
    assert refused.headers["retry-after"] == "1"
    gate.set()
    scope = services.access.scope(await services.access.authenticate(None), talks)
    assert await services.warm.load(scope)
    answer = await api.search(talks, query="the kitchen")
    assert (answer.headers["memfast-tier"], answer.json()["degraded"]) == ("warm", [])


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$"),
        ({"query": "a", "mode": "dense"}, "$.mode"),
        ({"embedding": [0.1] * 256, "mode": "hybrid"}, "$.query"),
        ({"embedding": [0.1] * 256, "mode": "lexical"}, "$.query"),
        ({"query": "a", "embedding": [0.1] * 256, "mode": "lexical"}, "$.embedding"),
        ({"query": "a", "embedding": [0.1] * 256, "mode": "vector"}, "$"),
        ({"query": "a", "weights": {"colour": 1}}, "$.weights"),
        ({"query": "a", "weights": {"lexical": 2}}, "$.weights[...]"),
        ({"query": "a", "weights": {"lexical": 0, "context": 0}}, "$.weights"),
        ({"query": "a", "include_neighbors": 3}, "$.include_neighbors"),
        ({"query": "a", "expansion": {"synonyms": 0.2}}, "$.expansion.synonyms"),
        ({"query": "a", "boosts": {"recency": 0.5}}, "$.boosts.recency"),
    ],
)
async def test_what_cannot_be_is_refused(api, user, check_problem, body, path):
    """Each with the place of the mistake."""
    check_problem(await api.search(user, **body), 400, "invalid-request", path=path)


async def test_a_user_without_memories_finds_nothing(api, user):
    """Every mode gives an empty answer, and so does a query without words."""
    for options in OPTIONS:
        assert await found(api, user, "?!", **options) == []
