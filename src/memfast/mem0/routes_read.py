"""Finding, listing and reading memories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from memfast.bootstrap import Services
from memfast.errors import InvalidRequest, MemfastError, NotFound
from memfast.http.codec import BodyDecoder, encode_json
from memfast.http.exchange import Exchange, Reply
from memfast.mem0.entities import FIELDS, standing
from memfast.mem0.filters import Part, take_apart
from memfast.mem0.scopes import demand_of, read_by, require_bare_query, require_project, scope_of
from memfast.mem0.wire import (
    ListParameters,
    ListRequest,
    PageParameters,
    SearchRequest,
    Shown,
    read_entities,
    show,
)
from memfast.model import Scope
from memfast.service.answers import Answer, Target, derive_key
from memfast.service.coherence import Epochs
from memfast.service.question import Query
from memfast.service.recall import ListQuery
from memfast.service.searches import BatchedSearch

__all__ = [
    "event",
    "get",
    "history",
    "list_by_query",
    "list_memories",
    "page_of",
    "parts_of",
    "search",
    "search_loosely",
]

_search_body = BodyDecoder(SearchRequest)
_list_body = BodyDecoder(ListRequest)
_shown = msgspec.json.Decoder(Shown)

_TOP_K = 10
_PAGE_SIZE = 100
_EVENTS_PAGE = 1000
_EVENTS_PAGES = 10
_EVENTS = {"created": "ADD", "updated": "UPDATE", "deleted": "DELETE", "undeleted": "ADD"}


class _Hits(msgspec.Struct):
    results: list[Shown]


class _Page(msgspec.Struct):
    memories: list[Shown]
    count: int


async def search(exchange: Exchange, services: Services) -> Reply:
    """Find memories by a text."""
    return await _search(exchange, services, loose=False)


async def search_loosely(exchange: Exchange, services: Services) -> Reply:
    """The same, as the open-source server has it: filters may name keys of the metadata directly."""
    return await _search(exchange, services, loose=True)


async def _search(exchange: Exchange, services: Services, *, loose: bool) -> Reply:
    require_bare_query(exchange)
    request = exchange.read(_search_body)
    require_project(exchange, request.project_id)
    _refuse_expired(request.show_expired)
    limit = request.top_k if request.top_k is not None else request.limit
    limit = services.limits.page(_TOP_K if limit is None else limit, "$.top_k")
    parts = parts_of(request, loose=loose)
    demand = demand_of(exchange, services)
    threshold = services.limits.importance(request.threshold or 0.0, "$.threshold")
    asked = [
        BatchedSearch(
            scope_of(exchange, services, part.owner),
            Query(text=request.query, limit=limit, min_score=threshold, filter=part.where),
            demand,
        )
        for part in parts
    ]
    answers = await services.searches.run(asked, "json")
    hits: list[Shown] = []
    for each, answer in zip(asked, answers, strict=True):
        if isinstance(answer, MemfastError):
            raise _renamed(answer)
        exchange.unconfirmed(answer.unconfirmed_s)
        found = msgspec.json.decode(answer.body, type=_Hits).results
        services.directory.note(each.scope.id, [hit.id for hit in found])
        hits.extend(found)
    hits.sort(key=lambda hit: (-(hit.score or 0.0), hit.id))
    results = [show(hit, request.fields) for hit in hits[:limit]]
    if request.bare:
        return exchange.reply(results)
    return exchange.reply({"results": results} | _warned(request, parts, empty=not results))


async def list_memories(exchange: Exchange, services: Services) -> Reply:
    """A page of memories, newest first."""
    parameters = exchange.parameters(PageParameters)
    request = exchange.read(_list_body)
    for project_id in (parameters.project_id, request.project_id):
        require_project(exchange, project_id)
    page = parameters.page or request.page or 1
    size = parameters.page_size if parameters.page_size is not None else request.page_size
    return await _list(exchange, services, request, page, _PAGE_SIZE if size is None else size, loose=False)


async def list_by_query(exchange: Exchange, services: Services) -> Reply:
    """The same with everything in the query string, as the open-source server and clients of old have it."""
    asked = exchange.parameters(ListParameters)
    require_project(exchange, asked.project_id)
    named = read_entities(asked, "")
    request = ListRequest(
        **msgspec.structs.asdict(named), show_expired=asked.show_expired, output_format=asked.output_format
    )
    size = next((each for each in (asked.page_size, asked.top_k, asked.limit) if each is not None), _PAGE_SIZE)
    return await _list(exchange, services, request, asked.page or 1, size, loose=False)


async def _list(
    exchange: Exchange, services: Services, request: ListRequest, page: int, size: int, *, loose: bool
) -> Reply:
    _refuse_expired(request.show_expired)
    size = services.limits.page(size, "page_size")
    parts = parts_of(request, loose=loose)
    memories, count = await page_of(exchange, services, parts, page, size)
    results = [show(memory, request.fields) for memory in memories]
    if request.bare:
        return exchange.reply(results)
    answer = {
        "count": count,
        "next": _link(exchange, page + 1, size) if page * size < count else None,
        "previous": _link(exchange, page - 1, size) if page > 1 else None,
        "results": results,
    }
    return exchange.reply(answer | _warned(request, parts, empty=not count))


async def page_of(
    exchange: Exchange, services: Services, parts: Sequence[Part], page: int, size: int
) -> tuple[list[Shown], int]:
    """A page of what the parts have together, and how many memories that is."""
    if len(parts) == 1:
        query = ListQuery(limit=size, skip=(page - 1) * size, filter=parts[0].where)
        found = await _listed(exchange, services, scope_of(exchange, services, parts[0].owner), query)
        return found.memories, found.count
    most = services.limits.config.page_items
    if page * size > most:
        raise InvalidRequest(
            f"page: of several entities together the first {most} memories can be read; name one", path="page"
        )
    merged: list[Shown] = []
    count = 0
    for part in parts:
        query = ListQuery(limit=page * size, filter=part.where)
        found = await _listed(exchange, services, scope_of(exchange, services, part.owner), query)
        merged.extend(found.memories)
        count += found.count
    merged.sort(key=lambda memory: (memory.created_at, memory.id), reverse=True)
    return merged[(page - 1) * size : page * size], count


async def _listed(exchange: Exchange, services: Services, scope: Scope, query: ListQuery) -> _Page:
    """A page of one user and how many memories all pages have, from finished bytes where there are any."""

    async def compute(_epochs: Epochs) -> Answer:
        try:
            page = await services.recall.list(scope, query)
            count, expires_at = await services.recall.count(scope, query)
        except InvalidRequest as error:
            raise _renamed(error) from error
        return Answer(encode_json({"memories": page.memories, "count": count}), page.version, "cold", expires_at)

    key = derive_key(scope.id, b"mem0", msgspec.msgpack.encode(query))
    target = Target("list", key, scope.id, services.coherence.epochs(scope.id).slot)

    async def read() -> tuple[Answer, Target]:
        return await services.answers.answer("list", key, scope.id, compute), target

    answer, _ = await services.freshness.read(scope.id, demand_of(exchange, services), read)
    exchange.unconfirmed(answer.unconfirmed_s)
    page = msgspec.json.decode(answer.body, type=_Page)
    services.directory.note(scope.id, [memory.id for memory in page.memories])
    return page


def parts_of(request: SearchRequest | ListRequest, *, loose: bool) -> list[Part]:
    """Whose memories a request is about, and which of them."""
    named = msgspec.structs.asdict(read_entities(request, "$."))
    beside: list[tuple[Any, str]] = [({field: name}, "$") for field, name in named.items() if name is not None]
    if request.categories:
        beside.append(({"categories": {"in": request.categories}}, "$"))
    if request.metadata:
        beside.append(({"metadata": request.metadata}, "$"))
    if isinstance(request, ListRequest):
        times = {"gte": request.start_date, "lte": request.end_date}
        within = {operator: text for operator, text in times.items() if text is not None}
        beside.extend([({"created_at": within}, "$")] if within else [])
    parts = [*([] if request.filters is None else [(request.filters, "$.filters")]), *beside]
    return take_apart(parts, loose=loose)


def _warned(request: SearchRequest | ListRequest, parts: Sequence[Part], *, empty: bool) -> dict[str, list[str]]:
    """What an answer says beside its results, if anything."""
    warnings = request.ignored()
    alone = any(part.owner.startswith("mem0:") for part in parts)
    if empty and alone:
        warnings.append(
            "filters: what was added with a user_id is found under that user_id; an agent_id, app_id or run_id alone "
            "means memories that were added without one"
        )
    return {"warnings": warnings} if warnings else {}


def _refuse_expired(show_expired: bool | None) -> None:
    if show_expired:
        raise InvalidRequest("$.show_expired: what has expired is gone", path="$.show_expired")


def _renamed(error: MemfastError) -> MemfastError:
    """A refusal of a filter, under the name that the filter has here."""
    path = error.path if isinstance(error, InvalidRequest) else None
    if path is None or not path.removeprefix("$.").startswith("filter"):
        return error
    return InvalidRequest(str(error).replace(path, "$.filters", 1), path="$.filters")


def _link(exchange: Exchange, page: int, size: int) -> str:
    """Another page, as a path of this host."""
    asked = {"page": str(page), "page_size": str(size)}
    if exchange.method == "GET":
        parameters = exchange.parameters(ListParameters)
        asked |= {field: name for field in FIELDS if (name := getattr(parameters, field)) is not None}
    return f"{exchange.path}?{urlencode(asked)}"


async def get(exchange: Exchange, services: Services, memory_id: str) -> Reply:
    """One memory."""
    require_bare_query(exchange)
    target, scope = await read_by(exchange, services, memory_id)
    return exchange.reply(show(await _one(exchange, services, scope, target)))


async def event(exchange: Exchange, services: Services, event_id: str) -> Reply:
    """What became of an add. It is done before it is answered, and its event has the id of its first memory."""
    require_bare_query(exchange)
    target, scope = await read_by(exchange, services, event_id)
    memory = show(await _one(exchange, services, scope, target))
    result = {"id": memory["id"], "event": "ADD", "memory": memory["memory"], "data": {"memory": memory["memory"]}}
    times = dict.fromkeys(("created_at", "started_at", "completed_at"), memory["created_at"])
    answer = {"id": event_id, "event_type": "ADD", "status": "SUCCEEDED", "results": [result], "error": None}
    return exchange.reply(answer | times)


async def _one(exchange: Exchange, services: Services, scope: Scope, target: UUID) -> Shown:
    answer, _ = await services.freshness.read(
        scope.id, demand_of(exchange, services), lambda: services.recall.get(scope, target, "json")
    )
    exchange.unconfirmed(answer.unconfirmed_s)
    return _shown.decode(answer.body)


async def history(exchange: Exchange, services: Services, memory_id: str) -> Reply:
    """What happened to a memory, oldest first, as long as history is kept."""
    require_bare_query(exchange)
    target, scope = await read_by(exchange, services, memory_id)
    own = await _standing_of(exchange, services, scope, target)
    events: list[dict[str, Any]] = []
    cursor: str | None = None
    for _ in range(_EVENTS_PAGES):
        page = await services.history.events(scope, target, limit=_EVENTS_PAGE, cursor=cursor)
        for each in page.events:
            told: dict[str, Any] = {
                "id": f"{target}:{each.version}",
                "memory_id": str(target),
                "input": [],
                "old_memory": each.previous_text,
                "new_memory": each.text,
                "event": _EVENTS[each.event],
                "created_at": each.at,
                "updated_at": each.at,
            }
            events.append(told | own)
        cursor = page.next_cursor
        if cursor is None:
            return exchange.reply(events)
    raise InvalidRequest(f"the memory has more than {_EVENTS_PAGE * _EVENTS_PAGES} events; GET /v1 has them by pages")


async def _standing_of(exchange: Exchange, services: Services, scope: Scope, target: UUID) -> dict[str, Any]:
    """What a memory's events say of whose it is; of a deleted one only the owner is known."""
    try:
        memory = show(await _one(exchange, services, scope, target))
    except NotFound:
        owner = {f"{kind}_id": name for kind, name in standing(scope.user_id).items()}
        return {field: owner.get(field) for field in FIELDS} | {"session_id": owner.get("run_id"), "categories": []}
    return {name: memory[name] for name in (*FIELDS, "session_id", "categories")}
