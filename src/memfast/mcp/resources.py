"""Memories as resources, which the application chooses: `memfast://users/{user_id}/memories/{id}`."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID

import msgspec

from memfast.errors import Forbidden, InvalidRequest, NotFound
from memfast.mcp.calls import Call
from memfast.mcp.messages import INVALID_PARAMS, RESOURCE_NOT_FOUND, Fault, Params, Result
from memfast.model import Memory
from memfast.service.recall import ListQuery

__all__ = ["describe_templates", "list_resources", "read_resource"]

_TEMPLATE = "memfast://users/{user_id}/memories/{id}"
_URI = re.compile(r"memfast://users/([^/?#]+)/memories/([0-9a-fA-F-]{36})")
_PAGE = 20
_NAME_CHARS = 60
_JSON = "application/json"

_encode = msgspec.json.Encoder().encode


def describe_templates() -> Result:
    """The result of `resources/templates/list`."""
    template = {
        "uriTemplate": _TEMPLATE,
        "name": "memory",
        "title": "One memory",
        "description": "Everything that is stored of a memory. The user_id is percent-encoded.",
        "mimeType": _JSON,
    }
    return Result(b'"resourceTemplates":%b' % _encode([template]), "public")


async def list_resources(call: Call, params: Params) -> Result:
    """The result of `resources/list`: a page of the memories of the user that the connection is for, else nothing."""
    user_id = call.fixed_user()
    if user_id is None:
        return Result(b'"resources":[]', "private")
    query = ListQuery(limit=_PAGE, cursor=params.cursor)
    page = await call.services.recall.list(call.exchange.scope(user_id), query)
    answer: dict[str, Any] = {"resources": [_described(memory) for memory in page.memories]}
    if page.next_cursor is not None:
        answer["nextCursor"] = page.next_cursor
    return Result(_encode(answer)[1:-1], "private")


def _described(memory: Memory) -> dict[str, Any]:
    uri = _TEMPLATE.format(user_id=quote(memory.user_id, safe=""), id=memory.id)
    return {"uri": uri, "name": memory.text[:_NAME_CHARS], "mimeType": _JSON}


async def read_resource(call: Call, params: Params, *, modern: bool) -> Result:
    """The result of `resources/read`.

    Raises:
        Fault: there is no such memory, or it is out of this connection's reach.
    """
    uri = params.uri or ""
    found = _URI.fullmatch(uri)
    absent = Fault(
        INVALID_PARAMS if modern else RESOURCE_NOT_FOUND,
        f"Resource not found: {uri!r}; resources are {_TEMPLATE}",
        data={"uri": uri},
    )
    if found is None:
        raise absent
    try:
        target = UUID(found[2])
        scope = call.scope(unquote(found[1], errors="strict"))
        services = call.services
        answer, _ = await call.read(scope, lambda: services.recall.get(scope, target, "json"))
    except (ValueError, InvalidRequest, Forbidden, NotFound):
        raise absent from None
    contents = [{"uri": uri, "mimeType": _JSON, "text": answer.body.decode()}]
    return Result(b'"contents":%b' % _encode(contents), "private")
