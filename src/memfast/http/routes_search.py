"""The search route."""

from __future__ import annotations

from memfast.bootstrap import Services
from memfast.http.codec import BodyDecoder
from memfast.http.exchange import Exchange, Reply
from memfast.http.routing import Route, Success
from memfast.http.wire import SearchAnswer, SearchRequest
from memfast.service.recall import Query

__all__ = ["ROUTES"]

_search_body = BodyDecoder(SearchRequest)


async def search(exchange: Exchange, services: Services) -> Reply:
    """Find memories by a text or a vector."""
    request = exchange.read(_search_body)
    scope = exchange.scope(services.limits.user_id(request.user_id, "$.user_id"))
    query = Query(text=request.query, embedding=request.embedding, limit=request.limit, min_score=request.min_score)
    answer, target = await services.recall.search(scope, query, exchange.answer_form)
    return exchange.answered(answer, target)


ROUTES = (
    Route(
        method="POST",
        path="/v1/search",
        endpoint=search,
        summary="Search a user's memories",
        group="search",
        body=SearchRequest,
        answers={200: Success(SearchAnswer, "hits by falling score")},
        problems=(422,),
    ),
)
