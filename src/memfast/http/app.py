"""The Litestar application: every route, its document, and the edge around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any

import msgspec
from litestar import Litestar, Request, Response
from litestar.config.app import AppConfig
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.plugins import PluginProtocol
from litestar.types import ASGIApp, Scope

from memfast.bootstrap import Ground, Services, Succession, open_meter, open_spans
from memfast.config import Config, LimitsConfig
from memfast.errors import InvalidRequest, MemfastError, MethodNotAllowed, NotFound
from memfast.http import (
    routes_admin,
    routes_batch,
    routes_entities,
    routes_history,
    routes_links,
    routes_memory,
    routes_metrics,
    routes_search,
    routes_settings,
    routes_transfer,
    routes_users,
)
from memfast.http.dashboard import dashboard_pages
from memfast.http.edge import EXCHANGE, SERVICES, Edge
from memfast.http.exchange import Exchange, Reply
from memfast.http.measures import operations_of
from memfast.http.openapi import build_document, build_page
from memfast.http.problems import INTERNAL_ERROR, problem_reply
from memfast.http.routing import Route, Surface
from memfast.http.spans import TracedMeasures
from memfast.resilience.clock import SystemClock

__all__ = ["ROUTES", "build_app"]

ROUTES: tuple[Route, ...] = (
    *routes_memory.ROUTES,
    *routes_batch.ROUTES,
    *routes_history.ROUTES,
    *routes_entities.ROUTES,
    *routes_links.ROUTES,
    *routes_search.ROUTES,
    *routes_transfer.ROUTES,
    *routes_users.ROUTES,
    *routes_admin.ROUTES,
    *routes_metrics.ROUTES,
    *routes_settings.ROUTES,
)


class _Application(Litestar):
    """Litestar without the plugins that it adds by itself, and without its look for its own tracing.

    They are for handlers that take or return pydantic or attrs models, of which there are none here, and looking for
    them imports pydantic into every worker: 0.15 s of its start. The look imports OpenTelemetry where it is installed.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return plugins

    @staticmethod
    def _patch_opentelemetry_middleware(config: AppConfig) -> AppConfig:
        return config


def build_app(site: Ground, surfaces: Sequence[Surface] = ()) -> Edge:
    """The ASGI application of one worker, with other protocols beside its own.

    Its lifespan opens the services and closes them; until then nothing is served.
    """
    pages = {**_schema_pages(site.config.limits), **dashboard_pages()}
    holder: list[Edge] = []

    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        operations = operations_of(ROUTES, [*pages], surfaces)
        with open_meter(site, operations) as meter:
            async with open_spans(site.config, meter) as spans:
                if spans is not None:
                    holder[0].measuring = partial(TracedMeasures, *spans)
                succession = Succession(site, meter, holder[0].serving)
                holder[0].following = succession.after
                async with succession.running():
                    yield

    handlers = [_fixed(path, *page) for path, page in pages.items()]
    application = _Application(
        route_handlers=[*(_handler(route, holder, number) for number, route in enumerate(ROUTES)), *handlers],
        lifespan=[lifespan],
        exception_handlers={HTTPException: _http_exception, Exception: _exception},
        openapi_config=None,
        logging_config=None,
    )
    holder.append(
        Edge(
            application,
            ROUTES,
            [*pages],
            _public(site.config),
            site.config.server,
            site.config.log,
            SystemClock(),
            surfaces,
        )
    )
    return holder[0]


@cache
def _schema_pages(limits: LimitsConfig) -> Mapping[str, tuple[bytes, bytes]]:
    """The OpenAPI document and the page that shows it, by path: each a media type and a body."""
    document = build_document(ROUTES, limits)
    return {
        "/schema/openapi.json": (b"application/json", msgspec.json.encode(document)),
        "/schema": (b"text/html; charset=utf-8", build_page(document).encode()),
    }


def _public(config: Config) -> tuple[str, ...]:
    """Where no key is asked for: health, the page, and the metrics where nobody else can come, or everybody may."""
    always = ("/v1/health", *dashboard_pages())
    return (*always, routes_metrics.PATH) if config.server.is_local or config.metrics.public else always


def _handler(route: Route, edge: list[Edge], number: int) -> HTTPRouteHandler:
    path = route.path.replace("{memory_id}", "{memory_id:str}").replace("{user_id}", "{user_id:str}")

    async def handle(scope: Scope) -> ASGIApp:
        exchange: Exchange = scope[EXCHANGE]  # type: ignore[literal-required]
        services: Services = scope[SERVICES]  # type: ignore[literal-required]
        if not scope["path_params"] and "%" in exchange.path:  # e.g. %2F, which the router takes for a trailing slash
            raise _no_route(exchange.path)
        exchange.operation = number
        return await edge[0].answer(route.endpoint, exchange, services, **scope["path_params"])

    handle.__name__ = route.endpoint.__name__
    return HTTPRouteHandler(path, http_method=route.method, status_code=200, include_in_schema=False)(handle)


def _fixed(path: str, content_type: bytes, body: bytes) -> HTTPRouteHandler:
    async def handle(scope: Scope) -> ASGIApp:
        exchange: Exchange = scope[EXCHANGE]  # type: ignore[literal-required]
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        return Reply(200, headers + exchange.standard_headers(), body)

    return HTTPRouteHandler(path, http_method="GET", include_in_schema=False)(handle)


def _exception(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """What a route raised: ours become problems, anything else goes on to the edge, which logs it."""
    if not isinstance(error, MemfastError):
        raise error
    return _response(request, error)


def _http_exception(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """What the router raised."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = _exchange(request).path
    translated: dict[int, Callable[[], MemfastError]] = {
        404: lambda: _no_route(path),
        405: lambda: MethodNotAllowed(f"{request.method} is not a method of {path}; GET /schema lists them"),
        500: lambda: INTERNAL_ERROR,
    }
    default = InvalidRequest(str(getattr(error, "detail", "")) or "the request is not valid")
    return _response(request, translated.get(status, lambda: default)())


def _no_route(path: str) -> NotFound:
    return NotFound(f"there is no route {path}; GET /schema lists them")


def _exchange(request: Request[Any, Any, Any]) -> Exchange:
    exchange: Exchange = request.scope[EXCHANGE]  # type: ignore[literal-required]
    return exchange


def _response(request: Request[Any, Any, Any], error: MemfastError) -> Response[bytes]:
    exchange = _exchange(request)
    reply = problem_reply(error, exchange.standard_headers(), exchange.path)
    exchange.status = reply.status
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reply.headers}
    return Response(reply.body, status_code=reply.status, headers=headers, media_type="application/problem+json")
