"""Routes that give everything out and take it in, as streams of lines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

import msgspec

from memfast.bootstrap import Services
from memfast.errors import InvalidRequest, MemfastError
from memfast.http.claims import read_key
from memfast.http.codec import NDJSON, require_lines
from memfast.http.exchange import Exchange, Reply, StreamReply
from memfast.http.problems import problem
from memfast.http.routing import Route, Success
from memfast.http.wire import ExportParameters, ImportAnswer, ImportParameters, ImportProblem
from memfast.service.imports import ImportOptions

__all__ = ["ROUTES"]


async def export_lines(exchange: Exchange, services: Services) -> StreamReply:
    """Everything that a user has, or every user of the namespace."""
    parameters = exchange.parameters(ExportParameters)
    if parameters.user_id is None:
        exchange.principal.require_whole_namespace()
        lines = services.exports.namespace(exchange.principal.namespace, exchange.scope)
    else:
        lines = services.exports.user(exchange.scope(services.limits.user_id(parameters.user_id, "user_id")))
    return exchange.stream(await anext(lines), lines)  # what fails before the first line is a problem


async def import_lines(exchange: Exchange, services: Services) -> Reply:
    """Take memories in, with their ids, vectors, times and history."""
    assert exchange.parts is not None
    try:
        reply = await _imported(exchange, exchange.parts, services)
    except MemfastError:
        await _hear_out(exchange.parts)
        raise
    await _hear_out(exchange.parts)
    return reply


async def _hear_out(parts: AsyncGenerator[bytes, None]) -> None:
    """Take what is on its way: a connection that is closed before takes the answer with it."""
    taken = 0
    with suppress(MemfastError, TimeoutError):
        async with asyncio.timeout(_HEARD_S):
            async for part in parts:
                taken += len(part)
                if taken >= _HEARD_BYTES:
                    break


_HEARD_S = 0.2
"""How long an import that is over waits for the rest of its body, in seconds."""

_HEARD_BYTES = 256 * 1024
"""How much of it it takes."""


async def _imported(exchange: Exchange, parts: AsyncGenerator[bytes, None], services: Services) -> Reply:
    parameters = exchange.parameters(ImportParameters)
    if read_key(exchange) is not None:
        detail = "Idempotency-Key: an import takes none; its lines have ids, and are taken in once however often sent"
        raise InvalidRequest(detail, path="Idempotency-Key")
    require_lines(exchange.headers.get(b"content-type", b""))
    if parameters.user_id is not None:
        exchange.scope(services.limits.user_id(parameters.user_id, "user_id"))
    principal = exchange.principal
    options = ImportOptions(
        **msgspec.structs.asdict(parameters), actor=None if principal.role == "admin" else principal.key_id
    )
    report = await services.imports.take_in(parts, exchange.scope, options)
    counts = {name: getattr(report, name) for name in _COUNTS}
    problems = [ImportProblem(each.line, problem(each.error)) for each in report.first_errors]
    return exchange.reply(ImportAnswer(problems=problems, **counts))


_COUNTS = [name for name in ImportAnswer.__struct_fields__ if name != "problems"]

ROUTES = (
    Route(
        method="GET",
        path="/v1/export",
        endpoint=export_lines,
        summary="Export a user, or with an admin key the namespace, as lines of JSON",
        group="transfer",
        parameters=ExportParameters,
        answers={200: Success(str, "a header, one line a memory and event, a trailer", media_types=(NDJSON.decode(),))},
        streams=True,
    ),
    Route(
        method="POST",
        path="/v1/import",
        endpoint=import_lines,
        summary="Import lines of JSON, of an export or of mem0",
        group="transfer",
        parameters=ImportParameters,
        answers={
            200: Success(ImportAnswer, "what became of them; a line that cannot be taken in does not stop the rest")
        },
        streams=True,
    ),
)
