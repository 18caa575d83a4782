"""The OpenAPI 3.1 document, made from the routes and the wire types, and a page that shows it offline."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from memfast import __version__
from memfast.config import LimitsConfig
from memfast.http.claims import KEY_PATTERN
from memfast.http.codec import JSON, MSGPACK, NDJSON
from memfast.http.filter_schema import build_filter_schemas
from memfast.http.routing import Route, Success
from memfast.http.wire import BatchItem, NoParameters, PatchItem, PatchRequest, Problem
from memfast.http.wire_links import LinkFields
from memfast.http.wire_search import SearchAnswer, SearchFailed, SearchItem
from memfast.service.limits import NAME_CHARS
from memfast.service.tokens import TEXT_PATTERN

__all__ = ["build_document", "build_page"]

_COMMON_PROBLEMS = {
    400: "the request is not valid",
    401: "an API key is needed",
    403: "the key does not reach this",
    408: "the body did not arrive in time",
    413: "the body is too large",
    415: "the content type is not supported",
    500: "an error of the service's own",
    503: "the service cannot do it now",
    504: "the request took too long, or a write's outcome is unknown",
    507: "the database has no room left",
}
_PROBLEMS = _COMMON_PROBLEMS | {
    404: "not found",
    409: "the id or the idempotency key is in use, or the state that is asked for does not exist",
    410: "the idempotency key's request was done before, and the memory that its answer showed was purged",
    412: "the memory has another version",
    422: "the request must bring an embedding, or its idempotency key belongs to another one",
    429: "too much is asked at once",
}
_BODILESS_STATUSES = frozenset({408, 413, 415, 507})
_BOUNDED = (
    "BatchItem",
    "CreateRequest",
    "DeleteBatchRequest",
    "DeleteMatchingRequest",
    "GetManyRequest",
    "LinkBatchRequest",
    "LinkFields",
    "LinkRequest",
    "PatchItem",
    "PatchRequest",
    "SearchItem",
    "SearchRequest",
)
"""Bodies with fields that are bounded by settings."""

_PATH_PARAMETER = re.compile(r"{(\w+)}")
_TAG = '(W/)?"[!#-~]*"'
_LINES = {NDJSON.decode(): {"schema": {"type": "string"}}}
_REFERENCE = "#/components/schemas/{name}"


def build_document(routes: Sequence[Route], limits: LimitsConfig) -> dict[str, Any]:
    """The document.

    Args:
        routes: everything that is served.
        limits: the configured bounds, which are part of the contract.
    """
    types: list[Any] = [Problem, BatchItem, PatchItem, LinkFields, SearchItem, SearchFailed]
    for route in routes:
        types.extend(kind for kind in (route.body, route.parameters) if kind is not None)
        types.extend(answer.kind for answer in route.answers.values() if answer.kind not in {None, str})
    _, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    components |= build_filter_schemas(limits, _REFERENCE)
    _tighten(components, limits)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, components)
    for name in [name for name in components if name.endswith("Parameters")]:
        del components[name]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "memfast",
            "version": __version__,
            "summary": "A memory service for AI agents",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}, {}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.endpoint.__name__,
        "summary": route.summary,
        "tags": [route.group],
        "parameters": _parameters(route, components),
        "responses": {str(status): _response(answer) for status, answer in route.answers.items()},
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(_schema(route.body))}
    elif route.streams and route.method == "POST":
        operation["requestBody"] = {"required": True, "content": _LINES}
    if route.public:
        operation["security"] = []
    refused = set(route.problems) | {
        status
        for status in _COMMON_PROBLEMS
        if not (status in _BODILESS_STATUSES and route.method == "GET") and not (status in {401, 403} and route.public)
    }
    if _writes(route):
        refused |= {409, 410, 422, 429}
    for status in sorted(refused - set(route.answers)):
        operation["responses"][str(status)] = {
            "description": _PROBLEMS[status],
            "content": {"application/problem+json": {"schema": _schema(Problem)}},
        }
    return operation


def _parameters(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    found = [
        {"name": name, "in": "path", "required": True, "schema": _path_schema(name)}
        for name in _PATH_PARAMETER.findall(route.path)
    ]
    if route.parameters is not NoParameters:
        schema = components[route.parameters.__name__]
        required = set(schema.get("required", ()))
        for name, value in schema["properties"].items():
            said = {"schema": _query_schema(value)} if name != "filter" else {"content": _json_filter()}
            found.append({"name": name, "in": "query", "required": name in required, **said})
    found.append(
        {
            "name": "Memfast-Timeout-Ms",
            "in": "header",
            "required": False,
            "description": "the time that the request may take, in milliseconds; more than the service allows is cut",
            "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
        }
    )
    body_fields = () if route.body is None else route.body.__struct_fields__
    if "min_version" in (*body_fields, *route.parameters.__struct_fields__):
        found.append(
            _header("Memfast-Min-Version", "the field min_version, for clients that send it everywhere", TEXT_PATTERN)
        )
        found.append(_header("Memfast-Consistency", "the field consistency", "^strong$"))
    if _writes(route):
        text = "one for each write: sent again with the same one, the write is not done again, its answer is repeated"
        found.append(_header("Idempotency-Key", text, KEY_PATTERN))
    if 412 in route.problems:
        text = "ETags (versions) of which the memory must have one, or *; weak ones never match"
        found.append(_header("If-Match", text, f"^(\\*|[0-9]{{1,18}}|{_TAG}( *, *{_TAG})*)$"))
    return found


def _writes(route: Route) -> bool:
    return any(answer.written for answer in route.answers.values())


def _header(name: str, text: str, pattern: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


def _path_schema(name: str) -> dict[str, Any]:
    return {"type": "string", "format": "uuid"} if name == "memory_id" else {"type": "string", "minLength": 1}


def _query_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that may be left out is never sent as null."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    return options[0] if len(options) == 1 else {key: value for key, value in schema.items() if value is not None}


def _json_filter() -> dict[str, Any]:
    """A parameter that is JSON text."""
    return {JSON.decode(): {"schema": {"$ref": _REFERENCE.format(name="Filter")}}}


def _response(answer: Success) -> dict[str, Any]:
    headers: dict[str, Any] = {
        "X-Request-ID": {"schema": {"type": "string"}},
        "X-Process-Time": {"schema": {"type": "string"}},
        "Memfast-Mode": {"schema": {"enum": ["reduced", "cache_only", "essential"]}},
        "Memfast-Mode-Reason": {"schema": {"type": "string"}},
        "Age": {"schema": {"type": "string"}, "description": "seconds since copies were last known to be true"},
    }
    if answer.told:
        headers["Memfast-Status"] = {"schema": {"enum": ["created", "updated", "duplicate"]}}
    if answer.written:
        headers["Memfast-Token"] = {"schema": {"type": "string"}}
        headers["Memfast-Version"] = {"schema": {"type": "string"}}
        headers["Idempotent-Replayed"] = {"schema": {"enum": ["true"]}, "description": "the answer was given before"}
    response: dict[str, Any] = {"description": answer.text, "headers": headers}
    if answer.media_types:
        response["content"] = {media_type: {"schema": {"type": "string"}} for media_type in answer.media_types}
    elif answer.kind is not None:
        response["content"] = _content(_schema(answer.kind))
    return response


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {media_type.decode(): {"schema": schema} for media_type in (JSON, MSGPACK)}


def _schema(kind: Any) -> dict[str, Any]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}


def _tighten(components: dict[str, Any], limits: LimitsConfig) -> None:
    """Say in the schemas what `service.limits` checks beyond the types. A text's bytes are at least its characters."""
    name = {"minLength": 1, "maxLength": NAME_CHARS}
    bounds: dict[str, dict[str, Any]] = {
        "user_id": {"maxLength": limits.user_id_bytes},
        "text": {"maxLength": limits.text_bytes},
        "kind": name,
        "agent_id": name,
        "run_id": name,
        "source": name,
        "tags": {"maxItems": limits.tags, "items": _word(limits.tag_chars)},
        "entities": {"maxItems": limits.entities, "items": _word(limits.entity_chars)},
        "type": name,
        "ids": {"maxItems": limits.batch_items},
        "links": {"maxItems": limits.batch_items, "items": _schema(LinkFields)},
    }
    for body in _BOUNDED:
        for field, extra in bounds.items():
            for schema in _values(components[body]["properties"].get(field, {})):
                schema.update(extra)
    for parameters in (
        "EntitiesParameters",
        "HistoryParameters",
        "LinksParameters",
        "ListParameters",
        "RelatedParameters",
        "UsersParameters",
    ):
        components[parameters]["properties"]["limit"]["maximum"] = limits.page_items
    for batch, item in (("BatchRequest", BatchItem), ("PatchBatchRequest", PatchItem)):
        components[batch]["properties"]["memories"].update(items=_schema(item), maxItems=limits.batch_items)
    components["SearchBatchRequest"]["properties"]["searches"].update(items=_schema(SearchItem))
    alternatives = [_schema(SearchAnswer), _schema(SearchFailed)]
    components["SearchBatchAnswer"]["properties"]["results"]["items"] = {"anyOf": alternatives}
    components["DeleteMatchingRequest"]["properties"]["filter"] = {"$ref": _REFERENCE.format(name="Filter")}
    for search in (components["SearchRequest"], components["SearchItem"]):
        search["properties"]["limit"]["maximum"] = limits.page_items
        search["properties"]["filter"]["anyOf"] = [{"$ref": _REFERENCE.format(name="Filter")}, {"type": "null"}]
        search["anyOf"] = [_WITH_TEXT, _WITH_VECTOR]
        search["allOf"] = [
            _where_mode(["lexical", "hybrid"], _WITH_TEXT),
            _where_mode(["lexical"], {"properties": {"embedding": {"type": "null"}}}),
            _where_mode(["vector"], {"not": {"allOf": [_WITH_TEXT, _WITH_VECTOR]}}),
        ]
    components[PatchRequest.__name__]["minProperties"] = 1
    components[PatchItem.__name__]["minProperties"] = 2
    for answer in ("Link", "Memory", "Neighbor", "RelatedMemory", "SearchHit"):
        components[answer]["properties"]["metadata"] = {"type": "object"}


_WITH_TEXT = {"required": ["query"], "properties": {"query": {"type": "string"}}}
_WITH_VECTOR = {"required": ["embedding"], "properties": {"embedding": {"not": {"type": "null"}}}}


def _where_mode(modes: list[str], then: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"required": ["mode"], "properties": {"mode": {"enum": modes}}}, "then": then}


def _word(chars: int) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": chars}


def _values(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a field that are not null."""
    candidates = [schema, *schema.get("anyOf", ())]
    return [candidate for candidate in candidates if candidate.get("type") in {"array", "string"}]


def build_page(document: dict[str, Any]) -> str:
    """The document as one HTML page without scripts or anything from elsewhere."""
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            rows.append(_page_entry(path, method, operation))
    schemas = "".join(
        f"<details id='{html.escape(name)}'><summary><code>{html.escape(name)}</code></summary>"
        f"<pre>{_pretty(schema)}</pre></details>"
        for name, schema in document["components"]["schemas"].items()
    )
    version = html.escape(document["info"]["version"])
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>memfast API</title><style>{_STYLE}</style><main><h1>memfast API {version}</h1>"
        "<p>The machine-readable document is <a href='/schema/openapi.json'>/schema/openapi.json</a>.</p>"
        f"{''.join(rows)}<h2>Types</h2>{schemas}</main></html>"
    )


_STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:0}"
    "main{max-width:56rem;margin:auto;padding:1rem}pre{overflow:auto;padding:.5rem;border:1px solid #8886}"
    "summary{cursor:pointer;padding:.3rem 0}code{font-size:.95em}"
)


def _page_entry(path: str, method: str, operation: dict[str, Any]) -> str:
    return (
        f"<details><summary><code>{method.upper()} {html.escape(path)}</code> — "
        f"{html.escape(operation['summary'])}</summary><pre>{_pretty(operation)}</pre></details>"
    )


def _pretty(value: Any) -> str:
    return html.escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
