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
from memfast.http.wire import Problem
from memfast.http.wire_search import SearchAnswer, SearchBatchAnswer, SearchBatchRequest, SearchItem, SearchRequest
from memfast.service.answers import Answer
from memfast.service.freshness import Demand
from memfast.service.question import Boosts, Expand, Expansion, Query
from memfast.service.searches import BatchedSearch

__all__ = ["ROUTES"]

_search_body = BodyDecoder(SearchRequest)
_batch_body = BodyDecoder(SearchBatchRequest)
_batch_item = BodyDecoder(SearchItem)


async def search(exchange: Exchange, services: Services) -> Reply:
    """Find memories by a text or a vector."""
    request = exchange.read(_search_body)
    scope = exchange.scope(services.limits.user_id(request.user_id, "$.user_id"))
    query, form = _query(request), exchange.answer_form
    demand = exchange.demand(request.min_version, request.consistency)
    found = await services.freshness.read(scope.id, demand, lambda: services.search.find(scope, query, form))
    return exchange.answered(*found, timed=request.explain)


async def search_batch(exchange: Exchange, services: Services) -> Reply:
    """Run several searches; one that fails leaves the others alone."""
    request = exchange.read(_batch_body)
    items = [
        _batch_item_of(exchange, services, raw, position, request) for position, raw in enumerate(request.searches)
    ]
    answers = await services.searches.run(items, "json")
    exchange.unconfirmed(max((answer.unconfirmed_s for answer in answers if isinstance(answer, Answer)), default=0.0))
    return exchange.reply({"results": [_result(answer, position) for position, answer in enumerate(answers)]})


def _query(request: SearchRequest) -> Query:
    fields = {name: getattr(request, name) for name in _SAME}
    boosts, expansion, expand = request.boosts, request.expansion, request.expand
    return Query(
        text=request.query,
        boosts=None if boosts is None else Boosts(**msgspec.structs.asdict(boosts)),
        expansion=None if expansion is None else Expansion(**msgspec.structs.asdict(expansion)),
        expand=None if expand is None else Expand(depth=expand.depth, weight=expand.weight),
        **fields,
    )


_SAME = tuple(set(Query.__struct_fields__) & set(SearchRequest.__struct_fields__) - {"boosts", "expansion", "expand"})


def _batch_item_of(
    exchange: Exchange, services: Services, raw: Raw, position: int, batch: SearchBatchRequest
) -> BatchedSearch | Rejected:
    path = f"$.searches[{position}]"
    try:
        item = _batch_item.decode(raw, exchange.form, root=path)
        owner: str | None = item.user_id if item.user_id is not None else batch.user_id
        if owner is None:
            raise InvalidRequest(f"{path}.user_id: is needed, here or beside searches", path=f"{path}.user_id")
        scope = exchange.scope(services.limits.user_id(owner, f"{path}.user_id"))
        demand = exchange.demand(item.min_version or batch.min_version, item.consistency or batch.consistency)
        if demand is not None and item.min_version is None and owner != batch.user_id:
            demand = Demand(None, strong=True) if demand.strong else None  # a token speaks of one user
        return BatchedSearch(scope, _query(item), demand)
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
        kind="search",
        reads=True,
        summary="Search a user's memories",
        group="search",
        body=SearchRequest,
        answers={200: Success(SearchAnswer, "hits by falling score")},
        problems=(409, 422),
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
