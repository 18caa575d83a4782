"""The protocol of /mcp: both eras, its errors, and what stands before it."""

import json

import httpx
import jsonschema_rs
import msgspec
import pytest

from memfast.errors import EmbedderChanged, Overloaded
from memfast.mcp import face, tools

pytestmark = pytest.mark.asyncio(loop_scope="module")

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
ALL = ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"]
RESULTS = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
    "prompts/list": "prompts",
}


@pytest.fixture(scope="module")
def settings():
    """A name of its own by which the service is called."""
    return {"mcp.hosts": "memory.example, memfast"}


async def send(api, message, **headers):
    """The answer of HTTP to a message; underscores in the names of headers are hyphens."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    named = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.client.post("/mcp", content=body, headers=named)


def modern(method, params=None, *, id_=1, **headers):
    """A message of the stateless era with its headers."""
    params = (params or {}) | {"_meta": dict(META)}
    named = {"mcp_protocol_version": "2026-07-28", "mcp_method": method}
    about = params.get("name", params.get("uri"))
    if about is not None:
        named["mcp_name"] = about
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}, named | headers


def legacy(method, params=None, id_=1):
    """A message of a client that has said `initialize`."""
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params or {}}


def failure(response, code, status=200):
    """The error of an answer, which must have this code and status."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code, error
    return error


@pytest.mark.parametrize(
    ("asked", "given"), [*((version, version) for version in ALL[1:]), ("2026-07-28", ALL[1]), ("1999-01-01", ALL[1])]
)
async def test_a_client_of_the_first_era_agrees_on_a_version(api, asked, given):
    """`initialize` settles on the version that was asked for, or the newest of its era; it begins no session."""
    about = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    response = await send(api, legacy("initialize", about))
    result = response.json()["result"]
    assert result["protocolVersion"] == given
    assert result["serverInfo"]["name"] == "memfast"
    assert set(result["capabilities"]) == {"tools", "resources", "prompts"}
    assert "Recall before" in result["instructions"]
    assert "mcp-session-id" not in response.headers
    begun = await send(api, {"jsonrpc": "2.0", "method": "notifications/initialized"}, mcp_protocol_version=given)
    assert (begun.status_code, begun.content) == (202, b"")
    assert (await send(api, legacy("ping", id_="p"), mcp_protocol_version=given)).json() == {
        "jsonrpc": "2.0",
        "id": "p",
        "result": {},
    }


async def test_a_client_of_the_stateless_era_discovers(api):
    """`server/discover` names the versions, and every result says what it is, of whom, and how long it may be kept."""
    message, headers = modern("server/discover")
    result = (await send(api, message, **headers)).json()["result"]
    assert result["supportedVersions"] == ALL
    assert (result["resultType"], result["cacheScope"]) == ("complete", "public")
    assert result["ttlMs"] > 0
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "memfast"


@pytest.mark.parametrize(("method", "member"), RESULTS.items())
async def test_lists_are_served_in_both_eras(api, method, member):
    """Each list is the same in both eras; only the newer one says how long it may be kept."""
    message, headers = modern(method)
    newer = (await send(api, message, **headers)).json()["result"]
    older = (await send(api, legacy(method))).json()["result"]
    assert newer[member] == older[member]
    assert set(older) == {member}
    assert set(newer) == {member, "resultType", "ttlMs", "cacheScope", "_meta"}
    assert newer["cacheScope"] == ("private" if method == "resources/list" else "public")


async def test_tools_describe_themselves(api):
    """Every tool has schemas that are valid, flat arguments, hints, and a description that says when to use it."""
    described = (await send(api, legacy("tools/list"))).json()["result"]["tools"]
    assert [tool["name"] for tool in described] == [
        *("remember", "recall", "get", "update", "forget", "list", "relate", "related", "status")
    ]
    for tool in described:
        jsonschema_rs.meta.validate(tool["inputSchema"])
        jsonschema_rs.meta.validate(tool["outputSchema"])
        assert tool["inputSchema"]["type"] == tool["outputSchema"]["type"] == "object"
        assert "$defs" not in tool["inputSchema"], "models read flat arguments best"
        assert len(tool["description"]) > 60
        assert "user_id" in tool["inputSchema"]["properties"]
        assert "user_id" not in tool["inputSchema"].get("required", [])
    reading = {tool["name"] for tool in described if tool["annotations"]["readOnlyHint"]}
    destroying = {tool["name"] for tool in described if tool["annotations"]["destructiveHint"]}
    assert reading == {"recall", "get", "list", "related", "status"}
    assert destroying == {"update", "forget"}
    assert all(tool["annotations"]["idempotentHint"] for tool in described)


async def test_tools_take_little_of_a_models_context(api):
    """What a model reads of all tools before it has asked for anything is bounded: 10,000 characters."""
    described = (await send(api, legacy("tools/list"))).json()["result"]["tools"]
    read = [{name: tool[name] for name in ("name", "description", "inputSchema")} for tool in described]
    assert len(json.dumps(read, separators=(",", ":"))) < 10_000


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        (b"{", -32700, 400),
        (b"\xff", -32700, 400),
        (b"[" * 5000, -32700, 400),
        (b'"x"', -32600, 400),
        (b"{}", -32600, 400),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600, 400),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, 400),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, 400),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', -32600, 400),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32602, 400),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}', -32602, 400),
        (b'{"jsonrpc":"2.0","id":1,"method":"nothing"}', -32601, 200),
        (b'{"jsonrpc":"2.0","id":1,"method":"server/discover"}', -32601, 200),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nothing"}}', -32602, 200),
        (b'{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"nothing"}}', -32602, 200),
        (b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///etc/passwd"}}', -32002, 200),
    ],
    ids=lambda value: value[:60] if isinstance(value, bytes) else None,
)
async def test_what_is_no_message_is_an_error_of_the_protocol(api, body, code, status):
    """Broken JSON, no JSON-RPC, unknown methods and names: each its code, with the id where it can be read."""
    response = await send(api, body)
    failure(response, code, status)
    known = b'"id":1,' in body
    assert response.json().get("id") == (1 if known else None)


async def test_the_body_is_json(api):
    """415 for another form; without a Content-Type it is taken for JSON."""
    body = json.dumps(legacy("ping")).encode()
    other = await api.client.post("/mcp", content=msgspec.msgpack.encode(1), headers={"content-type": "text/plain"})
    assert other.status_code == 415
    assert (await api.client.post("/mcp", content=body)).json()["result"] == {}


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
async def test_there_are_no_streams_and_no_sessions(api, method):
    """405 with Allow for every method but POST, as both eras ask of a server without them."""
    response = await api.client.request(method, "/mcp")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/mcp/", "/mcpx", "/mcp/x", "/MCP"])
async def test_neighbours_of_the_path_are_no_routes(api, path):
    """404 beside the one path."""
    assert (await api.client.post(path, json=legacy("ping"))).status_code == 404


def edited(changes, message=None, headers=None):
    """A stateless call with other headers or another _meta; None takes away."""
    message, headers = modern("tools/call", {"name": "status", "arguments": {}})
    for name, value in changes.items():
        target = message["params"]["_meta"] if "/" in name else headers
        target.pop(name, None)
        if value is not None:
            target[name] = value
    return message, headers


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"mcp_protocol_version": None}, -32020),
        ({"mcp_protocol_version": "2025-11-25"}, -32020),
        ({"mcp_method": None}, -32020),
        ({"mcp_method": "tools/list"}, -32020),
        ({"mcp_method": "TOOLS/CALL"}, -32020),
        ({"mcp_name": None}, -32020),
        ({"mcp_name": "recall"}, -32020),
        ({"mcp_name": "=?base64?!!?="}, -32020),
        ({"mcp_name": "=?base64?cmVjYWxs?="}, -32020),
        ({"mcp_protocol_version": "1999-01-01", "io.modelcontextprotocol/protocolVersion": "1999-01-01"}, -32022),
        ({"mcp_protocol_version": "1999-01-01", "io.modelcontextprotocol/protocolVersion": None}, -32022),
        ({"io.modelcontextprotocol/protocolVersion": None}, -32602),
        ({"io.modelcontextprotocol/clientCapabilities": None}, -32602),
    ],
    ids=str,
)
async def test_headers_and_body_say_the_same(api, changes, code):
    """A stateless request whose headers and body differ, or lack what it must say, is refused with 400 and its code."""
    message, headers = edited(changes)
    error = failure(await send(api, message, **headers), code, 400)
    if code == -32022:
        assert error["data"] == {"supported": ALL, "requested": "1999-01-01"}


async def test_a_name_may_be_encoded_in_its_header(api):
    """`=?base64?…?=` is decoded before it is compared."""
    message, headers = edited({"mcp_name": "=?base64?c3RhdHVz?="})
    assert (await send(api, message, **headers)).json()["result"]["isError"] is False


async def test_methods_of_the_other_era_are_unknown(api):
    """`ping` and `initialize` are not of the stateless era: 404 and the code, as it asks."""
    for method in ("ping", "initialize", "logging/setLevel", "subscriptions/listen"):
        message, headers = modern(method)
        failure(await send(api, message, **headers), -32601, 404)


async def test_the_oldest_revision_has_batches(api):
    """A batch gets the answers to its requests, each with its own error; newer revisions have none."""
    batch = [
        legacy("ping", id_=1),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        legacy("nothing", id_=2),
        legacy("tools/call", {"name": "recall", "arguments": {}}, id_=3),
        legacy("ping", id_="four"),
    ]
    answers = (await send(api, batch)).json()
    assert [answer["id"] for answer in answers] == [1, 2, 3, "four"]
    assert answers[1]["error"]["code"] == -32601
    assert answers[2]["result"]["isError"] is True
    assert (await send(api, batch[1:2])).status_code == 202
    failure(await send(api, batch, mcp_protocol_version="2025-06-18"), -32600, 400)
    failure(await send(api, []), -32600, 400)
    failure(await send(api, [legacy("ping")] * 21), -32600, 400)


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8077"},
        {"host": "localhost.evil.example"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://203.0.113.7"},
        {"origin": "http://localhost.evil.example"},
        {"origin": "http://127.0.0.1@evil.example"},
        {"host": "127.0.0.1:8077", "origin": "http://evil.example"},
    ],
    ids=str,
)
async def test_a_foreign_page_is_refused(api, changes):
    """403 for a name or an origin that is not the service's: no page may reach it by making its name resolve here."""
    response = await send(api, legacy("ping"), **changes)
    assert response.status_code == 403, response.text
    assert response.json()["type"] == "urn:memfast:problem:forbidden"


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "localhost:8077", "origin": "http://localhost:6274"},
        {"host": "127.0.0.1:8077", "origin": "http://127.0.0.1"},
        {"host": "[::1]:8077", "origin": "http://[::1]:3000"},
        {"host": "192.0.2.7:8077"},
        {"host": "Memory.Example.", "origin": "https://memory.example"},
        {"host": "memfast"},
    ],
    ids=str,
)
async def test_its_own_names_are_let_in(api, changes):
    """Loopback, addresses as Host, and the names in mcp.hosts."""
    assert (await send(api, legacy("ping"), **changes)).status_code == 200


async def test_a_failure_of_the_service_is_a_tools_result(api, monkeypatch):
    """Overload, lateness and a bug reach the model as a result with what to do, and other methods as an error."""

    async def fails(_call, _asked):
        raise Overloaded("too much is asked", begun=False)

    monkeypatch.setattr(tools._BY_NAME["status"], "work", fails)
    message, headers = modern("tools/call", {"name": "status", "arguments": {}}, id_="x")
    answer = (await send(api, message, **headers)).json()
    assert (answer["id"], answer["result"]["isError"], answer["result"]["resultType"]) == ("x", True, "complete")
    assert answer["result"]["content"][0]["text"] == ("The service is overloaded: too much is asked. Try again in 1 s")

    async def breaks(_call, _asked):
        raise RuntimeError("secret of the house")

    monkeypatch.setattr(tools._BY_NAME["status"], "work", breaks)
    answer = (await send(api, message, **headers)).json()["result"]
    assert answer["isError"] is True
    assert "secret" not in answer["content"][0]["text"]


async def test_a_call_has_the_time_of_a_request(api, monkeypatch):
    """A tool that takes too long is stopped at its deadline, and the model is told."""
    import asyncio

    async def waits(_call, _asked):
        await asyncio.Event().wait()

    monkeypatch.setattr(tools._BY_NAME["status"], "work", waits)
    call = legacy("tools/call", {"name": "status", "arguments": {}})
    answer = (await send(api, call, memfast_timeout_ms="50")).json()["result"]
    assert answer["isError"] is True
    assert "took longer than its 0.05 s" in answer["content"][0]["text"]


async def test_the_services_that_follow_answer_once_more(api, monkeypatch):
    """Where the database moved to another model meanwhile, the call is done by the services that follow."""
    asked = []

    async def moved(call, _asked):
        asked.append(call.services)
        if len(asked) == 1:
            raise EmbedderChanged("moved")
        return await tools.reading.status(call, _asked)

    async def following(services):
        return services

    monkeypatch.setattr(tools._BY_NAME["status"], "work", moved)
    monkeypatch.setattr(api.edge, "following", following)
    answer = (await send(api, legacy("tools/call", {"name": "status"}))).json()["result"]
    assert answer["isError"] is False
    assert len(asked) == 2


async def test_a_body_that_is_too_large_is_not_read(api):
    """The bound on bodies holds here too."""
    declared = api.site.config.server.body_max_bytes + 1
    request = httpx.Request("POST", "http://memfast/mcp", headers={"content-length": str(declared)}, content=b"")
    request.headers["content-length"] = str(declared)
    assert (await api.client.send(request)).status_code == 413


async def test_mode_essential_leaves_it_out(api, monkeypatch):
    """In mode essential /mcp is refused before its body, with 503 and Retry-After."""
    standing = api.services.modes.standing()._replace(mode="essential", reason="ordered")
    monkeypatch.setattr(api.services.modes, "standing", lambda: standing)
    response = await send(api, legacy("ping"))
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert face.PATH == "/mcp"
