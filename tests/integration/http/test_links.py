"""Links between memories over HTTP: what makes them, what removes them, and what they lead to."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from memfast.service.access import Principal

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def memories(api, user, count, **fields):
    """Ids of new memories, ascending."""
    results = await api.create_many(user, [{"text": f"memory {number}"} | fields for number in range(count)])
    return sorted(result["id"] for result in results)


async def link(api, user, from_id, to_id, headers=None, **fields):
    """The answer to a link."""
    body = {"user_id": user, "from_id": from_id, "to_id": to_id} | fields
    return await api.client.post("/v1/links", json=body, headers=headers)


async def linked(api, user, **parameters):
    """The links that the listing gives."""
    response = await api.client.get("/v1/links", params={"user_id": user} | parameters)
    assert response.status_code == 200, response.text
    return response.json()["links"]


async def drop(api, user, from_id, to_id, headers=None, **parameters):
    """The answer to removing a link."""
    named = {"user_id": user, "from_id": from_id, "to_id": to_id} | parameters
    return await api.client.delete("/v1/links", params=named, headers=headers)


async def related(api, user, memory_id, **parameters):
    """The answer of the route."""
    return await api.client.get(f"/v1/memories/{memory_id}/related", params={"user_id": user} | parameters)


async def around(api, user, memory_id, **parameters):
    """Ids, depths and weights of what is related."""
    response = await related(api, user, memory_id, **parameters)
    assert response.status_code == 200, response.text
    return [(each["id"], each["depth"], each["weight"]) for each in response.json()["results"]]


async def rows(api, user):
    """How many links the database has for a user."""
    async with api.database() as connection:
        query = "SELECT count(*) FROM links JOIN scopes USING (scope_id) WHERE user_id = $1"
        return await connection.fetchval(query, user)


async def test_a_link_is_made_and_listed(api, user):
    """All of its fields come back; a second one of the same ends and type changes it and keeps its time."""
    a, b = await memories(api, user, 2)
    response = await link(api, user, a, b)
    assert response.status_code == 201
    assert response.json() == {"from_id": a, "to_id": b, "type": "relates_to", "status": "created", "version": 3}
    assert response.headers["memfast-token"].endswith(".3")
    (first,) = await linked(api, user)
    assert (first["weight"], first["directed"], first["metadata"], first["version"]) == (1.0, False, {}, 3)
    response = await link(api, user, a, b, weight=0.1234567, metadata={"why": [1]})
    assert (response.status_code, response.json()["status"]) == (200, "updated")
    (second,) = await linked(api, user)
    assert second == first | {"weight": 0.123457, "metadata": {"why": [1]}, "version": 4}
    await link(api, user, a, b, type="contradicts")
    assert [each["type"] for each in await linked(api, user)] == ["contradicts", "relates_to"]


async def test_an_undirected_link_is_one_however_it_is_named(api, user):
    """It stands for both directions: it takes the place of links in either, and is dropped by either name."""
    a, b = await memories(api, user, 2)
    assert (await link(api, user, b, a)).json() | {"version": 0} == {
        "from_id": a,
        "to_id": b,
        "type": "relates_to",
        "status": "created",
        "version": 0,
    }
    assert (await link(api, user, a, b)).status_code == 200
    assert (await link(api, user, b, a, directed=True)).status_code == 200
    assert [(each["from_id"], each["directed"]) for each in await linked(api, user)] == [(b, True)]
    assert (await drop(api, user, a, b)).status_code == 404
    assert (await link(api, user, a, b, directed=True)).status_code == 201
    assert len(await linked(api, user)) == 2
    assert (await link(api, user, b, a)).status_code == 200
    assert [(each["from_id"], each["directed"]) for each in await linked(api, user)] == [(a, False)]
    assert (await drop(api, user, b, a)).status_code == 204
    assert await linked(api, user) == []
    response = await drop(api, user, b, a)
    assert (response.status_code, response.json()["type"]) == (404, "urn:memfast:problem:not-found")


async def test_what_cannot_be_linked(api, user, check_problem):
    """Itself, what is not there, what is another user's, and fields outside their bounds."""
    a, b = await memories(api, user, 2)
    other = api.new_user()
    (foreign,) = await memories(api, other, 1)
    check_problem(await link(api, user, a, a), 400, "invalid-request", "$.to_id")
    for missing in (foreign, str(uuid4())):
        check_problem(await link(api, user, a, missing), 404, "not-found", "$.to_id", missing)
        check_problem(await link(api, user, missing, a), 404, "not-found", "$.from_id", missing)
    check_problem(await link(api, "nobody", a, b), 404, "not-found", "$.from_id", a)
    for fields, path in (
        ({"weight": 1.5}, "$.weight"),
        ({"type": ""}, "$.type"),
        ({"type": "x" * 600}, "$.type"),
        ({"metadata": {"a": "x" * 20_000}}, "$.metadata"),
        ({"wieght": 1}, None),
    ):
        check_problem(await link(api, user, a, b, **fields), 400, "invalid-request", path)
    await api.delete(user, b)
    check_problem(await link(api, user, a, b), 404, "not-found", "$.to_id", b)
    assert await rows(api, user) == 0


async def test_a_batch_has_a_result_for_every_link(api, user):
    """In order, in one transaction; what is wrong fails alone and says where."""
    a, b, c = await memories(api, user, 3)
    missing = str(uuid4())
    links = [
        {"from_id": a, "to_id": b},
        {"from_id": a, "to_id": a},
        {"from_id": a, "to_id": missing},
        {"from_id": a, "weight": "heavy", "to_id": c},
        {"from_id": b, "to_id": a, "weight": 0.5},
        {"from_id": b, "to_id": c, "directed": True, "metadata": {"n": 1}},
    ]
    response = await api.client.post("/v1/links/batch", json={"user_id": user, "links": links})
    results = response.json()["results"]
    assert [each["status"] for each in results] == ["created", "error", "error", "error", "updated", "created"]
    assert [each.get("problem", {}).get("path") for each in results] == [
        *(None, "$.links[1].to_id", "$.links[2].to_id", "$.links[3].weight", None, None)
    ]
    assert missing in results[2]["problem"]["detail"]
    assert "$.links[2].to_id" in results[2]["problem"]["detail"]
    assert [(each["to_id"], each["weight"]) for each in await linked(api, user)] == [(b, 0.5), (c, 1.0)]
    wrong = await api.client.post("/v1/links/batch", json={"user_id": user, "links": [{"from_id": a, "to_id": a}]})
    assert [each["status"] for each in wrong.json()["results"]] == ["error"]
    many = {"user_id": user, "links": links[:1] * 1001}
    assert (await api.client.post("/v1/links/batch", json=many)).status_code == 400


async def test_the_listing_has_pages(api, user, check_problem):
    """Of all links, of one type, of one memory from either end; a cursor is bound to what it pages."""
    ids = await memories(api, user, 6)
    pairs = [(a, b) for number, a in enumerate(ids) for b in ids[number + 1 :]]
    body = {"user_id": user, "links": [{"from_id": a, "to_id": b, "type": "xy"[a == ids[0]]} for a, b in pairs]}
    await api.client.post("/v1/links/batch", json=body)
    for parameters, expected in (
        ({}, pairs),
        ({"type": "x"}, [pair for pair in pairs if pair[0] != ids[0]]),
        ({"memory_id": ids[3]}, [pair for pair in pairs if ids[3] in pair]),
        ({"memory_id": ids[3], "type": "y"}, [(ids[0], ids[3])]),
    ):
        found, cursor = [], None
        while True:
            asked = {"user_id": user, "limit": 2} | parameters | ({"cursor": cursor} if cursor else {})
            page = (await api.client.get("/v1/links", params=asked)).json()
            found += [(each["from_id"], each["to_id"]) for each in page["links"]]
            cursor = page["next_cursor"]
            assert page["has_more"] == (cursor is not None)
            if cursor is None:
                break
        assert found == expected
    cursor = (await api.client.get("/v1/links", params={"user_id": user, "limit": 2})).json()["next_cursor"]
    asked = {"user_id": user, "cursor": cursor, "type": "x"}
    check_problem(await api.client.get("/v1/links", params=asked), 400, "invalid-request", "cursor")
    asked = {"user_id": user, "memory_id": str(uuid4())}
    check_problem(await api.client.get("/v1/links", params=asked), 404, "not-found", "memory_id")


@pytest.mark.parametrize("how", ["delete", "purge", "batch", "filter", "expiry", "replaced"])
async def test_the_links_of_a_memory_go_with_it(api, user, how):
    """Whatever removes it; those of others stay, and bringing the memory back does not bring them back."""
    a, b, c = await memories(api, user, 3)
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    gone = (await api.create(user, "gone", expires_at=soon, kind="gone"))["id"]
    for pair in ((a, b), (a, gone), (gone, c)):
        assert (await link(api, user, *pair)).status_code == 201
    if how in {"expiry", "replaced"}:
        async with api.database() as connection:
            for table in ("memories", "memory_vectors"):
                query = f"UPDATE {table} SET expires_at = now() - interval '1 second' WHERE id = $1"
                await connection.execute(query, UUID(gone))
        assert len(await linked(api, user)) == 1
        assert await linked(api, user, memory_id=c) == []
    if how == "expiry":
        await api.services.sweeps.expire()
        async with asyncio.timeout(10):
            while await rows(api, user) > 1:
                await asyncio.sleep(0.01)
    elif how == "replaced":
        await api.create(user, "new", id=gone)
        assert await around(api, user, gone) == []
    elif how == "batch":
        await api.client.request("DELETE", "/v1/memories/batch", json={"user_id": user, "ids": [gone]})
    elif how == "filter":
        await api.client.post("/v1/memories/delete", json={"user_id": user, "filter": {"kind": "gone"}})
    else:
        url = f"/v1/memories/{gone}"
        await api.client.delete(url, params={"user_id": user, "purge": str(how == "purge").lower()})
    assert await rows(api, user) == 1
    assert await around(api, user, a) == [(b, 1, 1.0)]
    if how == "delete":
        assert (await api.client.post(f"/v1/memories/{gone}/undelete", params={"user_id": user})).status_code == 200
        assert await rows(api, user) == 1


async def test_forgetting_a_user_forgets_the_links(api, user):
    """They stand in the receipt."""
    a, b = await memories(api, user, 2)
    await link(api, user, a, b)
    receipt = (await api.client.delete(f"/v1/users/{user}")).json()
    assert receipt["rows"]["links"] == 1
    async with api.database() as connection:
        assert await connection.fetchval("SELECT count(*) FROM links WHERE from_id = $1", UUID(a)) == 0


async def test_a_key_makes_a_link_once(api, user):
    """A repeated request gets the same answer, also when the link has gone since; so does a batch and a removal."""
    a, b = await memories(api, user, 2)
    sent = {"from_id": a, "to_id": b}
    calls = [
        lambda key: link(api, user, a, b, headers=key),
        lambda key: api.client.post("/v1/links/batch", json={"user_id": user, "links": [sent]}, headers=key),
        lambda key: drop(api, user, a, b, headers=key),
    ]
    for number, call in enumerate(calls):
        key = {"Idempotency-Key": f"key {number}"}
        first, again = await call(key), await call(key)
        assert (first.status_code, first.content) == (again.status_code, again.content)
        assert again.headers["idempotent-replayed"] == "true"
        assert first.headers["memfast-token"] == again.headers["memfast-token"]
    assert await rows(api, user) == 0


async def test_related_goes_breadth_first(api, user):
    """Nearest first, then by weight, the newest, the id; each memory once, by the best of its shortest paths."""
    made = [
        await api.create(user, name, created_at=f"2024-01-0{day}T00:00:00Z")
        for name, day in (("a", 1), ("b", 1), ("c", 2), ("d", 3), ("e", 1), ("f", 1))
    ]
    a, b, c, d, e, f = [memory["id"] for memory in made]
    for pair, weight in (((a, b), 0.5), ((a, c), 0.5), ((c, d), 0.5), ((b, d), 0.9), ((d, e), 1.0), ((a, f), 0.1)):
        await link(api, user, *pair, weight=weight)
    near = [(c, 1, 0.5), (b, 1, 0.5), (f, 1, 0.1)]
    assert await around(api, user, a, depth=1) == near
    assert await around(api, user, a) == [*near, (d, 2, 0.45)]
    assert await around(api, user, a, depth=3) == [*near, (d, 2, 0.45), (e, 3, 0.45)]
    assert await around(api, user, a, depth=4, limit=4) == [*near, (d, 2, 0.45)]
    assert await around(api, user, a, depth=4, limit=2) == near[:2]
    assert await around(api, user, a, depth=4, min_weight=0.5) == [*near[:2], (d, 2, 0.45), (e, 3, 0.45)]
    answer = (await related(api, user, a)).json()
    assert (answer["engine"], answer["degraded"], answer["version"]) == ("postgresql", [], 12)
    known = {memory["id"]: memory for memory in made}
    assert [{k: v for k, v in each.items() if k not in {"depth", "weight"}} for each in answer["results"]] == [
        known[each["id"]] for each in answer["results"]
    ]
    packed = await api.client.get(
        f"/v1/memories/{a}/related", params={"user_id": user}, headers={"accept": "application/msgpack"}
    )
    assert packed.headers["content-type"] == "application/msgpack"


async def test_related_heeds_direction_and_type(api, user):
    """A directed link is followed to its end only, another type not at all where one is asked for."""
    a, b, c = await memories(api, user, 3)
    await link(api, user, b, a, directed=True)
    await link(api, user, c, b, type="other")
    assert await around(api, user, a) == []
    assert sorted(await around(api, user, b)) == [(a, 1, 1.0), (c, 1, 1.0)]
    assert await around(api, user, b, type="other") == [(c, 1, 1.0)]
    assert await around(api, user, c, type="other", depth=4) == [(b, 1, 1.0)]


async def test_related_does_not_walk_through_what_has_expired(api, user):
    """The answer that was kept ends with the first memory that was walked through, also where it is not shown."""
    a, b, c = await memories(api, user, 3)
    soon = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
    bridge = (await api.create(user, "bridge", expires_at=soon))["id"]
    await link(api, user, a, bridge, weight=0.5)
    await link(api, user, bridge, c)
    await link(api, user, a, b)
    before = await around(api, user, a)
    assert before == [(b, 1, 1.0), (bridge, 1, 0.5), (c, 2, 0.5)]
    assert (await related(api, user, a)).headers["memfast-tier"] == "hot"
    async with asyncio.timeout(10):
        while await around(api, user, a) == before:
            await asyncio.sleep(0.02)
    assert await around(api, user, a) == [(b, 1, 1.0)]
    assert (await related(api, user, bridge)).status_code == 404


async def test_related_is_kept_until_something_is_written(api, user):
    """The second answer is hot and the same; after a link, a change of one and a delete it is a new one."""
    a, b, c = await memories(api, user, 3)
    await link(api, user, a, b)
    first = await related(api, user, a)
    again = await related(api, user, a)
    assert (first.headers["memfast-tier"], again.headers["memfast-tier"]) == ("cold", "hot")
    assert first.content == again.content
    await link(api, user, a, c, weight=0.5)
    assert await around(api, user, a) == [(b, 1, 1.0), (c, 1, 0.5)]
    await link(api, user, a, b, weight=0.25)
    assert await around(api, user, a) == [(c, 1, 0.5), (b, 1, 0.25)]
    await drop(api, user, a, c)
    assert await around(api, user, a) == [(b, 1, 0.25)]
    await api.delete(user, b)
    assert await around(api, user, a) == []


async def test_what_related_refuses(api, user, check_problem):
    """Parameters outside their bounds, and memories that are not the user's."""
    (a,) = await memories(api, user, 1)
    (foreign,) = await memories(api, api.new_user(), 1)
    for parameters, path in (
        ({"depth": 0}, "depth"),
        ({"depth": 5}, "depth"),
        ({"limit": 1001}, "limit"),
        ({"min_weight": 2}, "min_weight"),
        ({"type": ""}, "type"),
    ):
        check_problem(await related(api, user, a, **parameters), 400, "invalid-request", path)
    for missing in (foreign, str(uuid4())):
        check_problem(await related(api, user, missing), 404, "not-found", says=missing)
    assert await around(api, user, a) == []


async def test_a_link_leaves_a_warm_user_warm(api, user):
    """A write of links raises the version; the shard in memory follows it without a query."""
    a, b = await memories(api, user, 2)
    for _ in range(3):
        await api.search(user, query="memory 1")
    async with asyncio.timeout(10):
        while (await api.search(user, query=f"memory {uuid4()}")).headers["memfast-tier"] != "warm":
            await asyncio.sleep(0.02)
    scope = api.services.access.scope(Principal("default", None, "admin"), user)
    await link(api, user, a, b)
    assert api.services.shards.peek(scope.id).version == 3
    response = await api.search(user, query=f"memory {uuid4()}")
    assert (response.headers["memfast-tier"], response.json()["version"]) == ("warm", 3)


async def world_of(api, user):
    """Memories with every kind of field in a web of links, and walks over it; returns the user's scope too."""
    fields = [{"metadata": {"ä": [1, None]}}, {"tags": ["x", "y"]}, {"importance": 0.25, "run_id": "r"}, {}]
    items = [{"text": f'"{number}" \u00e9 \U0001f600'} | fields[number % 4] for number in range(12)]
    items[5]["expires_at"] = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    ids = [result["id"] for result in await api.create_many(user, items)]
    pairs = [pair for pair in itertools.combinations(range(12), 2) if pair[0] * pair[1] % 5 < 2]
    for number, (b, a) in enumerate(pairs):
        await link(api, user, ids[a], ids[b], weight=round(1 / (number + 3), 4), directed=number % 3 == 0)
    walks = [{"depth": depth, "limit": limit} for depth in (1, 2, 4) for limit in (1, 5, 100)]
    return ids, walks, api.services.access.scope(Principal("default", None, "admin"), user)


async def test_walks_say_the_same_of_a_warm_user(api, user, monkeypatch):
    """The memories of a walk come from the shard then: the same bytes in either form, and PostgreSQL gives ids alone."""
    ids, walks, scope = await world_of(api, user)
    forms = [{"accept": "application/json"}, {"accept": "application/msgpack"}]

    async def told():
        asked = [(start, walk, form) for start in ids[:4] for walk in walks for form in forms]
        paths = [f"/v1/memories/{start}/related" for start, _, _ in asked]
        answers = [
            await api.client.get(path, params={"user_id": user} | walk, headers=form)
            for path, (_, walk, form) in zip(paths, asked, strict=True)
        ]
        assert {answer.headers["memfast-tier"] for answer in answers} == {"cold"}
        return [answer.content for answer in answers]

    monkeypatch.setattr(api.services.warm, "missed", lambda _scope: None)
    cold = await told()
    api.services.answers.clear()
    assert await api.services.warm.load(scope)
    monkeypatch.setattr(api.services.links._graph, "related", None)
    assert await told() == cold
    assert (await related(api, user, str(uuid4()))).status_code == 404


async def test_a_walk_takes_nothing_from_a_shard_that_is_behind(api, user, monkeypatch):
    """Whoever has written since the shard was looked at: what he wrote is told, and nothing of before."""
    ids, _, scope = await world_of(api, user)
    assert await api.services.warm.load(scope)
    behind = api.services.shards.peek(scope.id)
    assert (await api.patch(user, ids[0], {"text": "new"})).status_code == 200
    monkeypatch.setattr(api.services.warm, "current", lambda _scope_id, _epochs: behind)
    answer = (await related(api, user, ids[1], depth=4)).json()
    assert answer["version"] > behind.version
    assert [each["text"] for each in answer["results"] if each["id"] == ids[0]] == ["new"]
