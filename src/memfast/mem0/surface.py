"""Every path of mem0's clients, and how they send keys and read errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from memfast.bootstrap import Services
from memfast.errors import InvalidRequest, MemfastError, MethodNotAllowed, NotFound
from memfast.http.exchange import Exchange, Header, Reply
from memfast.http.problems import problem, problem_headers
from memfast.http.routing import Endpoint, Surface
from memfast.mem0 import routes_account, routes_entities, routes_exports, routes_read, routes_write
from memfast.mem0.routes_account import refusal

__all__ = ["CALLS", "PREFIX", "SURFACE", "Call"]

PREFIX = "/mem0/"

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class Call(Struct, frozen=True):
    """A method and a path below the prefix, without slashes at its ends; what stands in braces goes to the endpoint."""

    method: Method
    path: str
    endpoint: Endpoint
    reads: bool = False


_EXTRACTS = "needs a language model, of which this service has none"
_NO_SUMMARY = refusal(f"a summary {_EXTRACTS}")
_NO_PROFILES = refusal(f"profiles are not enabled: making one {_EXTRACTS}")
_NO_JOB = refusal("there are no jobs: profiles are not enabled")
_NO_WEBHOOKS = refusal("there are no webhooks; a write is done when it is answered")
_NO_SETTINGS = refusal(f"a project has no settings here: they steer what {_EXTRACTS}")
_NO_PROJECTS = refusal("projects are namespaces of API keys, which `memfast keys` makes and revokes")
_NO_EVENTS = refusal("no record is kept of calls: an add is done when it is answered; GET /v1/event/{id}/ tells of one")
_NO_CONFIGURATION = refusal("the service is configured by its operator, not over the network")
_NO_RESET = refusal("everything is never deleted at once; delete the entities that GET /entities lists")
_NO_KEYS = refusal("API keys are made and revoked by `memfast keys`")

_PROJECT = "api/v1/orgs/organizations/{organisation}/projects/{project_id}"
_HOOKS = "api/v1/webhooks"

_PLATFORM = (
    Call("GET", "v1/ping", routes_account.ping),
    Call("POST", "v3/memories/add", routes_write.add),
    Call("POST", "v3/memories/search", routes_read.search, reads=True),
    Call("POST", "v3/memories", routes_read.list_memories, reads=True),
    Call("GET", "v1/memories/{memory_id}", routes_read.get),
    Call("PUT", "v1/memories/{memory_id}", routes_write.update),
    Call("DELETE", "v1/memories/{memory_id}", routes_write.delete),
    Call("GET", "v1/memories/{memory_id}/history", routes_read.history),
    Call("DELETE", "v1/memories", routes_entities.delete_all),
    Call("PUT", "v1/batch", routes_write.batch_update),
    Call("DELETE", "v1/batch", routes_write.batch_delete),
    Call("POST", "v1/feedback", routes_write.feedback),
    Call("GET", "v1/entities", routes_entities.list_entities),
    Call("DELETE", "v2/entities/{kind}/{name}", routes_entities.forget_entity),
    Call("GET", "v1/event/{event_id}", routes_read.event),
    Call("GET", "v1/events", _NO_EVENTS),
    Call("POST", "v1/exports", routes_exports.create_export, reads=True),
    Call("POST", "v1/exports/get", routes_exports.get_export, reads=True),
    Call("POST", "v1/summary", _NO_SUMMARY),
    Call("GET", "v2/entities/user/{name}/profile", routes_account.get_profile),
    Call("GET", "v2/profiles/settings", routes_account.get_profile_settings),
    Call("POST", "v2/profiles/settings", _NO_PROFILES),
    Call("POST", "v2/profiles/jobs", _NO_PROFILES),
    Call("GET", "v2/profiles/jobs/{job_id}", _NO_JOB),
    Call("GET", _PROJECT, routes_account.get_project),
    Call("PATCH", _PROJECT, _NO_SETTINGS),
    Call("DELETE", _PROJECT, _NO_PROJECTS),
    Call("POST", "api/v1/orgs/organizations/{organisation}/projects", _NO_PROJECTS),
    Call("GET", f"{_PROJECT}/members", _NO_PROJECTS),
    Call("POST", f"{_PROJECT}/members", _NO_PROJECTS),
    Call("PUT", f"{_PROJECT}/members", _NO_PROJECTS),
    Call("DELETE", f"{_PROJECT}/members", _NO_PROJECTS),
    Call("GET", f"{_HOOKS}/projects/{{project_id}}", _NO_WEBHOOKS),
    Call("POST", f"{_HOOKS}/projects/{{project_id}}", _NO_WEBHOOKS),
    Call("PUT", f"{_HOOKS}/{{webhook_id}}", _NO_WEBHOOKS),
    Call("DELETE", f"{_HOOKS}/{{webhook_id}}", _NO_WEBHOOKS),
)
"""What the clients of the wheel send."""

_EARLIER = (
    Call("POST", "v1/memories", routes_write.add),
    Call("GET", "v1/memories", routes_read.list_by_query),
    Call("POST", "v2/memories", routes_read.list_memories, reads=True),
    Call("POST", "v1/memories/search", routes_read.search, reads=True),
    Call("POST", "v2/memories/search", routes_read.search, reads=True),
)
"""What clients before version 2 sent."""

_SERVER = (
    Call("POST", "memories", routes_write.add),
    Call("GET", "memories", routes_read.list_by_query),
    Call("DELETE", "memories", routes_entities.delete_all),
    Call("GET", "memories/{memory_id}", routes_read.get),
    Call("PUT", "memories/{memory_id}", routes_write.update),
    Call("DELETE", "memories/{memory_id}", routes_write.delete),
    Call("GET", "memories/{memory_id}/history", routes_read.history),
    Call("POST", "search", routes_read.search_loosely, reads=True),
    Call("GET", "entities", routes_entities.list_entities_plainly),
    Call("DELETE", "entities/{kind}/{name}", routes_entities.forget_entity),
    Call("POST", "reset", _NO_RESET),
    Call("GET", "configure", _NO_CONFIGURATION),
    Call("POST", "configure", _NO_CONFIGURATION),
    Call("GET", "configure/providers", _NO_CONFIGURATION),
    Call("POST", "generate-instructions", _NO_SETTINGS),
    Call("GET", "api-keys", _NO_KEYS),
    Call("POST", "api-keys", _NO_KEYS),
    Call("DELETE", "api-keys/{key_id}", _NO_KEYS),
)
"""What the open-source server answers."""

CALLS = (*_PLATFORM, *_EARLIER, *_SERVER)

_SEGMENTS = [(call, call.path.split("/")) for call in CALLS]
_BY_LENGTH = {
    length: [(call, own) for call, own in _SEGMENTS if len(own) == length]
    for length in {len(own) for _, own in _SEGMENTS}
}


async def answer(exchange: Exchange, services: Services) -> Reply:
    """The answer to a request, by its path as it was sent: a slash in a name is sent as %2F, one at the end is none."""
    asked = _asked(exchange.path)
    fitting = [(call, path) for call, own in _BY_LENGTH.get(len(asked), []) if (path := _fit(own, asked)) is not None]
    if not fitting:
        raise NotFound(f"there is no route {exchange.path}; docs/mem0.md lists them")
    for call, path in fitting:
        if call.method == exchange.method:
            reply = await call.endpoint(exchange, services, **path)
            assert isinstance(reply, Reply)
            return reply
    raise MethodNotAllowed(f"{exchange.method} is not a method of {exchange.path}; docs/mem0.md lists them")


def _asked(path: str) -> list[str]:
    """The segments of a path below the prefix."""
    try:
        return [unquote(each, errors="strict") for each in path.removeprefix(PREFIX).removesuffix("/").split("/")]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the path is not UTF-8: {error}") from error


def _fit(own: list[str], asked: list[str]) -> dict[str, str] | None:
    """What stands for the names in a path, or None where it is another path."""
    found: dict[str, str] = {}
    for name, text in zip(own, asked, strict=True):
        if name.startswith("{") and text:
            found[name[1:-1]] = text
        elif name != text:
            return None
    return found


def credential(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key of a request: the client sends it as a token, users of the open-source server in a header of its own."""
    sent = headers.get(b"authorization")
    if sent is None:
        key = headers.get(b"x-api-key")
        return None if key is None else b"Bearer " + key
    scheme, _, key = sent.partition(b" ")
    return b"Bearer " + key if scheme.lower() == b"token" else sent


def refuse(error: MemfastError, headers: list[Header], instance: str) -> Reply:
    """An error as the client reads it: JSON by name, with a `detail`; the rest is the problem that it is elsewhere."""
    told = msgspec.to_builtins(msgspec.structs.replace(problem(error), instance=instance))
    body = msgspec.json.encode(told | {"error": str(error)})
    return Reply(error.status, [*problem_headers(error, b"application/json", len(body)), *headers], body)


_READS = [PREFIX + call.path for call in CALLS if call.reads]

SURFACE = Surface(
    prefix=PREFIX,
    endpoint=answer,
    credential=credential,
    problem=refuse,
    reads=frozenset(_READS + [f"{path}/" for path in _READS]),
)
"""What the application puts beside its own routes."""
