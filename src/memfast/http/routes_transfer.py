"""Routes that give everything out and take it in, as streams of lines."""

from __future__ import annotations

import msgspec

from memfast.bootstrap import Services
from memfast.errors import InvalidRequest
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
    assert exchange.parts is not None
    report = await services.imports.take_in(exchange.parts, exchange.scope, options)
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
