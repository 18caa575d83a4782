"""Routes that store, change and delete many memories."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from memfast.bootstrap import Services
from memfast.claims import Claim, Written
from memfast.errors import InvalidRequest, Rejected
from memfast.http.claims import read_key, write_once
from memfast.http.codec import BodyDecoder, encode_json
from memfast.http.exchange import Exchange, Reply
from memfast.http.problems import problem
from memfast.http.routes_memory import read_changes, read_draft
from memfast.http.routing import Route, Success
from memfast.http.wire import (
    BatchItem,
    BatchRequest,
    BatchResult,
    BatchResults,
    PatchBatchRequest,
    PatchItem,
)
from memfast.http.wire_forget import DeleteBatchRequest, DeleteMatchingRequest, RemovalAnswer
from memfast.model import Outcome, Scope
from memfast.service.forget import Removal
from memfast.service.remember import Draft, Edit

__all__ = ["ROUTES"]

_create_body = BodyDecoder(BatchRequest)
_create_item = BodyDecoder(BatchItem)
_update_body = BodyDecoder(PatchBatchRequest)
_update_item = BodyDecoder(PatchItem)
_delete_body = BodyDecoder(DeleteBatchRequest)
_matching_body = BodyDecoder(DeleteMatchingRequest)

_I = TypeVar("_I", BatchItem, PatchItem)
_R = TypeVar("_R")


async def create_batch(exchange: Exchange, services: Services) -> Reply:
    """Store many memories in one transaction; an item that cannot be stored fails alone."""
    request = exchange.read(_create_body)

    def read(scope: Scope, item: BatchItem, path: str) -> tuple[Scope, Draft]:
        return scope, read_draft(item, path)

    drafts = _read(exchange, services, request, _create_item, read)

    async def work(claim: Claim | None) -> Sequence[Outcome]:
        return await services.remember.create_many(drafts, actor=exchange.principal.key_id, claim=claim)

    return await _written(exchange, services, (item[0] for item in drafts if not isinstance(item, Rejected)), work)


async def update_batch(exchange: Exchange, services: Services) -> Reply:
    """Change many memories in one transaction; an item that cannot be changed fails alone."""
    request = exchange.read(_update_body)

    def read(scope: Scope, item: PatchItem, path: str) -> Edit:
        expected = None if item.version is None else frozenset({item.version})
        return Edit(scope=scope, id=item.id, changes=read_changes(item), expected_versions=expected, path=path)

    edits = _read(exchange, services, request, _update_item, read)

    async def work(claim: Claim | None) -> Sequence[Outcome]:
        return await services.remember.update_many(edits, actor=exchange.principal.key_id, claim=claim)

    return await _written(exchange, services, (item.scope for item in edits if not isinstance(item, Rejected)), work)


async def delete_batch(exchange: Exchange, services: Services) -> Reply:
    """Delete many memories of a user in one transaction."""
    request = exchange.read(_delete_body)
    services.limits.items(len(request.ids), "$.ids")
    scope = exchange.scope(services.limits.user_id(request.user_id, "$.user_id"))

    async def work(claim: Claim | None) -> Sequence[Outcome]:
        return await services.forget.delete_many(
            scope, request.ids, purge=request.purge, actor=exchange.principal.key_id, claim=claim
        )

    return await write_once(exchange, services, scope, work, _told)


async def delete_matching(exchange: Exchange, services: Services) -> Reply:
    """Delete the memories of a user that pass a filter."""
    request = exchange.read(_matching_body)
    scope = exchange.scope(services.limits.user_id(request.user_id, "$.user_id"))

    async def work(claim: Claim | None) -> Removal:
        return await services.forget.delete_matching(
            scope,
            request.filter,
            limit=request.limit,
            dry_run=request.dry_run,
            purge=request.purge,
            actor=exchange.principal.key_id,
            claim=claim,
        )

    def told(done: Removal) -> Written:
        answer = RemovalAnswer(
            matched=done.matched,
            deleted=done.deleted,
            changed=done.changed,
            has_more=done.has_more,
            dry_run=request.dry_run,
            version=done.version,
            ids=done.ids,
        )
        return Written(200, done.version if done.deleted else 0, encode_json(answer))

    return await write_once(exchange, services, scope, work, told)


def _read(
    exchange: Exchange,
    services: Services,
    request: BatchRequest | PatchBatchRequest,
    decoder: BodyDecoder[_I],
    read: Callable[[Scope, _I, str], _R],
) -> list[_R | Rejected]:
    """The items of a batch, or why one cannot be read."""
    services.limits.items(len(request.memories), "$.memories")
    form = exchange.form

    def one(raw: Raw, path: str) -> _R | Rejected:
        try:
            item = decoder.decode(raw, form, root=path)
            owner = item.user_id if item.user_id is not None else request.user_id
            if owner is None:
                raise InvalidRequest(f"{path}: needs a user_id, here or beside memories", path=f"{path}.user_id")
            return read(exchange.scope(services.limits.user_id(owner, f"{path}.user_id")), item, path)
        except Rejected as refused:
            return refused

    return [one(raw, f"$.memories[{position}]") for position, raw in enumerate(request.memories)]


async def _written(
    exchange: Exchange,
    services: Services,
    scopes: Iterable[Scope],
    work: Callable[[Claim | None], Awaitable[Sequence[Outcome]]],
) -> Reply:
    """The answer to a batch whose items are of these scopes. Tokens and keys speak of one user."""
    named = {scope.id: scope for scope in scopes}
    if len(named) == 1:
        return await write_once(exchange, services, named.popitem()[1], work, _told)
    if read_key(exchange) is not None and named:
        detail = f"Idempotency-Key: a batch with a key must be of one user, this one names {len(named)}; send one each"
        raise InvalidRequest(detail, path="Idempotency-Key")
    return exchange.reply(_results(await work(None)))


def _told(outcomes: Sequence[Outcome]) -> Written:
    return Written(200, max(outcome.scope_version for outcome in outcomes), encode_json(_results(outcomes)))


def _results(outcomes: Sequence[Outcome]) -> BatchResults:
    return BatchResults([_result(outcome, position) for position, outcome in enumerate(outcomes)])


def _result(outcome: Outcome, position: int) -> BatchResult:
    if outcome.refused is not None:
        told = problem(outcome.refused)
        if told.path == "$.id":  # the store does not know where the id stood
            path = f"$.memories[{position}].id"
            told = msgspec.structs.replace(told, path=path, detail=told.detail.replace("$.id", path, 1))
        return BatchResult(id=outcome.id if outcome.id.int else None, status="error", problem=told)
    status: Any = outcome.status
    return BatchResult(id=outcome.id, status=status, version=outcome.version)


_RESULTS = {200: Success(BatchResults, "one result per item, in order", written=True)}

ROUTES = (
    Route(
        method="POST",
        path="/v1/memories/batch",
        endpoint=create_batch,
        summary="Store many memories in one transaction",
        group="memories",
        body=BatchRequest,
        answers=_RESULTS,
        problems=(422,),
    ),
    Route(
        method="PATCH",
        path="/v1/memories/batch",
        endpoint=update_batch,
        summary="Change many memories in one transaction",
        group="memories",
        body=PatchBatchRequest,
        answers=_RESULTS,
        problems=(422,),
    ),
    Route(
        method="DELETE",
        path="/v1/memories/batch",
        endpoint=delete_batch,
        summary="Delete many memories of a user in one transaction",
        group="memories",
        body=DeleteBatchRequest,
        answers=_RESULTS,
    ),
    Route(
        method="POST",
        path="/v1/memories/delete",
        endpoint=delete_matching,
        summary="Delete a user's memories that pass a filter",
        group="memories",
        body=DeleteMatchingRequest,
        answers={200: Success(RemovalAnswer, "how many and which", written=True)},
    ),
)
