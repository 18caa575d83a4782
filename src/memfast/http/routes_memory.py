"""Routes that store, read, change and delete memories."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec

from memfast.bootstrap import Services
from memfast.claims import Claim, Written
from memfast.errors import InvalidRequest
from memfast.http.claims import write_once
from memfast.http.codec import BodyDecoder, encode, encode_json
from memfast.http.exchange import Exchange, Reply
from memfast.http.routing import Route, Success
from memfast.http.wire import (
    CreateRequest,
    GetManyRequest,
    ListParameters,
    MemoriesFound,
    MemoriesPage,
    MemoryFields,
    PatchRequest,
    ReadParameters,
    UserParameters,
)
from memfast.http.wire_forget import DeleteParameters
from memfast.model import Memory, Outcome, Scope
from memfast.service.answers import Answer, Target, derive_key
from memfast.service.coherence import Epochs
from memfast.service.freshness import Demand
from memfast.service.recall import ListQuery
from memfast.service.remember import Changes, Draft

__all__ = ["ROUTES", "read_changes", "read_draft", "written_memory"]

_create_body = BodyDecoder(CreateRequest)
_get_many_body = BodyDecoder(GetManyRequest)
_patch_body = BodyDecoder(PatchRequest)

_CHANGED_FIELDS = PatchRequest.__struct_fields__
_DRAFT_FIELDS = tuple(field.name for field in msgspec.structs.fields(MemoryFields))


async def create(exchange: Exchange, services: Services) -> Reply:
    """Store one memory."""
    request = exchange.read(_create_body)
    scope = exchange.scope(services.limits.user_id(request.user_id, "$.user_id"))

    async def work(claim: Claim | None) -> list[Outcome]:
        draft, actor = read_draft(request, "$"), exchange.principal.key_id
        return [await services.remember.create(scope, draft, actor=actor, claim=claim)]

    return await write_once(exchange, services, scope, work, _created)


async def get_many(exchange: Exchange, services: Services) -> Reply:
    """Memories by id."""
    request = exchange.read(_get_many_body)
    scope = exchange.scope(services.limits.user_id(request.user_id, "$.user_id"))
    form = exchange.answer_form

    async def compute(_epochs: Epochs) -> Answer:
        found = await services.recall.get_many(scope, request.ids)
        body = encode(MemoriesFound(found.memories, found.missing), form)
        return Answer(body, found.version, "cold", found.expires_at)

    key = derive_key(scope.id, b"many", form.encode(), b"".join(wanted.bytes for wanted in request.ids))
    demand = exchange.demand(request.min_version, request.consistency)
    return await _kept(exchange, services, key, scope, demand, compute)


async def get(exchange: Exchange, services: Services, memory_id: str) -> Reply:
    """One memory."""
    parameters = exchange.parameters(ReadParameters)
    scope, wanted = _scope(exchange, services, parameters), exchange.path_id(memory_id)
    demand = exchange.demand(parameters.min_version, parameters.consistency)
    found = await services.freshness.read(
        scope.id, demand, lambda: services.recall.get(scope, wanted, exchange.answer_form)
    )
    return exchange.answered(*found)


async def update(exchange: Exchange, services: Services, memory_id: str) -> Reply:
    """Change fields of a memory."""
    scope = _scope(exchange, services, exchange.parameters(UserParameters))
    request, target, expected = exchange.read(_patch_body), exchange.path_id(memory_id), exchange.if_match()

    async def work(claim: Claim | None) -> list[Outcome]:
        outcome = await services.remember.update(
            scope,
            target,
            read_changes(request),
            expected_versions=expected,
            actor=exchange.principal.key_id,
            claim=claim,
        )
        return [outcome]

    return await write_once(exchange, services, scope, work, written_memory)


async def delete(exchange: Exchange, services: Services, memory_id: str) -> Reply:
    """Delete a memory."""
    parameters = exchange.parameters(DeleteParameters)
    scope = _scope(exchange, services, parameters)
    target, expected = exchange.path_id(memory_id), exchange.if_match()

    async def work(claim: Claim | None) -> list[Outcome]:
        outcome = await services.forget.delete(
            scope,
            target,
            expected_versions=expected,
            purge=parameters.purge,
            actor=exchange.principal.key_id,
            claim=claim,
        )
        return [outcome]

    return await write_once(exchange, services, scope, work, _deleted)


async def list_memories(exchange: Exchange, services: Services) -> Reply:
    """One page of a user's memories."""
    parameters = exchange.parameters(ListParameters)
    scope = _scope(exchange, services, parameters)
    query = ListQuery(
        limit=services.limits.page(parameters.limit, "limit"),
        cursor=parameters.cursor,
        kind=parameters.kind,
        tag=parameters.tag,
        entity=parameters.entity,
        agent_id=parameters.agent_id,
        run_id=parameters.run_id,
        filter=_filter(parameters.filter),
        ascending=parameters.order == "created_asc",
    )
    form = exchange.answer_form

    async def compute(_epochs: Epochs) -> Answer:
        page = await services.recall.list(scope, query)
        answer = MemoriesPage(page.memories, page.next_cursor, page.next_cursor is not None)
        return Answer(encode(answer, form), page.version, "cold", page.expires_at)

    key = derive_key(scope.id, b"list", form.encode(), msgspec.msgpack.encode(query))
    demand = exchange.demand(parameters.min_version, parameters.consistency)
    return await _kept(exchange, services, key, scope, demand, compute)


async def _kept(
    exchange: Exchange,
    services: Services,
    key: bytes,
    scope: Scope,
    demand: Demand | None,
    compute: Callable[[Epochs], Awaitable[Answer]],
) -> Reply:
    target = Target("list", key, scope.id, services.coherence.epochs(scope.id).slot)

    async def read() -> tuple[Answer, Target]:
        return await services.answers.answer("list", key, scope.id, compute), target

    return exchange.answered(*await services.freshness.read(scope.id, demand, read))


def _scope(exchange: Exchange, services: Services, parameters: UserParameters) -> Scope:
    return exchange.scope(services.limits.user_id(parameters.user_id, "user_id"))


def _filter(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(f"filter: must be a filter as JSON: {error}", path="filter") from error


def read_draft(fields: MemoryFields, path: str) -> Draft:
    """A memory as it was sent."""
    return Draft(**{name: getattr(fields, name) for name in _DRAFT_FIELDS}, path=path)


def read_changes(fields: PatchRequest) -> Changes:
    """Changes as they were sent."""
    return Changes(**{name: getattr(fields, name) for name in _CHANGED_FIELDS})


def written_memory(
    outcomes: Sequence[Outcome], *, status: int = 200, extra: tuple[tuple[bytes, bytes], ...] = ()
) -> Written:
    """The answer to a write of one memory: the memory with its ETag."""
    memory = outcomes[0].memory
    assert memory is not None
    headers = (*extra, (b"etag", b'"%d"' % memory.version))
    return Written(status, outcomes[0].scope_version, encode_json(memory), headers, memory.id)


def _created(outcomes: Sequence[Outcome]) -> Written:
    told = ((b"memfast-status", str(outcomes[0].status).encode()),)
    if outcomes[0].status != "created":
        return written_memory(outcomes, extra=told)
    location = (b"location", f"/v1/memories/{outcomes[0].id}".encode())
    return written_memory(outcomes, status=201, extra=(*told, location))


def _deleted(outcomes: Sequence[Outcome]) -> Written:
    return Written(204, outcomes[0].scope_version)


ROUTES = (
    Route(
        method="POST",
        path="/v1/memories",
        endpoint=create,
        summary="Store a memory",
        group="memories",
        body=CreateRequest,
        answers={
            201: Success(Memory, "stored", written=True, told=True),
            200: Success(
                Memory,
                "the id was there: updated or left as it is, as on_conflict says; or with dedupe the memory that says "
                "the same",
                written=True,
                told=True,
            ),
        },
        problems=(409, 422),
    ),
    Route(
        method="POST",
        path="/v1/memories/get",
        reads=True,
        endpoint=get_many,
        kind="list",
        summary="Get memories by id",
        group="memories",
        body=GetManyRequest,
        answers={200: Success(MemoriesFound, "those that are there, and those that are not")},
        problems=(409,),
    ),
    Route(
        method="GET",
        path="/v1/memories",
        endpoint=list_memories,
        kind="list",
        summary="List a user's memories",
        group="memories",
        parameters=ListParameters,
        answers={200: Success(MemoriesPage, "a page")},
        problems=(409,),
    ),
    Route(
        method="GET",
        path="/v1/memories/{memory_id}",
        endpoint=get,
        kind="get",
        summary="Get a memory",
        group="memories",
        parameters=ReadParameters,
        answers={200: Success(Memory, "the memory")},
        problems=(404, 409),
    ),
    Route(
        method="PATCH",
        path="/v1/memories/{memory_id}",
        endpoint=update,
        summary="Change a memory",
        group="memories",
        parameters=UserParameters,
        body=PatchRequest,
        answers={200: Success(Memory, "the memory as it is now", written=True)},
        problems=(404, 412, 422),
    ),
    Route(
        method="DELETE",
        path="/v1/memories/{memory_id}",
        endpoint=delete,
        summary="Delete a memory",
        group="memories",
        parameters=DeleteParameters,
        answers={204: Success(None, "deleted, now or before", written=True)},
        problems=(404, 412),
    ),
)
