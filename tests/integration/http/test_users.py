"""Users, forgetting, namespaces, health, and the headers of every answer."""

import asyncio
import re
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from memfast.http.app import build_app
from memfast.model import ScopeReads
from memfast.store.forget import OWNED_TABLES

pytestmark = pytest.mark.asyncio(loop_scope="module")

STRANGE_IDS = [
    "a/b",
    "a/",
    "/a",
    "/",
    "//",
    "a//b",
    "a/../b",
    "...",
    "100%",
    "%2F",
    "%41",
    "a?b=c#d",
    "a b",
    " ",
    "a+b",
    "ä",
    "a\u0308",
    "🥜",
    "\u202egnirts",
    "\n",
    "x" * 256,
    "é" * 128,
]


def user_url(user_id):
    """The address of a user whose id may hold anything."""
    return httpx.URL(f"http://memfast/v1/users/{quote(user_id, safe='')}")


async def test_a_user_counts_what_is_stored(api, user):
    """Memories, version and times follow every write."""
    first = await api.create(user, "x")
    await api.create_many(user, [{"text": "y"}] * 3)
    await api.delete(user, first["id"])
    response = await api.client.get(user_url(user))
    answer = response.json()
    assert (answer["user_id"], answer["memories"], answer["version"]) == (user, 3, 5)
    assert answer["created_at"] == first["created_at"]
    assert answer["updated_at"] > answer["created_at"]
    assert response.headers["memfast-version"] == "5"


async def test_unknown_users_are_not_found(api, user, check_problem):
    """Get and forget alike, and reading does not make a user."""
    await api.listing(user)
    await api.search(user, query="x")
    check_problem(await api.client.get(user_url(user)), 404, "not-found", says=user)
    check_problem(await api.client.delete(user_url(user)), 404, "not-found", says=user)


@pytest.mark.parametrize("user_id", STRANGE_IDS, ids=ascii)
async def test_any_id_can_be_stored_read_and_forgotten(api, user_id):
    """Slashes, percent signs, emoji and look-alikes: percent-encoded in the path, each is a user of its own."""
    memory = await api.create(user_id, "x")
    assert memory["user_id"] == user_id
    assert (await api.get(user_id, memory["id"])).json() == memory
    assert (await api.client.get(user_url(user_id))).json()["user_id"] == user_id
    receipt = (await api.client.delete(user_url(user_id))).json()
    assert (receipt["user_id"], receipt["memories"]) == (user_id, 1)
    assert (await api.client.get(user_url(user_id))).status_code == 404


async def test_forgetting_a_look_alike_leaves_the_user_alone(api, check_problem):
    """A trailing, leading or doubled slash, another case or another normal form is another user."""
    memory = await api.create("ada", "x")
    for other in ("ada/", "/ada", "ada//", "ADA", "ada ", "ada\u0301", "ada%"):
        check_problem(await api.client.delete(user_url(other)), 404, "not-found")
    assert (await api.get("ada", memory["id"])).json() == memory


@pytest.mark.parametrize("path", ["a/b", "a%2", "a%zz", "%ff", "%C3%28", "%00", quote("é" * 129), "x" * 257])
async def test_a_path_that_names_no_user_is_refused(api, path, check_problem):
    """A bare slash, broken escapes, bytes that are no UTF-8, NUL, and what is too long."""
    status, slug = (404, "not-found") if path == "a/b" else (400, "invalid-request")
    for method in ("GET", "DELETE"):
        response = await api.request(method, f"/v1/users/{path}")
        if response.request.url.raw_path.decode().endswith(path):  # the client mends some escapes
            check_problem(response, status, slug)


async def raw_request(api, method, raw_path):
    """The status of a request whose path no client library has touched."""
    sent = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "headers": [(b"host", b"memfast")],
        "scheme": "http",
        "path": httpx.URL(f"http://memfast{raw_path}").path,
        "raw_path": raw_path.encode(),
        "query_string": b"",
        "server": ("memfast", 80),
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await api.edge(scope, receive, send)
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("raw_path", "status"),
    [
        ("/v1/users/a%zz", 400),
        ("/v1/users/a%2", 400),
        ("/v1/users/%ff", 400),
        ("/v1/users/%00", 400),
        ("/v1/users/%2F", 404),
        ("/v1/%75sers", 404),
        ("/v1/users%2F", 404),
        ("/v1/memories%2F", 404),
    ],
)
async def test_paths_are_read_as_they_were_sent(api, raw_path, status):
    """What the router would mend is not mended: an encoded slash is never a separator."""
    assert await raw_request(api, "GET", raw_path) == status


async def test_forgetting_leaves_nothing_but_a_nameless_version(api, user, check_problem):
    """Gone from every route and from every table; the version goes on where it stopped."""
    ids = [result["id"] for result in await api.create_many(user, [{"text": "secret", "tags": ["t"]}] * 5)]
    await api.delete(user, ids[0])
    cursor = (await api.listing(user, limit=1)).json()["next_cursor"]
    response = await api.client.delete(user_url(user))
    receipt = response.json()
    assert (receipt["user_id"], receipt["memories"], receipt["version"]) == (user, 4, 7)
    assert receipt["rows"] == {
        "memories": 5,
        "memory_vectors": 4,
        "links": 0,
        "history": 1,
        "access_stats": 0,
        "reembedded": 0,
        "outbox": 0,
        "idempotency": 0,
        "api_keys": 0,
    }
    assert {"where", "until"} == set().union(*receipt["remains"])
    assert response.headers["memfast-token"].endswith(".7")
    check_problem(await api.client.get(user_url(user)), 404, "not-found")
    check_problem(await api.client.delete(user_url(user)), 404, "not-found")
    for memory_id in ids:
        check_problem(await api.get(user, memory_id), 404, "not-found")
        check_problem(await api.delete(user, memory_id), 404, "not-found")
        check_problem(await api.patch(user, memory_id, {"kind": "x"}), 404, "not-found")
    assert (await api.listing(user)).json()["memories"] == []
    assert (await api.listing(user, cursor=cursor)).json()["memories"] == []
    assert (await api.search(user, query="secret")).json()["results"] == []
    found = await api.client.post("/v1/memories/get", json={"user_id": user, "ids": ids})
    assert found.json()["missing"] == ids
    async with api.database() as connection:
        scope_id = api.services.access.scope(api.services.access.recognise(None), user).id
        row = await connection.fetchrow("SELECT * FROM scopes WHERE scope_id = $1", scope_id)
        assert row["version"] == 7
        assert user not in str(dict(row))
        for table in ("memories", "memory_vectors"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE scope_id = $1", scope_id) == 0
    again = await api.create(user, "new", id=ids[1])
    assert again["version"] == 8
    user_now = (await api.client.get(user_url(user))).json()
    assert (user_now["memories"], user_now["version"], user_now["created_at"]) == (1, 8, again["created_at"])
    assert [hit["id"] for hit in (await api.search(user, query="secret")).json()["results"]] == [ids[1]]


async def test_every_table_of_a_scope_is_emptied(api):
    """The list of what is erased is that of the schema: a new table with a scope's id has to be on it."""
    async with api.database() as connection:
        rows = await connection.fetch(
            "SELECT table_name FROM information_schema.columns WHERE table_schema = 'public' AND column_name = 'scope_id'"
        )
    assert {row[0] for row in rows} - {"scopes"} == set(OWNED_TABLES)


async def copies(api, user):
    """What the worker says that it keeps of a user: answers, memories, questions, snapshots."""
    kept = (await api.client.get("/v1/cache/user", params={"user_id": user})).json()
    return [kept[name] for name in ("answers", "memories", "questions", "snapshots")]


async def test_forgetting_erases_the_copies_too(api, user):
    """Finished answers, the shard, questions and the snapshot: counted in the receipt, and not there any more."""
    memory = await api.create(user, "octopus")
    for query in ("octopus", "octopus", "squid"):
        await api.search(user, query=query)
    await api.listing(user)
    await api.get(user, memory["id"])
    services = api.services
    scope = services.access.scope(services.access.recognise(None), user)
    await services.warm.load(scope)
    services.shards.save(scope, services.shards.get(scope.id))
    held = await copies(api, user)
    assert held[0] >= 3
    assert held[1:] == [1, 2, 1]
    receipt = (await api.client.delete(user_url(user))).json()
    assert [receipt["copies"][name] for name in ("answers", "memories", "questions", "snapshots")] == held
    assert receipt["copies"]["redis"] is None
    assert await copies(api, user) == [0, 0, 0, 0]
    await services.heat.flush()
    async with api.database() as connection:
        assert await connection.fetchval("SELECT count(*) FROM access_stats WHERE scope_id = $1", scope.id) == 0


async def test_what_is_forgotten_elsewhere_is_found_out(api, user):
    """Another host forgets: this worker's look erases what it keeps of that user, and of nobody else."""
    neighbour = api.new_user()
    services = api.services
    scopes = [services.access.scope(services.access.recognise(None), name) for name in (user, neighbour)]
    for scope in scopes:
        await api.create(scope.user_id, "octopus")
        await api.search(scope.user_id, query="octopus")
        await services.warm.load(scope)
        services.shards.save(scope, services.shards.get(scope.id))
    held = [await copies(api, scope.user_id) for scope in scopes]
    await services.heat.flush()
    await services.heat._log.record([ScopeReads(scope_id=scopes[0].id, reads=1, queries=[])], now=services.clock.now())
    assert (await services.forget._store.forget(scopes[0], now=services.clock.now())).rows["access_stats"] == 1
    await services.copies.look()
    assert [await copies(api, scope.user_id) for scope in scopes] == [[0, 0, 0, 0], held[1]]
    late = [ScopeReads(scope_id=scope.id, reads=1, queries=[]) for scope in scopes]
    await services.heat._log.record(late, now=services.clock.now())
    async with api.database() as connection:
        rows = await connection.fetch(
            "SELECT scope_id FROM access_stats WHERE scope_id = ANY ($1)", [s.id for s in scopes]
        )
    assert [row[0] for row in rows] == [scopes[1].id]


async def test_what_comes_after_forgetting_is_forgotten_again(api, user, check_problem):
    """A leftover under a nameless scope is erased by asking once more; then there is nothing."""
    await api.create(user, "x")
    await api.client.delete(user_url(user))
    scope_id = api.services.access.scope(api.services.access.recognise(None), user).id
    async with api.database() as connection:
        await connection.execute("INSERT INTO access_stats VALUES (1, now(), $1, '\\x00')", scope_id)
    receipt = (await api.client.delete(user_url(user))).json()
    assert (receipt["memories"], receipt["rows"]["access_stats"], receipt["version"]) == (0, 1, 3)
    check_problem(await api.client.delete(user_url(user)), 404, "not-found")


async def test_another_namespace_is_not_forgotten_by_mistake(api, user, check_problem):
    """Whoever says which namespace is meant is refused by a key of another."""
    await api.create(user, "x")
    refused = await api.client.delete(user_url(user), params={"namespace": "other"})
    check_problem(refused, 403, "forbidden", says="default")
    assert (await api.client.delete(user_url(user), params={"namespace": "default"})).status_code == 200


async def test_forgetting_one_user_leaves_the_others(api, user):
    """The neighbour's memories, count and version stay."""
    neighbour = api.new_user()
    kept = await api.create(neighbour, "kept")
    await api.create(user, "x")
    await api.client.delete(user_url(user))
    assert (await api.get(neighbour, kept["id"])).json() == kept
    assert (await api.client.get(user_url(neighbour))).json()["memories"] == 1


async def test_writes_and_a_forget_at_once_keep_the_count_right(api, user):
    """Whatever order they take, the count is that of the rows, and versions never repeat."""
    await api.create(user, "x")
    forgets = [api.client.delete(user_url(user)) for _ in range(3)]
    creates = [api.client.post("/v1/memories", json={"user_id": user, "text": str(n)}) for n in range(12)]
    answers = await asyncio.gather(*creates[:6], *forgets, *creates[6:])
    versions = [int(answer.headers["memfast-version"]) for answer in answers if answer.status_code < 300]
    assert len(versions) == len(set(versions))
    listed = (await api.listing(user, limit=100)).json()["memories"]
    response = await api.client.get(user_url(user))
    assert (response.json()["memories"] if response.status_code == 200 else 0) == len(listed)


async def test_health_tells_what_runs(api):
    """live, ready and the whole report, each without a version header."""
    assert (await api.client.get("/v1/health/live")).json() == {"status": "live"}
    ready = await api.client.get("/v1/health/ready")
    assert (ready.status_code, ready.json()["status"], ready.json()["detail"]) == (200, "ready", None)
    health = (await api.client.get("/v1/health")).json()
    assert health["status"] == "ready"
    assert health["store"]["server_version"].startswith("18")
    assert health["store"]["schema"] >= 1
    assert health["store"]["commit_ms"] > 0
    assert health["pool"]["size"] >= 1
    assert health["embedder"] == {"model": "wordllama/l2_supercat_256", "dimensions": 256}
    assert health["lineage"] == str(api.services.access.facts.lineage)


async def test_every_answer_echoes_the_request_id_and_the_trace(api, user):
    """Answers and problems alike; an id that cannot be a header is replaced."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"x-request-id": "my id/1", "traceparent": trace}
    for response in (
        await api.client.get("/v1/health/live", headers=headers),
        await api.client.get("/v1/users", headers=headers),
        await api.client.get("/v1/nowhere", headers=headers),
        await api.client.post("/v1/search", headers=headers, content=b"{"),
        await api.client.post("/v1/search", headers=headers, json={"user_id": user, "query": "x"}),
        await api.client.post("/v1/search", headers=headers, json={"user_id": user, "query": "x"}),
    ):
        assert response.headers["x-request-id"] == "my id/1"
        assert response.headers["traceparent"] == trace
        assert float(response.headers["x-process-time"]) >= 0
        assert re.fullmatch(r"total;dur=[\d.]+.*", response.headers["server-timing"])
    for bad in ("", "x" * 129, "ü".encode(), b"a\tb"):
        response = await api.client.get("/v1/health/live", headers={"x-request-id": bad})
        assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", response.headers["x-request-id"])
    drawn = {(await api.client.get("/v1/health/live")).headers["x-request-id"] for _ in range(50)}
    assert len(drawn) == 50
    assert "traceparent" not in (await api.client.get("/v1/health/live")).headers


async def test_the_tier_is_told_and_a_repeated_search_has_the_same_bytes(api, user):
    """Cold first; the same question again is answered hot, until something is written."""
    await api.create(user, "octopus")
    body = {"user_id": user, "query": "octopus"}
    cold = await api.client.post("/v1/search", json=body)
    hot = await api.client.post("/v1/search", json=body)
    assert cold.headers["memfast-tier"] in {"cold", "warm"}
    assert hot.headers["memfast-tier"] == "hot"
    assert hot.content == cold.content
    assert hot.headers["memfast-version"] == cold.headers["memfast-version"] == "1"
    await api.create(user, "squid")
    fresh = await api.client.post("/v1/search", json=body)
    assert fresh.headers["memfast-tier"] != "hot"
    assert (fresh.json()["version"], len(fresh.json()["results"])) == (2, 2)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "TRACE", "OPTIONS", "HEAD", "POST"])
async def test_methods_that_a_route_lacks(api, method, check_problem):
    """405 as a problem (OPTIONS may be answered), never a crash."""
    response = await api.request(method, "/v1/users")
    if method == "OPTIONS":
        assert response.status_code == 204
        assert response.headers["allow"]
        return
    if method == "HEAD":
        assert response.status_code == 405
        return
    check_problem(response, 405, "method-not-allowed")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/memories", "/v1/memories/a/b", "/v1/healthy", "/v1/users/a/b", "/schema/x"]
)
async def test_unknown_routes_are_problems(api, path, check_problem):
    """404 with the path and where to look."""
    check_problem(await api.client.get(path), 404, "not-found")


async def test_nothing_is_served_before_the_services_are_open(api):
    """An application without its lifespan refuses instead of half working."""
    edge = build_app(api.site)
    transport = httpx.ASGITransport(app=edge, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://memfast") as client:
        response = await client.post("/v1/memories", json={"user_id": "u", "text": "x", "id": str(uuid4())})
    assert response.status_code >= 500
