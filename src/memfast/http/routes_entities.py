"""The route about what memories speak of."""

from __future__ import annotations

from memfast.bootstrap import Services
from memfast.http.exchange import Exchange, Reply
from memfast.http.routing import Route, Success
from memfast.http.wire_entities import EntitiesAnswer, EntitiesParameters

__all__ = ["ROUTES"]


async def list_entities(exchange: Exchange, services: Services) -> Reply:
    """One page of a user's entities."""
    parameters = exchange.parameters(EntitiesParameters)
    scope = exchange.scope(services.limits.user_id(parameters.user_id, "user_id"))
    page = await services.recall.entities(scope, limit=parameters.limit, cursor=parameters.cursor)
    answer = EntitiesAnswer(page.entities, page.next_cursor, page.next_cursor is not None)
    return exchange.reply(answer, version=page.version)


ROUTES = (
    Route(
        method="GET",
        path="/v1/entities",
        endpoint=list_entities,
        summary="List what a user's memories speak of",
        group="memories",
        parameters=EntitiesParameters,
        answers={200: Success(EntitiesAnswer, "a page")},
    ),
)
