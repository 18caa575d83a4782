"""Search is exact: it answers as a comparison with every vector of the user would."""

import base64
from uuid import uuid4

import msgspec
import numpy as np
import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")

DIMENSIONS = 24
ROWS = 300


@pytest.fixture(scope="module", params=[16, 18], ids=["pg16", "pg18"])
def major(request):
    """Both ends of what is supported."""
    return request.param


@pytest.fixture(scope="module")
def settings():
    """Vectors come from the client."""
    return {"embedding.provider": "none", "embedding.dimensions": DIMENSIONS}


@pytest.fixture(scope="module")
def vectors():
    """Random vectors, with exact duplicates, scaled copies, opposites and axes among them."""
    random = np.random.default_rng(7)
    found = random.standard_normal((ROWS, DIMENSIONS))
    found[50:60] = found[10]
    found[60:70] = found[11] * 8
    found[70:80] = -found[12]
    found[80 : 80 + DIMENSIONS] = np.eye(DIMENSIONS)
    return found.astype(np.float32)


@pytest.fixture(scope="module")
def stored(site):
    """Ids in the order of `vectors`, by user; filled by `filled`."""
    return {}


@pytest_asyncio.fixture(loop_scope="module")
async def filled(api, vectors, stored):
    """A user who has all the vectors."""
    if not stored:
        await api.create_many("neighbour", [{"text": "n", "embedding": row.tolist()} for row in vectors[::-1]])
        items = [{"text": f"m{number}", "embedding": row.tolist()} for number, row in enumerate(vectors)]
        stored["filled"] = [result["id"] for result in await api.create_many("filled", items)]
    return "filled"


def unit(row):
    """A vector as it is stored: norm 1, float32."""
    exact = row.astype(np.float64)
    return (exact / np.linalg.norm(exact)).astype(np.float32)


def brute_force(vectors, ids, query, limit, min_score=0.0):
    """(id, score) of the best rows by (score descending, id ascending)."""
    rows = np.array([unit(row) for row in vectors], dtype=np.float64)
    scores = np.maximum(np.round(rows @ unit(query).astype(np.float64), 6), 0.0)
    ranked = sorted(zip(ids, scores.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return [pair for pair in ranked if pair[1] >= min_score][:limit]


@pytest.mark.parametrize("limit", [1, 2, 10, 55, 299, 300, 1000])
@pytest.mark.parametrize("seed", range(6))
async def test_hits_are_those_of_a_comparison_with_everything(api, filled, vectors, stored, limit, seed):
    """Order and scores, for random queries and for queries that are rows themselves."""
    random = np.random.default_rng(seed)
    query = vectors[random.integers(ROWS)] if seed % 2 else random.standard_normal(DIMENSIONS).astype(np.float32)
    answer = (await api.search(filled, embedding=query.tolist(), limit=limit)).json()
    hits = [(hit["id"], hit["score"]) for hit in answer["results"]]
    assert hits == brute_force(vectors, stored[filled], query, limit)
    assert answer["degraded"] == []


@pytest.mark.parametrize("place", [10, 11, 12])
async def test_equal_scores_are_ordered_by_id(api, filled, vectors, stored, place):
    """Duplicates stand in the order of their ids, also where the limit cuts through them."""
    for limit in (3, 11, 20):
        answer = (await api.search(filled, embedding=vectors[place].tolist(), limit=limit)).json()
        hits = [(hit["id"], hit["score"]) for hit in answer["results"]]
        assert hits == brute_force(vectors, stored[filled], vectors[place], limit)


async def test_scores_cut_at_zero_are_ordered_by_id_too(api, user):
    """Rows that point away all have the score 0; which of them are hits depends on their ids alone."""
    random = np.random.default_rng(3)
    away = -np.abs(random.standard_normal((100, DIMENSIONS)))
    results = await api.create_many(user, [{"text": "x", "embedding": row.tolist()} for row in away])
    ids = [result["id"] for result in results]
    answer = (await api.search(user, embedding=[1.0] * DIMENSIONS, limit=5)).json()
    assert [hit["score"] for hit in answer["results"]] == [0.0] * 5
    assert [hit["id"] for hit in answer["results"]] == ids[:5]


async def test_nearly_equal_rows_are_ordered_by_id(api, user):
    """Scores that are equal when rounded are ties, however many there are."""
    random = np.random.default_rng(4)
    base = np.zeros(DIMENSIONS)
    base[0] = 1.0
    rows = base + random.standard_normal((100, DIMENSIONS)) * 1.3e-4
    results = await api.create_many(user, [{"text": "x", "embedding": row.tolist()} for row in rows])
    ids = [result["id"] for result in results]
    answer = (await api.search(user, embedding=base.tolist(), limit=5)).json()
    hits = [(hit["id"], hit["score"]) for hit in answer["results"]]
    assert hits == brute_force(rows.astype(np.float32), ids, base.astype(np.float32), 5)


@pytest.mark.parametrize("min_score", [0.0, 0.1, 0.5, 0.999999, 1.0])
async def test_min_score_cuts_the_tail(api, filled, vectors, stored, min_score):
    """Scores at the bound stay."""
    query = vectors[10]
    answer = (await api.search(filled, embedding=query.tolist(), limit=1000, min_score=min_score)).json()
    hits = [(hit["id"], hit["score"]) for hit in answer["results"]]
    assert hits == brute_force(vectors, stored[filled], query, 1000, min_score)


async def test_the_three_encodings_of_a_vector_give_the_same_bytes(api, filled, vectors):
    """JSON numbers, base64 and msgpack bin, as query and as memory."""
    for query in vectors[:5]:
        raw = query.astype("<f4").tobytes()
        answers = [
            await api.search(filled, embedding=query.tolist()),
            await api.search(filled, embedding=base64.b64encode(raw).decode()),
            await api.client.post(
                "/v1/search",
                content=msgspec.msgpack.encode({"user_id": filled, "embedding": raw}),
                headers={"content-type": "application/msgpack"},
            ),
            await api.client.post(
                "/v1/search",
                content=msgspec.msgpack.encode({"user_id": filled, "embedding": query.tolist()}),
                headers={"content-type": "application/x-msgpack"},
            ),
        ]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert len({answer.content for answer in answers}) == 1


async def test_stored_encodings_give_the_same_vector(api, user, vectors):
    """The same vector, stored three ways, has the same score to the last digit."""
    row = vectors[3]
    raw = row.astype("<f4").tobytes()
    for embedding in (row.tolist(), base64.b64encode(raw).decode()):
        await api.create(user, "x", embedding=embedding)
    packed = msgspec.msgpack.encode({"user_id": user, "text": "x", "embedding": raw})
    headers = {"content-type": "application/msgpack"}
    assert (await api.client.post("/v1/memories", content=packed, headers=headers)).status_code == 201
    async with api.database() as connection:
        rows = await connection.fetch(
            "SELECT DISTINCT v.embedding::text FROM memory_vectors v JOIN scopes USING (scope_id) WHERE user_id = $1",
            user,
        )
    assert len(rows) == 1


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e30, 1e200])
async def test_the_length_of_a_vector_does_not_matter(api, filled, vectors, stored, scale):
    """Only its direction does, from very short to very long."""
    query = vectors[20].astype(np.float64)
    answer = await api.search(filled, embedding=(query * scale).tolist(), limit=5)
    assert [hit["id"] for hit in answer.json()["results"]] == [
        memory_id for memory_id, _ in brute_force(vectors, stored[filled], vectors[20], 5)
    ]


async def test_an_unknown_user_finds_nothing(api, user):
    """Not a 404: version 0 and no hits."""
    answer = await api.search(user, embedding=[1.0] * DIMENSIONS)
    assert answer.json() == {"results": [], "version": 0, "degraded": []}
    assert answer.headers["memfast-tier"] == "cold"


async def test_deleted_and_changed_vectors_leave_the_ranking(api, user, vectors):
    """What is searched is what is stored now."""
    ids = [(await api.create(user, "x", embedding=row.tolist()))["id"] for row in vectors[:3]]
    await api.delete(user, ids[0])
    await api.patch(user, ids[1], {"embedding": vectors[0].tolist()})
    hits = (await api.search(user, embedding=vectors[0].tolist())).json()["results"]
    assert (hits[0]["id"], hits[0]["score"]) == (ids[1], 1.0)
    assert {hit["id"] for hit in hits} == set(ids[1:])


async def test_text_without_an_embedder_is_refused_with_what_to_do(api, user, check_problem, vectors):
    """422 for a search by meaning and for a memory without a vector; in a batch that item fails alone.

    A search that does not say how goes by words.
    """
    for mode in ("vector", "hybrid"):
        check_problem(await api.search(user, query="x", mode=mode), 422, "embedding-required", says=str(DIMENSIONS))
    assert (await api.search(user, query="x")).json()["results"] == []
    plain = await api.client.post("/v1/memories", json={"user_id": user, "text": "x"})
    check_problem(plain, 422, "embedding-required")
    own = str(uuid4())
    items = [{"text": "a"}, {"text": "b", "embedding": vectors[0].tolist()}, {"text": "c", "id": own}]
    results = await api.create_many(user, items)
    assert [result["status"] for result in results] == ["error", "created", "error"]
    assert [results[place]["problem"]["status"] for place in (0, 2)] == [422, 422]
    assert [results[place]["id"] for place in (0, 2)] == [None, own]
    changed = await api.patch(user, results[1]["id"], {"text": "new"})
    check_problem(changed, 422, "embedding-required")
    assert (await api.get(user, results[1]["id"])).json()["text"] == "b"
