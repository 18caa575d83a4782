"""Whose memories a request is about, and how new what it reads must be."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from memfast.bootstrap import Services
from memfast.errors import Forbidden, NotFound
from memfast.http.exchange import Exchange
from memfast.mem0.wire import Parameters
from memfast.model import Scope
from memfast.service.freshness import Demand

__all__ = ["demand_of", "owned_by", "read_by", "require_bare_query", "require_project", "scope_of", "scopes_of"]


def scope_of(exchange: Exchange, services: Services, owner: str) -> Scope:
    """The scope of an owner, as far as the key reaches."""
    return exchange.scope(services.limits.user_id(owner, "user_id"))


async def scopes_of(exchange: Exchange, services: Services, ids: Sequence[UUID]) -> dict[UUID, Scope]:
    """Whose memories these are. mem0 names a memory by its id alone; a key of one user means that user's.

    Raises:
        NotFound: nobody whom the key reaches has one of them.
        Conflict: several do.
    """
    principal = exchange.principal
    if principal.user_id is not None:
        own = exchange.scope(principal.user_id)
        return dict.fromkeys(ids, own)
    owners = await services.directory.owners(principal.namespace, ids)
    for target in ids:
        if target not in owners:
            raise NotFound(f"there is no memory with the id {target}")
    return {target: exchange.scope(owner) for target, owner in owners.items()}


async def owned_by(exchange: Exchange, services: Services, memory_id: str) -> tuple[UUID, Scope]:
    """The id in a path or a body, and whose it is."""
    target = exchange.path_id(memory_id)
    return target, (await scopes_of(exchange, services, [target]))[target]


async def read_by(exchange: Exchange, services: Services, memory_id: str) -> tuple[UUID, Scope]:
    """The same for a request that changes nothing: what was shown before is found without asking for every user.

    Raises:
        NotFound: nobody whom the key reaches has it.
        Conflict: several do, and none was shown before.
    """
    target, principal = exchange.path_id(memory_id), exchange.principal
    if principal.user_id is not None:
        return target, exchange.scope(principal.user_id)
    owner = await services.directory.reader(principal.namespace, target)
    if owner is None:
        raise NotFound(f"there is no memory with the id {target}")
    scope = exchange.scope(owner)
    services.directory.note(scope.id, [str(target)])
    return target, scope


def demand_of(exchange: Exchange, services: Services) -> Demand | None:
    """What a read asks for: mem0's clients send no tokens, so with several hosts each read is of the newest state."""
    asked = exchange.demand(None, None)
    return Demand(None, strong=True) if asked is None and services.coherence.cluster else asked


def require_project(exchange: Exchange, project_id: str | None) -> None:
    """Refuse a request that means another project than the key's.

    Raises:
        Forbidden: it does.
    """
    if project_id not in {None, exchange.principal.namespace}:
        raise Forbidden(f"project_id: the API key belongs to {exchange.principal.namespace!r}", path="project_id")


def require_bare_query(exchange: Exchange) -> None:
    """Check the query string of a request that asks for nothing by it."""
    require_project(exchange, exchange.parameters(Parameters).project_id)
