"""What mem0's client asks of its platform besides memories: some of it has an answer here, the rest a refusal."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from memfast.bootstrap import Services
from memfast.errors import InvalidRequest, NotFound
from memfast.http.exchange import Exchange, Reply
from memfast.http.routing import Endpoint
from memfast.mem0.entities import read_name
from memfast.mem0.scopes import require_bare_query, require_project

__all__ = ["ORGANISATION", "get_profile", "get_profile_settings", "get_project", "ping", "refusal"]

ORGANISATION = "memfast"
"""The one organisation; its projects are the namespaces of keys."""


async def ping(exchange: Exchange, _services: Services) -> Reply:
    """What the client asks when it is made: whom its key speaks for."""
    require_bare_query(exchange)
    answer = {
        "status": "ok",
        "org_id": ORGANISATION,
        "project_id": exchange.principal.namespace,
        "user_email": None,
    }
    return exchange.reply(answer)


async def get_project(exchange: Exchange, _services: Services, organisation: str, project_id: str) -> Reply:
    """The namespace as a project, without settings: there is no extractor that they could steer."""
    if organisation != ORGANISATION:
        raise NotFound(f"there is no organisation {organisation!r}; it is {ORGANISATION!r}")
    require_project(exchange, project_id)
    project: dict[str, Any] = {
        "id": project_id,
        "project_id": project_id,
        "org_id": ORGANISATION,
        "name": project_id,
        "description": None,
        "custom_instructions": None,
        "agent_custom_instructions": None,
        "custom_categories": [],
        "memory_depth": None,
        "usecase_setting": None,
        "multilingual": None,
    }
    wanted = [value for name, value in parse_qsl(exchange.query.decode("latin-1")) if name == "fields"]
    return exchange.reply({name: project.get(name) for name in wanted} if wanted else project)


async def get_profile(exchange: Exchange, _services: Services, name: str) -> Reply:
    """No user has a profile: they are made by a language model."""
    require_bare_query(exchange)
    answer = {
        "profile": None,
        "status": "not_enabled",
        "entity_type": "user",
        "entity_id": read_name(name, "user_id"),
        "updated_at": None,
        "generation_count": 0,
    }
    return exchange.reply(answer)


async def get_profile_settings(exchange: Exchange, _services: Services) -> Reply:
    """Profiles are off."""
    require_bare_query(exchange)
    return exchange.reply({"enabled": False, "capabilities": {}, "entities": {}})


def refusal(detail: str) -> Endpoint:
    """An endpoint that says why it does nothing."""

    async def refuse(_exchange: Exchange, _services: Services, **_path: str) -> Reply:
        raise InvalidRequest(detail)

    return refuse
