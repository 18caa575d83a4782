"""The search route."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from memfast.bootstrap import Services
from memfast.errors import InvalidRequest, MemfastError, Rejected
from memfast.http.codec import BodyDecoder
from memfast.http.exchange import Exchange, Reply
from memfast.http.problems import problem
from memfast.http.routing import Route, Success
from memfast.http.wire import Problem, SearchAnswer, SearchBatchAnswer, SearchBatchRequest, SearchItem, SearchRequest
from memfast.model import Scope
from memfast.service.answers import Answer
from memfast.service.recall import Query

__all__ = ["ROUTES"]

_search_body = BodyDecoder(SearchRequest)
_batch_body = BodyDecoder(SearchBatchRequest)
_batch_item = BodyDecoder(SearchItem)


async def search(exchange: Exchange, services: Services) -> Reply:
    """Find memories by a text or a vector."""
    request = exchange.read(_search_body)
    scope = exchange.scope(services.limits.user_id(request.user_id, "$.user_id"))
    answer, target = await services.recall.search(scope, _query(request), exchange.answer_form)
    return exchange.answered(answer, target)


async def search_batch(exchange: Exchange, services: Services) -> Reply:
    """Run several searches; one that fails leaves the others alone."""
    request = exchange.read(_batch_body)
    items = [
        _batch_item_of(exchange, services, raw, position, request.user_id)
        for position, raw in enumerate(request.searches)
    ]
    answers = await services.searches.run(items, "json")
    return exchange.reply({"results": [_result(answer, position) for position, answer in enumerate(answers)]})


def _query(request: SearchRequest) -> Query:
    return Query(
        text=request.query,
        embedding=request.embedding,
        limit=request.limit,
        min_score=request.min_score,
        filter=request.filter,
        tags=request.tags,
        tags_mode=request.tags_mode,
    )


def _batch_item_of(
    exchange: Exchange, services: Services, raw: Raw, position: int, user_id: str | None
) -> tuple[Scope, Query] | Rejected:
    path = f"$.searches[{position}]"
    try:
        item = _batch_item.decode(raw, exchange.form, root=path)
        owner: str | None = item.user_id if item.user_id is not None else user_id
        if owner is None:
            raise InvalidRequest(f"{path}.user_id: is needed, here or beside searches", path=f"{path}.user_id")
        return exchange.scope(services.limits.user_id(owner, f"{path}.user_id")), _query(item)
    except Rejected as refused:
        return refused


def _result(answer: Answer | MemfastError, position: int) -> Raw | dict[str, Problem]:
    if isinstance(answer, Answer):
        return Raw(answer.body)
    told = problem(answer)
    if told.path is not None and not told.path.startswith(f"$.searches[{position}]"):
        path = told.path.replace("$", f"$.searches[{position}]", 1)
        told = msgspec.structs.replace(told, path=path, detail=told.detail.replace(told.path, path, 1))
    return {"problem": told}


ROUTES = (
    Route(
        method="POST",
        path="/v1/search",
        endpoint=search,
        reads=True,
        summary="Search a user's memories",
        group="search",
        body=SearchRequest,
        answers={200: Success(SearchAnswer, "hits by falling score")},
        problems=(422,),
    ),
    Route(
        method="POST",
        path="/v1/search/batch",
        endpoint=search_batch,
        reads=True,
        summary="Run up to 20 searches in one request",
        group="search",
        body=SearchBatchRequest,
        answers={200: Success(SearchBatchAnswer, "one result per search, in order")},
        problems=(422,),
    ),
)
