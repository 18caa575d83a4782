"""Exports. None is kept: the id of one says what is in it, and whoever shows it gets what is there now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from memfast.bootstrap import Services
from memfast.errors import InvalidRequest, NotFound
from memfast.http.codec import BodyDecoder
from memfast.http.exchange import Exchange, Reply
from memfast.mem0.routes_read import page_of, parts_of
from memfast.mem0.scopes import require_bare_query, require_project
from memfast.mem0.wire import (
    MEMORY_FIELDS,
    CreateExportRequest,
    GetExportRequest,
    ListRequest,
    read_entities,
    show,
)

__all__ = ["create_export", "get_export"]

_create_body = BodyDecoder(CreateExportRequest)
_get_body = BodyDecoder(GetExportRequest)

_VERBATIM = "memories"
"""The key under which the memories are where the schema has no place for them."""


class _Export(Struct, array_like=True, frozen=True):
    """What an id stands for: whose memories and which, under which name, with which of their fields (None = all)."""

    filters: dict[str, Any]
    name: str = _VERBATIM
    fields: list[str] | None = None


async def create_export(exchange: Exchange, services: Services) -> Reply:
    """Make an export, which is ready at once."""
    require_bare_query(exchange)
    request = exchange.read(_create_body)
    require_project(exchange, request.project_id)
    properties = _properties(request.schema)
    name, fields = _place(request.schema, properties)
    export = _Export(_filters(request), name, fields)
    count = len(await _memories(exchange, services, export))
    unfilled = ", ".join(each for each in properties if each != name)
    warnings = [f"schema: left out, since they need a language model: {unfilled}"] if unfilled else []
    if fields is None:
        warnings.append(f"schema: has no list of memories; they are under {_VERBATIM}, as they are")
    warnings += request.ignored()
    answer: dict[str, Any] = {
        "message": "The memory export is ready",
        "id": services.cursors.seal(msgspec.json.encode(export), binding=_binding(exchange)),
        "status": "SUCCEEDED",
        "count": count,
    }
    return exchange.reply(answer | ({"warnings": warnings} if warnings else {}))


async def get_export(exchange: Exchange, services: Services) -> Reply:
    """What an export has in it now; without an id, all memories that the request asks for, as they are."""
    require_bare_query(exchange)
    request = exchange.read(_get_body)
    require_project(exchange, request.project_id)
    if request.memory_export_id is None:
        export = _Export(_filters(request))
    else:
        if _filters(request):
            raise InvalidRequest("$.memory_export_id: stands alone; the export has its filters", path="$.filters")
        export = _opened(exchange, services, request.memory_export_id)
    return exchange.reply({export.name: await _memories(exchange, services, export)})


def _opened(exchange: Exchange, services: Services, export_id: str) -> _Export:
    try:
        sealed = services.cursors.open(export_id, bytes, binding=_binding(exchange))
    except InvalidRequest as error:
        raise NotFound(f"there is no export with the id {export_id[:80]!r}; make it anew") from error
    return msgspec.json.decode(sealed, type=_Export)


def _binding(exchange: Exchange) -> bytes:
    return b"mem0 export:" + exchange.principal.namespace.encode()


def _filters(request: CreateExportRequest | GetExportRequest) -> dict[str, Any]:
    """What a request selects by, as one filter."""
    named = msgspec.structs.asdict(read_entities(request, "$."))
    beside = {field: name for field, name in named.items() if name is not None}
    if request.filters is None:
        return beside
    return {"AND": [request.filters, beside]} if beside else request.filters


async def _memories(exchange: Exchange, services: Services, export: _Export) -> list[dict[str, Any]]:
    """All memories of an export, newest first. Each user's are read in one statement.

    Raises:
        InvalidRequest: there are too many, or it is not said whose.
        Forbidden: they are not the key's.
    """
    most = services.limits.config.page_items
    parts = parts_of(ListRequest(filters=export.filters), loose=False)
    memories, count = await page_of(exchange, services, parts, 1, most)
    if count > most:
        raise InvalidRequest(
            f"$.filters: select {count} memories; an export has at most {most}. Narrow them, read get_all by pages, or "
            "take GET /v1/export",
            path="$.filters",
        )
    shown = (show(memory) for memory in memories)
    if export.fields is None:
        return list(shown)
    return [{field: each.get(field) for field in export.fields} for each in shown]


def _properties(schema: Any) -> dict[str, Any]:
    """The properties that a JSON schema names, whether it is sent as an object or as text; nothing of anything else."""
    return _object(_read(schema).get("properties"))


def _read(schema: Any) -> dict[str, Any]:
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except msgspec.DecodeError:
            return {}
    return _object(schema)


def _place(schema: Any, properties: Mapping[str, Any]) -> tuple[str, list[str] | None]:
    """The first property that is a list of objects with nothing but fields of memories, and those fields."""
    definitions = _object(_read(schema).get("$defs"))
    for name, each in properties.items():
        items = _object(_object(each).get("items"))
        reference = items.get("$ref")
        if isinstance(reference, str):
            items = _object(definitions.get(reference.removeprefix("#/$defs/")))
        fields = list(_object(items.get("properties")))
        if fields and MEMORY_FIELDS.issuperset(fields):
            return name, fields
    return _VERBATIM, None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
