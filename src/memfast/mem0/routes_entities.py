"""Who has memories, and forgetting them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from memfast.bootstrap import Services
from memfast.claims import Claim, Written
from memfast.errors import InvalidRequest, NotFound
from memfast.http.claims import write_once
from memfast.http.codec import encode_json
from memfast.http.exchange import Exchange, Reply
from memfast.mem0.entities import FIELDS, KINDS, entity_of, native_field, owner_of, read_name
from memfast.mem0.scopes import require_bare_query, require_project, scope_of
from memfast.mem0.wire import DeleteAllParameters, PageParameters, read_entities
from memfast.model import ForgetReceipt, Scope, User

__all__ = ["ENTITIES_MAX", "delete_all", "forget_entity", "list_entities", "list_entities_plainly"]

ENTITIES_MAX = 10_000
"""Entities that one answer tells; the client's `reset` deletes those, and must not believe that they are all."""

_PAGE = 1000


async def list_entities(exchange: Exchange, services: Services) -> Reply:
    """The owners of memories, as mem0's platform tells them."""
    asked = exchange.parameters(PageParameters)
    require_project(exchange, asked.project_id)
    entities = [_entity(user) for user in await _users(exchange, services)]
    counts = Counter(entity["type"] for entity in entities)
    page, size = asked.page or 1, asked.page_size
    shown = entities if size is None else entities[(page - 1) * services.limits.page(size, "page_size") : page * size]
    totals = {f"total_{kind}s": counts[kind] for kind in KINDS}
    return exchange.reply({"count": len(entities), "next": None, "previous": None, "results": shown, **totals})


async def list_entities_plainly(exchange: Exchange, services: Services) -> Reply:
    """The same as the open-source server tells them."""
    require_bare_query(exchange)
    return exchange.reply([_entity(user) for user in await _users(exchange, services)])


async def _users(exchange: Exchange, services: Services) -> list[User]:
    """The users whom the key reaches.

    Raises:
        InvalidRequest: there are more than one answer tells.
    """
    principal = exchange.principal
    if principal.user_id is not None:
        try:
            return [await services.directory.get(exchange.scope(principal.user_id))]
        except NotFound:
            return []
    users: list[User] = []
    cursor: str | None = None
    while len(users) <= ENTITIES_MAX:
        page = await services.directory.list(principal.namespace, limit=_PAGE, cursor=cursor)
        users.extend(page.users)
        cursor = page.next_cursor
        if cursor is None:
            return users
    raise InvalidRequest(f"there are more than {ENTITIES_MAX} entities; GET /v1/users lists them by pages")


def _entity(user: User) -> dict[str, Any]:
    kind, name = entity_of(user.user_id)
    return {
        "id": name,
        "name": name,
        "type": kind,
        "owner": None,
        "metadata": {},
        "total_memories": user.memories,
        "created_at": user.created_at,
        "updated_at": user.updated_at,
    }


async def forget_entity(exchange: Exchange, services: Services, kind: str, name: str) -> Reply:
    """Erase everything that an entity owns, and the entity."""
    require_bare_query(exchange)
    if kind not in KINDS:
        raise NotFound(f"there is no kind {kind!r} of entities; there are {', '.join(KINDS)}")
    scope = scope_of(exchange, services, owner_of(kind, read_name(name, f"{kind}_id")))
    return await _forget(exchange, services, scope, lambda _count: {"message": "Entity deleted successfully!"})


async def delete_all(exchange: Exchange, services: Services) -> Reply:
    """Erase what an entity owns, or what of it another one has to do with. Nothing stays in history.

    It takes names of entities and nothing else: what is not understood must not widen a deletion.
    """
    asked = exchange.parameters(DeleteAllParameters)
    require_project(exchange, asked.project_id)
    entities = read_entities(asked, "")
    if entities.owner is None:
        names = ", ".join(FIELDS)
        raise InvalidRequest(f"the request must say whose memories go: by {names}, in the query string", path="user_id")
    scope = scope_of(exchange, services, entities.owner)
    rest = {native_field(FIELDS[field]): name for field, name in entities.rest.items()}

    def told(count: int) -> dict[str, Any]:
        return {"message": "Memories deleted successfully!", "deleted": count}

    if not rest:
        try:
            return await _forget(exchange, services, scope, told)
        except NotFound:
            return exchange.reply(told(0))
    deleted, more = 0, True
    while more:  # each step deletes, so they come to an end; the request's time bounds them
        done = await services.forget.delete_matching(scope, rest, purge=True, actor=exchange.principal.key_id)
        deleted, more = deleted + done.deleted, done.has_more
    return exchange.reply(told(deleted), version=done.version)


async def _forget(exchange: Exchange, services: Services, scope: Scope, told: Callable[[int], dict[str, Any]]) -> Reply:
    async def work(claim: Claim | None) -> ForgetReceipt:
        return await services.forget.user(scope, claim=claim)

    def kept(receipt: ForgetReceipt) -> Written:
        return Written(200, receipt.version, encode_json(told(receipt.memories)))

    return await write_once(exchange, services, scope, work, kept)
