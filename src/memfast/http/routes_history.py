"""Routes about what memories were, and that bring them back."""

from __future__ import annotations

from memfast.bootstrap import Services
from memfast.claims import Claim
from memfast.http.claims import write_once
from memfast.http.exchange import Exchange, Reply
from memfast.http.routes_memory import written_memory
from memfast.http.routing import Route, Success
from memfast.http.wire import HistoryAnswer, HistoryParameters, UserParameters
from memfast.model import Memory, Outcome

__all__ = ["ROUTES"]


async def history(exchange: Exchange, services: Services, memory_id: str) -> Reply:
    """One page of what happened to a memory."""
    parameters = exchange.parameters(HistoryParameters)
    scope = exchange.scope(services.limits.user_id(parameters.user_id, "user_id"))
    page = await services.history.events(
        scope, exchange.path_id(memory_id), limit=parameters.limit, cursor=parameters.cursor
    )
    answer = HistoryAnswer(page.events, page.next_cursor, page.next_cursor is not None)
    return exchange.reply(answer, version=page.version)


async def undelete(exchange: Exchange, services: Services, memory_id: str) -> Reply:
    """Bring a deleted memory back."""
    parameters = exchange.parameters(UserParameters)
    scope = exchange.scope(services.limits.user_id(parameters.user_id, "user_id"))
    target, expected = exchange.path_id(memory_id), exchange.if_match()

    async def work(claim: Claim | None) -> list[Outcome]:
        outcome = await services.history.undelete(
            scope, target, expected_versions=expected, actor=exchange.principal.key_id, claim=claim
        )
        return [outcome]

    return await write_once(exchange, services, scope, work, written_memory)


ROUTES = (
    Route(
        method="GET",
        path="/v1/memories/{memory_id}/history",
        endpoint=history,
        summary="What happened to a memory, oldest first",
        group="history",
        parameters=HistoryParameters,
        answers={200: Success(HistoryAnswer, "a page; also of a deleted memory, as long as history is kept")},
        problems=(404,),
    ),
    Route(
        method="POST",
        path="/v1/memories/{memory_id}/undelete",
        endpoint=undelete,
        summary="Bring a deleted memory back",
        group="history",
        parameters=UserParameters,
        answers={200: Success(Memory, "the memory as it was, under a new version", written=True)},
        problems=(404, 409, 412, 422),
    ),
)
