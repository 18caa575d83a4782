"""The whole application over a real database, called in its own event loop, held to its own contract."""

import asyncio
import contextlib
import functools
import itertools
import math
import re

import asyncpg
import httpx
import jsonschema_rs
import msgspec
import pytest
import pytest_asyncio

from memfast.bootstrap import Services
from memfast.http.app import ROUTES, build_app
from memfast.http.openapi import build_document
from memfast.mcp.face import build_surface
from memfast.service import modes

PROBLEM_FIELDS = {"type", "title", "status", "detail", "instance", "path"}


class Contract:
    """Holds every answer to the OpenAPI document: the status is documented, the body fits its schema."""

    def __init__(self, document):
        self.document = document
        self._paths = [
            (re.compile(re.sub(r"{\w+}", "[^/]+", path) + "$"), operations)
            for path, operations in sorted(document["paths"].items(), key=lambda item: "{" in item[0])
        ]
        self._validators = {}

    async def check(self, response):
        """Raise AssertionError unless the answer is as documented."""
        await response.aread()
        if response.request.method in {"OPTIONS", "HEAD"}:  # the router's own, and without a body
            return
        for name in ("x-request-id", "x-process-time", "server-timing"):
            assert response.headers.get(name), f"no {name} in {dict(response.headers)}"
        assert response.status_code != 500, response.text
        if response.status_code >= 400 and response.headers["content-type"] == "application/problem+json":
            self._check_problem(response)
        operation = self._operation(response.request)
        if operation is None:
            return
        described = operation["responses"].get(str(response.status_code))
        assert described, f"{response.status_code} of {response.request.url} is not documented: {response.text}"
        content = described.get("content")
        if content is None:
            assert response.content == b""
            return
        media_type = response.headers["content-type"]
        assert media_type in content, f"{media_type} is not documented"
        if content[media_type]["schema"] == {"type": "string"}:
            body = response.text
        else:
            body = msgspec.msgpack.decode(response.content) if "msgpack" in media_type else response.json()
        self._validator(content[media_type]["schema"]).validate(body)

    def _check_problem(self, response):
        body = response.json()
        assert set(body) <= PROBLEM_FIELDS, body
        assert {"type", "title", "status", "detail", "instance"} <= set(body), body
        assert body["status"] == response.status_code
        assert body["type"].startswith("urn:memfast:problem:")
        assert len(body["title"]) > 3
        assert len(body["detail"]) > 3
        assert "Traceback" not in response.text

    def _operation(self, request):
        path = request.url.raw_path.partition(b"?")[0].decode()
        for pattern, operations in self._paths:
            if pattern.match(path) and request.method.lower() in operations:
                return operations[request.method.lower()]
        return None

    def _validator(self, schema):
        key = msgspec.json.encode(schema)
        if key not in self._validators:
            whole = schema | {"components": self.document["components"]}
            self._validators[key] = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        return self._validators[key]


@functools.cache
def _contract(limits):
    """The contract under these bounds, whose validators are made once."""
    return Contract(build_document(ROUTES, limits))


class Api:
    """A client of the application in this event loop, and what lies behind it."""

    def __init__(self, edge, services: Services, site, client):
        self.edge = edge
        self.services = services
        self.site = site
        self.client = client
        self._users = itertools.count(1)

    def new_user(self):
        """A user id that no test has used before."""
        return f"user-{next(self._users)}"

    async def request(self, method, path, **arguments):
        return await self.client.request(method, path, **arguments)

    async def create(self, user_id, text="something", **fields):
        """Create a memory; returns it."""
        response = await self.client.post("/v1/memories", json={"user_id": user_id, "text": text} | fields)
        assert response.status_code in {200, 201}, response.text
        return response.json()

    async def create_many(self, user_id, items):
        """Create memories in one batch; returns their results."""
        response = await self.client.post("/v1/memories/batch", json={"user_id": user_id, "memories": items})
        assert response.status_code == 200, response.text
        return response.json()["results"]

    async def get(self, user_id, memory_id, **arguments):
        return await self.client.get(f"/v1/memories/{memory_id}", params={"user_id": user_id}, **arguments)

    async def patch(self, user_id, memory_id, changes, **arguments):
        url = f"/v1/memories/{memory_id}"
        return await self.client.patch(url, params={"user_id": user_id}, json=changes, **arguments)

    async def delete(self, user_id, memory_id, **arguments):
        return await self.client.delete(f"/v1/memories/{memory_id}", params={"user_id": user_id}, **arguments)

    async def listing(self, user_id, **parameters):
        return await self.client.get("/v1/memories", params={"user_id": user_id} | parameters)

    async def search(self, user_id, **body):
        return await self.client.post("/v1/search", json={"user_id": user_id} | body)

    @contextlib.asynccontextmanager
    async def database(self):
        """A connection of one's own to the database."""
        connection = await asyncpg.connect(self.site.config.postgres.dsn)
        try:
            yield connection
        finally:
            await connection.close()

    async def counts(self):
        """Rows of every table that a write touches, tombstones included, and the sum of the versions."""
        async with self.database() as connection:
            return tuple(
                await connection.fetchrow(
                    "SELECT (SELECT count(*) FROM memories), (SELECT count(*) FROM memory_vectors),"
                    " (SELECT count(*) FROM scopes), (SELECT coalesce(sum(memories), 0) FROM scopes)"
                )
            )


@contextlib.asynccontextmanager
async def serving(edge):
    """Send an application its lifespan events around a block."""
    to_app, from_app = asyncio.Queue(), asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
    task = asyncio.create_task(edge(scope, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    message = await asyncio.wait_for(from_app.get(), 60)
    assert message["type"] == "lifespan.startup.complete", message
    try:
        yield
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        assert (await asyncio.wait_for(from_app.get(), 60))["type"] == "lifespan.shutdown.complete"
        await task


@contextlib.asynccontextmanager
async def opened(site):
    """The application of a prepared database, running, with a client that checks the contract."""
    edge = build_app(site, [build_surface(site.config.mcp)])
    contract = _contract(site.config.limits)
    async with serving(edge):
        transport = httpx.ASGITransport(app=edge)
        hooks = {"response": [contract.check]}
        async with httpx.AsyncClient(transport=transport, base_url="http://memfast", event_hooks=hooks) as client:
            yield Api(edge, edge._use.services, site, client)


@pytest.fixture(scope="module", autouse=True)
def unhurried():
    """The tests do their own work on the service's event loop: its lag says nothing of the service."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "LAG_S", math.inf)
        yield


@pytest.fixture(scope="module")
def settings():
    """Settings of a module's application; a module may bring its own."""
    return {}


PATIENT = {"server.read_timeout_s": 30.0, "server.write_timeout_s": 30.0, "search.leg_timeout_ms": 10_000}
"""What is due by default in two seconds, or a tenth of them, a busy machine does later: no test is about that."""


@pytest.fixture(scope="module")
def site(server, make_site, settings):
    """A new database, prepared."""
    named = PATIENT | settings
    return make_site(server.new_database(), **{key.replace(".", "__"): value for key, value in named.items()})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(site):
    """The running application of a module, and a client of it."""
    async with opened(site) as running:
        yield running


@pytest.fixture
def open_api():
    """Function: an application of one's own for a prepared site, as an async context manager."""
    return opened


@pytest.fixture
def user(api):
    """A user that no other test knows."""
    return api.new_user()


@pytest.fixture(scope="session")
def check_problem():
    """Function: an answer is this problem, and says so in every field."""

    def check(response, status, slug, path=None, says=None):
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body = response.json()
        assert body["type"] == f"urn:memfast:problem:{slug}"
        assert body["instance"] == response.request.url.raw_path.partition(b"?")[0].decode()
        if path is not None:
            assert body.get("path") == path, body
            assert path in body["detail"] or path == "$", body
        if says is not None:
            assert says in body["detail"], body
        return body

    return check
