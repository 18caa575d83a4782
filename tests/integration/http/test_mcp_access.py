"""Keys at /mcp: nothing is reached without one, and no connection leaves its user."""

import asyncio
import json

import pytest
import pytest_asyncio

from memfast.mcp.tools import TOOLS
from memfast.resilience.clock import SystemClock
from memfast.service.access import Keyring
from memfast.store.keys import PostgresKeys

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def settings():
    """The name by which the tests call the service."""
    return {"mcp.hosts": "memfast"}


SECRET = "The vault's code is 4711."


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keys(api):
    """Keys of a namespace: for all users, for eve alone, revoked, and of another namespace."""
    ring = Keyring(PostgresKeys(api.services.recall._store._pool), SystemClock())
    made = {
        "all": await ring.create(namespace="one", user_id=None, role="user"),
        "eve": await ring.create(namespace="one", user_id="eve", role="user"),
        "admin of eve": await ring.create(namespace="one", user_id="eve", role="admin"),
        "other": await ring.create(namespace="two", user_id=None, role="user"),
        "revoked": await ring.create(namespace="one", user_id=None, role="admin"),
    }
    assert await ring.revoke(made["revoked"].record.id)
    await api.services.coherence.check()
    return {name: {"authorization": f"Bearer {issued.secret}"} for name, issued in made.items()}


async def post(api, headers, method, **params):
    """The answer to a message, as text."""
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return await api.client.post("/mcp", json=body, headers=headers)


async def call(api, headers, name, **arguments):
    """The result of a tool."""
    return (await post(api, headers, "tools/call", name=name, arguments=arguments)).json()["result"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def treasure(api, keys):
    """Two memories of ada, which eve wants to reach."""
    made = [
        (await call(api, keys["all"], "remember", user_id="ada", text=text))["structuredContent"]["id"]
        for text in (SECRET, "The vault is in Turin.")
    ]
    await call(api, keys["all"], "relate", user_id="ada", from_id=made[0], to_id=made[1])
    return made


@pytest.mark.parametrize("name", [None, "revoked", "garbage"])
@pytest.mark.parametrize("method", ["initialize", "server/discover", "tools/list", "tools/call", "ping", "x"])
async def test_nothing_is_reached_without_a_key(api, keys, name, method):
    """401 for every method, and no statement is sent for it but the look-up of the key."""
    headers = {"garbage": {"authorization": "Bearer mf_0"}, None: {}}.get(name) or keys.get(name, {})
    response = await post(api, headers, method, name="status")
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_the_key_is_checked_before_the_body(api, keys):
    """Without a key not a byte of the body is asked for until the client has its answer."""
    sent = []

    async def receive():
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/mcp", "raw_path": b"/mcp", "query_string": b"",
        "headers": [(b"content-length", b"1000")], "http_version": "1.1", "scheme": "http", "root_path": "",
        "asgi": {"version": "3.0"}, "server": ("memfast", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    await asyncio.wait_for(api.edge(scope, receive, send), 10)
    assert sent[0]["status"] == 401


def attempts(treasure):
    """Every tool with arguments that mean ada's memories."""
    one, two = treasure
    return {
        "remember": {"text": "planted"},
        "recall": {"query": "vault"},
        "get": {"id": one},
        "update": {"id": one, "text": "changed"},
        "forget": {"id": one},
        "list": {},
        "relate": {"from_id": one, "to_id": two, "type": "planted"},
        "related": {"id": one},
        "status": {},
    }


CONFINED = [
    ("eve", {}),
    ("admin of eve", {}),
    ("all", {"memfast-user": "eve"}),
    ("all", {"memfast-user": "%65ve"}),
    ("eve", {"memfast-user": "eve"}),
]


@pytest.mark.parametrize(("key", "header"), CONFINED, ids=str)
@pytest.mark.parametrize("name", [tool.name for tool in TOOLS])
async def test_a_connection_for_one_user_reaches_no_other(api, keys, treasure, key, header, name):
    """Whoever is named, whatever id is known: nothing of ada is shown, nothing of hers is changed."""
    headers = keys[key] | header
    before = (await post(api, keys["all"], "tools/call", name="list", arguments={"user_id": "ada"})).json()["result"]
    for owner in ("ada", "eve", None):
        result = await call(api, headers, name, user_id=owner, **attempts(treasure)[name])
        assert SECRET not in json.dumps(result)
        assert "Turin" not in json.dumps(result)
        if owner == "ada":
            assert result["isError"] is True
            assert "another user" in result["content"][0]["text"]
        elif name in {"get", "update", "forget", "relate", "related"}:
            assert result["isError"] is True
            assert "no memory" in result["content"][0]["text"]
        else:
            assert result["isError"] is False
    after = (await post(api, keys["all"], "tools/call", name="list", arguments={"user_id": "ada"})).json()["result"]
    assert after == before
    assert len(after["structuredContent"]["memories"]) == 2


@pytest.mark.parametrize(("key", "header"), CONFINED, ids=str)
async def test_resources_and_prompts_are_confined_too(api, keys, treasure, key, header):
    """A URI with another user's name finds nothing, and neither does a prompt."""
    headers = keys[key] | header
    for owner in ("ada", "eve"):
        answer = await post(api, headers, "resources/read", uri=f"memfast://users/{owner}/memories/{treasure[0]}")
        assert answer.json()["error"]["code"] == -32002
    for owner in ({"user_id": "ada"}, {"user_id": "eve"}, {}):
        arguments = {"topic": "vault"} | owner
        answer = await post(api, headers, "prompts/get", name="what_do_you_know_about", arguments=arguments)
        assert SECRET not in answer.text
    assert "ada" not in (await post(api, headers, "resources/list")).text


async def test_a_wish_to_erase_another_user_is_refused(api, keys, treasure):
    """Forgetting everything reaches the connection's own user only."""
    for key, header in CONFINED:
        result = await call(api, keys[key] | header, "forget", user_id="ada", everything=True, confirm="ada")
        assert result["isError"] is True
        result = await call(api, keys[key] | header, "forget", filter={"kind": "fact"})
        assert result["isError"] is False
    assert (await call(api, keys["all"], "status", user_id="ada"))["structuredContent"]["memories"] == 2


async def test_a_header_does_not_widen_a_key(api, keys, treasure):
    """Memfast-User names ada, the key is for eve: refused, with and without a user_id."""
    headers = keys["eve"] | {"memfast-user": "ada"}
    for owner in ("ada", "eve", None):
        result = await call(api, headers, "recall", query="vault", user_id=owner)
        assert result["isError"] is True
        assert SECRET not in json.dumps(result)
    answer = await post(api, headers, "resources/list")
    assert answer.json()["error"]["code"] == -32602


@pytest.mark.parametrize("header", ["", "%FF", "%00", "x" * 300])
async def test_a_header_that_names_nobody_is_refused(api, keys, header):
    """It must not mean everybody."""
    result = await call(api, keys["all"] | {"memfast-user": header}, "recall", query="vault", user_id="ada")
    assert result["isError"] is True
    assert "Memfast-User" in result["content"][0]["text"]


async def test_a_user_has_to_be_named(api, keys, treasure):
    """Where nothing says whose memories are meant, none are searched, and the model is told what to send."""
    result = await call(api, keys["all"], "recall", query="vault")
    assert result["isError"] is True
    assert "user_id" in result["content"][0]["text"]


async def test_namespaces_do_not_see_each_other(api, keys, treasure):
    """The same user in another namespace is another user."""
    for _ in range(3):  # the later ones come from finished answers
        for key, count in (("all", 2), ("other", 0)):
            result = await call(api, keys[key], "recall", user_id="ada", query="vault")
            assert len(result["structuredContent"]["memories"]) == count
    result = await call(api, keys["other"], "get", user_id="ada", id=treasure[0])
    assert result["isError"] is True


async def test_history_names_the_key(api, keys):
    """Who wrote over MCP is known afterwards, as by HTTP."""
    made = (await call(api, keys["eve"], "remember", text="signed"))["structuredContent"]["id"]
    found = await api.client.get(f"/v1/memories/{made}/history", params={"user_id": "eve"}, headers=keys["eve"])
    (event,) = found.json()["events"]
    assert event["actor"] is not None
    assert event["actor"] in keys["eve"]["authorization"]
