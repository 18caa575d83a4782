"""Routes about what memories have to do with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import msgspec
from msgspec import Raw

from memfast.bootstrap import Services
from memfast.claims import Claim, Written
from memfast.errors import Rejected
from memfast.http.claims import write_once
from memfast.http.codec import BodyDecoder, encode_json
from memfast.http.exchange import Exchange, Reply
from memfast.http.problems import problem
from memfast.http.routing import Route, Success
from memfast.http.wire_links import (
    DropLinkParameters,
    LinkBatchRequest,
    LinkFields,
    LinkRequest,
    LinkResult,
    LinkResults,
    LinksAnswer,
    LinksParameters,
    RelatedAnswer,
    RelatedParameters,
)
from memfast.links import LinkKey, Walk
from memfast.model import Outcome
from memfast.service.links import LinkDraft

__all__ = ["ROUTES"]

_put_body = BodyDecoder(LinkRequest)
_batch_body = BodyDecoder(LinkBatchRequest)
_batch_item = BodyDecoder(LinkFields)

_FIELDS = LinkFields.__struct_fields__


async def put(exchange: Exchange, services: Services) -> Reply:
    """Link two memories."""
    request = exchange.read(_put_body)
    scope = exchange.scope(services.limits.user_id(request.user_id, "$.user_id"))

    async def work(claim: Claim | None) -> list[Outcome]:
        draft, actor = _draft(request, "$"), exchange.principal.key_id
        return [await services.links.put(scope, draft, actor=actor, claim=claim)]

    return await write_once(exchange, services, scope, work, _told)


async def put_batch(exchange: Exchange, services: Services) -> Reply:
    """Link many memories of a user in one transaction; an item that cannot be made fails alone."""
    request = exchange.read(_batch_body)
    services.limits.items(len(request.links), "$.links")
    scope = exchange.scope(services.limits.user_id(request.user_id, "$.user_id"))

    def read(raw: Raw, path: str) -> LinkDraft | Rejected:
        try:
            return _draft(_batch_item.decode(raw, exchange.form, root=path), path)
        except Rejected as refused:
            return refused

    drafts = [read(raw, f"$.links[{position}]") for position, raw in enumerate(request.links)]

    async def work(claim: Claim | None) -> Sequence[Outcome]:
        return await services.links.put_many(scope, drafts, actor=exchange.principal.key_id, claim=claim)

    def told(outcomes: Sequence[Outcome]) -> Written:
        results = [_result(outcome, drafts[position], position) for position, outcome in enumerate(outcomes)]
        version = max(outcome.scope_version for outcome in outcomes)
        return Written(200, version, encode_json(LinkResults(results)))

    return await write_once(exchange, services, scope, work, told)


async def list_links(exchange: Exchange, services: Services) -> Reply:
    """One page of a user's links."""
    parameters = exchange.parameters(LinksParameters)
    scope = exchange.scope(services.limits.user_id(parameters.user_id, "user_id"))
    page = await services.links.list(
        scope,
        memory_id=parameters.memory_id,
        type_=parameters.type,
        limit=parameters.limit,
        cursor=parameters.cursor,
    )
    answer = LinksAnswer(page.links, page.next_cursor, page.next_cursor is not None)
    return exchange.reply(answer, version=page.version)


async def drop(exchange: Exchange, services: Services) -> Reply:
    """Remove a link."""
    parameters = exchange.parameters(DropLinkParameters)
    scope = exchange.scope(services.limits.user_id(parameters.user_id, "user_id"))
    key = LinkKey(parameters.from_id, parameters.to_id, parameters.type)

    async def work(claim: Claim | None) -> list[Outcome]:
        return [await services.links.drop(scope, key, actor=exchange.principal.key_id, claim=claim)]

    return await write_once(exchange, services, scope, work, _dropped)


async def related(exchange: Exchange, services: Services, memory_id: str) -> Reply:
    """The memories around one."""
    parameters = exchange.parameters(RelatedParameters)
    scope = exchange.scope(services.limits.user_id(parameters.user_id, "user_id"))
    walk = Walk(
        start=exchange.path_id(memory_id),
        depth=parameters.depth,
        limit=parameters.limit,
        type=parameters.type,
        min_weight=parameters.min_weight,
    )
    demand = exchange.demand(parameters.min_version, parameters.consistency)
    found = await services.freshness.read(
        scope.id, demand, lambda: services.links.related(scope, walk, exchange.answer_form)
    )
    return exchange.answered(*found)


def _draft(fields: LinkFields, path: str) -> LinkDraft:
    return LinkDraft(**{name: getattr(fields, name) for name in _FIELDS}, path=path)


def _told(outcomes: Sequence[Outcome]) -> Written:
    status = 201 if outcomes[0].status == "created" else 200
    return Written(status, outcomes[0].scope_version, encode_json(_result(outcomes[0], None, 0)))


def _dropped(outcomes: Sequence[Outcome]) -> Written:
    return Written(204, outcomes[0].scope_version)


def _result(outcome: Outcome, draft: LinkDraft | Rejected | None, position: int) -> LinkResult:
    """What became of a link: nothing of its content, so that no kept answer outlives the memories."""
    if outcome.refused is not None:
        told = problem(outcome.refused)
        if told.path in {"$.from_id", "$.to_id"}:  # the store does not know where the id stood
            path = f"$.links[{position}]{told.path[1:]}"
            told = msgspec.structs.replace(told, path=path, detail=told.detail.replace(told.path, path, 1))
        if not isinstance(draft, LinkDraft):
            return LinkResult(from_id=None, to_id=None, type=None, status="error", problem=told)
        return LinkResult(from_id=draft.from_id, to_id=draft.to_id, type=draft.type, status="error", problem=told)
    link, status = outcome.link, cast(Literal["created", "updated"], outcome.status)
    assert link is not None
    return LinkResult(from_id=link.from_id, to_id=link.to_id, type=link.type, status=status, version=outcome.version)


ROUTES = (
    Route(
        method="POST",
        path="/v1/links",
        endpoint=put,
        summary="Link two memories, or change their link",
        group="links",
        body=LinkRequest,
        answers={
            201: Success(LinkResult, "linked", written=True),
            200: Success(LinkResult, "they were linked so: the link is now as it was sent", written=True),
        },
        problems=(404,),
    ),
    Route(
        method="POST",
        path="/v1/links/batch",
        endpoint=put_batch,
        summary="Link many memories in one transaction",
        group="links",
        body=LinkBatchRequest,
        answers={200: Success(LinkResults, "one result per link, in order", written=True)},
    ),
    Route(
        method="GET",
        path="/v1/links",
        endpoint=list_links,
        summary="List a user's links",
        group="links",
        parameters=LinksParameters,
        answers={200: Success(LinksAnswer, "a page")},
        problems=(404,),
    ),
    Route(
        method="DELETE",
        path="/v1/links",
        endpoint=drop,
        summary="Remove a link",
        group="links",
        parameters=DropLinkParameters,
        answers={204: Success(None, "removed", written=True)},
        problems=(404,),
    ),
    Route(
        method="GET",
        path="/v1/memories/{memory_id}/related",
        endpoint=related,
        kind="list",
        summary="The memories that links lead to, nearest first",
        group="links",
        parameters=RelatedParameters,
        answers={200: Success(RelatedAnswer, "memories with their distance")},
        problems=(404, 409),
    ),
)
