"""Keys: without one nothing is reached, with one nothing of others."""

import asyncio
import contextlib
import re
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio

from memfast.credentials import KeyRecord
from memfast.errors import Unauthorized
from memfast.http.app import ROUTES
from memfast.model import DatabaseFacts
from memfast.resilience.clock import SystemClock
from memfast.service.access import Access, Keyring
from memfast.store.keys import PostgresKeys

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROTECTED = [route for route in ROUTES if not route.public and route.path != "/metrics"]  # open to this machine
GARBAGE = [None, "", "Bearer", "Bearer ", "Bearer x", "Basic dXNlcjpwdw==", "mf_1_2", "Bearer mf_00000000_" + "A" * 43]


def bearer(issued):
    """The header of a key."""
    return {"authorization": f"Bearer {issued.secret}"}


def concrete(route):
    """A path of the route."""
    return route.path.replace("{memory_id}", str(uuid4())).replace("{user_id}", "someone")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keys(api):
    """Keys of two namespaces, one for a single user, one revoked; the service knows that keys exist."""
    keyring = Keyring(PostgresKeys(api.services.recall._store._pool), SystemClock())
    made = {
        "one": await keyring.create(namespace="one", user_id=None, role="user"),
        "two": await keyring.create(namespace="two", user_id=None, role="user"),
        "ada": await keyring.create(namespace="one", user_id="ada", role="user"),
        "admin": await keyring.create(namespace="one", user_id=None, role="admin"),
        "revoked": await keyring.create(namespace="one", user_id=None, role="admin"),
    }
    assert await keyring.revoke(made["revoked"].record.id)
    await api.services.coherence.check()
    return made | {"ring": keyring}


class Call:
    """A request whose body, where it announces one, never arrives, of a client that leaves when it has the answer.

    `received` is how often the body was asked for before there was an answer.
    """

    def __init__(self, api, method, path, headers):
        self.received = 0
        self.sent = []
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "headers": [(b"host", b"memfast"), *raw],
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"user_id=ada",
            "server": ("memfast", 80),
            "client": ("127.0.0.1", 1),
            "root_path": "",
        }
        self._edge = api.edge

    async def receive(self):
        if not self.sent or self.sent[-1].get("more_body", False):
            self.received += 1
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    async def run(self):
        await self._edge(self._scope, self.receive, self.send)
        return self.sent[0]["status"]


@pytest.mark.parametrize("authorization", [*GARBAGE, "revoked"], ids=str)
@pytest.mark.parametrize("route", PROTECTED, ids=lambda route: f"{route.method} {route.path}")
async def test_no_route_but_health_is_reached_without_a_key(api, keys, route, authorization):
    """401 for no key, garbage, an unknown and a revoked one, before a single byte of the body is asked for."""
    if authorization == "revoked":
        authorization = f"Bearer {keys['revoked'].secret}"
    headers = {"content-length": "1000"} | ({} if authorization is None else {"authorization": authorization})
    call = Call(api, route.method, concrete(route), headers)
    assert await asyncio.wait_for(call.run(), 10) == 401
    assert call.received == 0
    found = dict(call.sent[0]["headers"])
    assert found[b"content-type"] == b"application/problem+json"
    assert found[b"www-authenticate"].startswith(b"Bearer")


async def test_health_needs_no_key(api, keys):
    """The public routes are those of health, and no other."""
    assert {route.path for route in ROUTES if route.public} == {"/v1/health", "/v1/health/live", "/v1/health/ready"}
    for route in ROUTES:
        if route.public:
            assert (await api.client.get(route.path)).status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/healthy", "/v1/health/../users", "//v1/users", "/v1/health/x", "/schema", "/v1/nowhere"]
)
async def test_no_other_path_slips_past_the_key(api, keys, path):
    """Neighbours of the public paths give nothing away."""
    assert await asyncio.wait_for(Call(api, "GET", path, {}).run(), 10) in {401, 404}


async def test_namespaces_do_not_see_each_other(api, keys):
    """The same user id in two namespaces is two users, on every route."""
    memory_id = str(uuid4())
    for name in ("one", "two"):
        body = {"user_id": "same", "text": f"of {name}", "id": memory_id}
        assert (await api.client.post("/v1/memories", json=body, headers=bearer(keys[name]))).status_code == 201
    for name, other in (("one", "two"), ("two", "one")):
        headers = bearer(keys[name])
        for _ in range(2):  # the second answers come from the cache
            one = await api.get("same", memory_id, headers=headers)
            assert one.json()["text"] == f"of {name}"
            found = await api.client.post("/v1/search", json={"user_id": "same", "query": "of"}, headers=headers)
            assert [hit["text"] for hit in found.json()["results"]] == [f"of {name}"]
            listed = await api.client.get("/v1/memories", params={"user_id": "same"}, headers=headers)
            assert other not in listed.text
        users = await api.client.get("/v1/users", headers=headers)
        assert [user["user_id"] for user in users.json()["users"]].count("same") == 1
    receipt = await api.client.delete("/v1/users/same", headers=bearer(keys["two"]))
    assert receipt.json()["memories"] == 1
    assert (await api.get("same", memory_id, headers=bearer(keys["one"]))).json()["text"] == "of one"


async def test_a_users_key_reaches_that_user_alone(api, keys, check_problem):
    """403 for any other user_id, wherever it stands; its own works."""
    headers = bearer(keys["ada"])
    own = await api.client.post("/v1/memories", json={"user_id": "ada", "text": "mine"}, headers=headers)
    assert own.status_code == 201
    memory_id = own.json()["id"]
    other = await api.client.post("/v1/memories", json={"user_id": "bob", "text": "his"}, headers=bearer(keys["one"]))
    his = other.json()["id"]
    refused = [
        await api.client.post("/v1/memories", json={"user_id": "bob", "text": "x"}, headers=headers),
        await api.client.post("/v1/memories/get", json={"user_id": "bob", "ids": [his]}, headers=headers),
        await api.client.post("/v1/search", json={"user_id": "bob", "query": "x"}, headers=headers),
        await api.client.get("/v1/memories", params={"user_id": "bob"}, headers=headers),
        await api.get("bob", his, headers=headers),
        await api.patch("bob", his, {"kind": "x"}, headers=headers),
        await api.delete("bob", his, headers=headers),
        await api.client.get("/v1/users/bob", headers=headers),
        await api.client.delete("/v1/users/bob", headers=headers),
        await api.client.get("/v1/users/nobody", headers=headers),
        await api.client.get("/v1/users/ada%2F", headers=headers),
    ]
    for response in refused:
        check_problem(response, 403, "forbidden")
    body = {"user_id": "ada", "memories": [{"text": "a"}, {"text": "b", "user_id": "bob"}]}
    results = (await api.client.post("/v1/memories/batch", json=body, headers=headers)).json()["results"]
    assert [result["status"] for result in results] == ["created", "error"]
    assert results[1]["problem"]["status"] == 403
    assert (await api.get("ada", memory_id, headers=headers)).status_code == 200
    assert (await api.get("ada", his, headers=headers)).status_code == 404
    users = (await api.client.get("/v1/users", headers=headers)).json()
    assert [user["user_id"] for user in users["users"]] == ["ada"]
    assert (await api.get("bob", his, headers=bearer(keys["one"]))).json()["text"] == "his"


async def test_routes_of_administrators_refuse_other_roles(api, keys, check_problem):
    """403 for a key of the role user; an administrator's goes through."""
    for method, path in (("GET", "/v1/cache"), ("POST", "/v1/cache/clear"), ("GET", "/v1/settings")):
        check_problem(await api.request(method, path, headers=bearer(keys["one"])), 403, "forbidden")
        check_problem(await api.request(method, path, headers=bearer(keys["ada"])), 403, "forbidden")
        assert (await api.request(method, path, headers=bearer(keys["admin"]))).status_code == 200


async def test_a_hot_answer_is_not_shared_between_keys(api, keys, check_problem):
    """The byte-equal request of a key that may not is refused, also right after one that may."""
    body = {"user_id": "carol", "query": "secret"}
    create = {"user_id": "carol", "text": "secret"}
    await api.client.post("/v1/memories", json=create, headers=bearer(keys["one"]))
    for _ in range(3):
        assert len((await api.client.post("/v1/search", json=body, headers=bearer(keys["one"]))).json()["results"]) == 1
        check_problem(await api.client.post("/v1/search", json=body, headers=bearer(keys["ada"])), 403, "forbidden")
        assert (await api.client.post("/v1/search", json=body, headers=bearer(keys["two"]))).json()["results"] == []
        assert (await api.client.post("/v1/search", json=body)).status_code == 401


async def test_a_revoked_key_is_refused_once_the_change_was_seen(api, keys):
    """It works, it is revoked, the next look at the database ends it, hot answers included."""
    issued = await keys["ring"].create(namespace="one", user_id=None, role="user")
    await api.services.coherence.check()
    body = {"user_id": "dora", "query": "x"}
    for _ in range(3):
        assert (await api.client.post("/v1/search", json=body, headers=bearer(issued))).status_code == 200
    assert await keys["ring"].revoke(issued.record.id)
    assert not await keys["ring"].revoke(issued.record.id)
    await api.services.coherence.check()
    assert (await api.client.post("/v1/search", json=body, headers=bearer(issued))).status_code == 401


async def test_a_key_revoked_while_it_is_looked_up_is_not_remembered():
    """The record came from before the revocation, the facts from after it: the next request asks again."""
    record = KeyRecord(id="k", namespace="n", user_id=None, role="user", created_at=SystemClock().now())
    asked, answer = asyncio.Event(), asyncio.Event()

    class Keys:
        looked_up = 0

        async def find(self, digest):
            self.looked_up += 1
            if self.looked_up > 1:
                return None
            asked.set()
            await answer.wait()
            return record

    keys = Keys()
    facts = DatabaseFacts(lineage=uuid4(), schema=1, keys_generation=1, wal=1, generation=1)
    access = Access(keys, b"secret", facts)
    first = asyncio.create_task(access.authenticate(b"Bearer key"))
    await asked.wait()
    access.learned(msgspec.structs.replace(facts, keys_generation=2))
    answer.set()
    assert (await first).namespace == "n"
    with pytest.raises(Unauthorized):
        await access.authenticate(b"Bearer key")
    assert keys.looked_up == 2


async def test_no_secret_lies_in_the_database(api, keys):
    """Only digests are stored, and listing keys shows no secret."""
    async with api.database() as connection:
        rows = str(await connection.fetch("SELECT * FROM api_keys"))
    for name in ("one", "two", "ada", "admin", "revoked"):
        assert keys[name].secret not in rows
        assert re.fullmatch(r"mf_[0-9a-f]{8}_[\w-]{43}", keys[name].secret)
    listed = await keys["ring"].all()
    assert len(listed) >= 5
    assert all("secret" not in record.__struct_fields__ for record in listed)


async def test_a_database_that_is_away_is_503_and_not_401(api, keys, monkeypatch):
    """A key that cannot be looked up is not called wrong."""
    issued = await keys["ring"].create(namespace="one", user_id=None, role="user")
    pool = api.services.recall._store._pool
    monkeypatch.setattr(pool, "_acquire_timeout_s", 1.0)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(pool.limit):
            await stack.enter_async_context(pool.connection())
        response = await api.client.get("/v1/users", headers=bearer(issued))
    assert response.status_code == 503
    assert response.headers["retry-after"]
    async with asyncio.timeout(10):  # uses that took so long have opened the breaker; a check closes it
        while (await api.client.get("/v1/users", headers=bearer(issued))).status_code != 200:
            await asyncio.sleep(0.01)
