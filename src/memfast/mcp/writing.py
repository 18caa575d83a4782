"""Tools that write."""

from __future__ import annotations

import msgspec

from memfast.errors import InvalidRequest, NotFound
from memfast.mcp.calls import Call
from memfast.mcp.wire import (
    ForgetArguments,
    Forgotten,
    RelateArguments,
    Related,
    RememberArguments,
    Remembered,
    UpdateArguments,
    Updated,
)
from memfast.model import Scope
from memfast.service.links import LinkDraft
from memfast.service.remember import Changes, Draft

__all__ = ["forget", "relate", "remember", "update"]

_TOLD_IDS = 10

_CHANGED = tuple(set(Changes.__struct_fields__) & set(UpdateArguments.__struct_fields__))
_DRAFTED = tuple(set(Draft.__struct_fields__) & set(RememberArguments.__struct_fields__))
_LINKED = tuple(set(LinkDraft.__struct_fields__) & set(RelateArguments.__struct_fields__))


async def remember(call: Call, asked: RememberArguments) -> Remembered:
    """Store a memory once, however often this is called."""
    scope = call.scope(asked.user_id)
    draft = Draft(**{name: getattr(asked, name) for name in _DRAFTED}, dedupe=True)
    outcome = await call.services.remember.create(scope, draft, actor=call.actor)
    assert outcome.memory is not None
    return Remembered(
        id=outcome.memory.id,
        status="created" if outcome.status == "created" else "duplicate",
        version=outcome.memory.version,
    )


async def update(call: Call, asked: UpdateArguments) -> Updated:
    """Change what a memory says."""
    scope = call.scope(asked.user_id)
    changes = Changes(**{name: getattr(asked, name) for name in _CHANGED})
    expected = None if asked.expected_version is None else frozenset({asked.expected_version})
    outcome = await call.services.remember.update(
        scope, asked.id, changes, expected_versions=expected, actor=call.actor
    )
    assert outcome.memory is not None
    return Updated(id=outcome.memory.id, version=outcome.memory.version)


async def forget(call: Call, asked: ForgetArguments) -> Forgotten:
    """Delete one memory, those that pass a filter, or with a confirmation all of a user."""
    named = [asked.id is not None, asked.filter is not None, asked.everything]
    if sum(named) != 1:
        raise InvalidRequest("say what to forget: exactly one of id, filter and everything")
    scope = call.scope(asked.user_id)
    if asked.everything:
        return await _forget_everything(call, scope, asked.confirm)
    if asked.filter is not None:
        return await _forget_matching(call, scope, asked)
    assert asked.id is not None
    expected = None if asked.expected_version is None else frozenset({asked.expected_version})
    await call.services.forget.delete(scope, asked.id, expected_versions=expected, actor=call.actor)
    return Forgotten(forgotten=1, has_more=False, dry_run=False, ids=[asked.id])


async def _forget_matching(call: Call, scope: Scope, asked: ForgetArguments) -> Forgotten:
    if not asked.filter:
        raise InvalidRequest("filter: names no condition; everything with confirm is what forgets all", path="filter")
    done = await call.services.forget.delete_matching(scope, asked.filter, dry_run=asked.dry_run, actor=call.actor)
    return Forgotten(
        forgotten=done.matched if asked.dry_run else done.deleted,
        has_more=done.has_more,
        dry_run=asked.dry_run,
        ids=done.ids[:_TOLD_IDS],
    )


async def _forget_everything(call: Call, scope: Scope, confirm: str | None) -> Forgotten:
    if confirm != scope.user_id:
        try:
            count = (await call.services.directory.get(scope)).memories
        except NotFound:
            count = 0
        wanted = msgspec.json.encode(scope.user_id).decode()
        raise InvalidRequest(
            f"confirm: this would erase all memories of the user {wanted} for good, {count} of them. Nothing was done. "
            f"If the user asked for just that, call forget again with everything true and confirm {wanted}",
            path="confirm",
        )
    receipt = await call.services.forget.user(scope)
    return Forgotten(forgotten=receipt.memories, has_more=False, dry_run=False, ids=[])


async def relate(call: Call, asked: RelateArguments) -> Related:
    """Link two memories."""
    scope = call.scope(asked.user_id)
    draft = LinkDraft(**{name: getattr(asked, name) for name in _LINKED})
    outcome = await call.services.links.put(scope, draft, actor=call.actor)
    return Related(status="created" if outcome.status == "created" else "updated", version=outcome.scope_version)
