"""Settings that can be changed while the service runs."""

from __future__ import annotations

from memfast.bootstrap import Services
from memfast.errors import ConfigError, InvalidRequest
from memfast.http.codec import BodyDecoder
from memfast.http.exchange import Exchange, Reply
from memfast.http.routing import Route, Success
from memfast.http.wire_settings import LiveSetting, LiveSettings, SettingsAnswer

__all__ = ["ROUTES"]

_body = BodyDecoder(LiveSettings)


async def show(exchange: Exchange, services: Services) -> Reply:
    """What can be changed, what it is, and what it was at the start."""
    exchange.principal.require_admin()
    return _told(exchange, services)


async def change(exchange: Exchange, services: Services) -> Reply:
    """Change some of it in all workers, until the service stops: each takes it up within a moment."""
    exchange.principal.require_admin()
    try:
        services.tuning.order(exchange.read(_body).ordered())
    except ConfigError as error:
        raise InvalidRequest(f"$: {error}", path="$") from error
    return _told(exchange, services)


def _told(exchange: Exchange, services: Services) -> Reply:
    values = services.tuning.values()
    return exchange.reply(SettingsAnswer({key: LiveSetting(*pair) for key, pair in values.items()}))


ROUTES = (
    Route(
        method="GET",
        path="/v1/settings",
        endpoint=show,
        summary="Settings that can be changed while the service runs",
        group="settings",
        answers={200: Success(SettingsAnswer, "what they are, and what they were at the start")},
    ),
    Route(
        method="PATCH",
        path="/v1/settings",
        endpoint=change,
        summary="Change settings of all workers, until the service stops",
        group="settings",
        body=LiveSettings,
        answers={200: Success(SettingsAnswer, "what they are now")},
    ),
)
