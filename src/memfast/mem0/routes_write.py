"""Storing, changing and deleting memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET

from memfast.bootstrap import Services
from memfast.claims import Claim, Written
from memfast.errors import Conflict, InvalidRequest, NotFound, PreconditionFailed
from memfast.http.claims import read_key, write_once
from memfast.http.codec import BodyDecoder, encode_json
from memfast.http.exchange import Exchange, Reply
from memfast.mem0.entities import FIELDS, Entities, read_name
from memfast.mem0.scopes import owned_by, require_bare_query, require_project, scope_of, scopes_of
from memfast.mem0.wire import (
    AddRequest,
    BatchDeleteRequest,
    BatchUpdateRequest,
    DeleteParameters,
    FeedbackRequest,
    Message,
    Shown,
    UpdateRequest,
    read_entities,
    show,
)
from memfast.model import Memory, Outcome, Scope
from memfast.service.mem0 import OWN, read_expiry, read_moment
from memfast.service.remember import Changes, Draft, Edit

__all__ = ["add", "batch_delete", "batch_update", "delete", "feedback", "update"]

_add_body = BodyDecoder(AddRequest)
_update_body = BodyDecoder(UpdateRequest)
_batch_update_body = BodyDecoder(BatchUpdateRequest)
_batch_delete_body = BodyDecoder(BatchDeleteRequest)
_feedback_body = BodyDecoder(FeedbackRequest)

_ATTEMPTS = 3
"""How often a change is made anew that another one has overtaken."""

_VERBATIM = "infer: every message is stored word for word; this service has no extractor"
_FEEDBACK = ("POSITIVE", "NEGATIVE", "VERY_NEGATIVE")


async def add(exchange: Exchange, services: Services) -> Reply:
    """Store what was said, each message as one memory."""
    require_bare_query(exchange)
    request = exchange.read(_add_body)
    require_project(exchange, request.project_id)
    entities = _entities_of(request)
    owner = entities.owner
    if owner is None:
        raise InvalidRequest("$: must name a user_id, agent_id, app_id or run_id", path="$")
    scope = scope_of(exchange, services, owner)
    drafts = _drafts(services, request, entities)

    async def work(claim: Claim | None) -> list[Outcome]:
        actor = exchange.principal.key_id
        outcomes = await services.remember.create_many([(scope, draft) for draft in drafts], actor=actor, claim=claim)
        services.directory.note(scope.id, [str(outcome.id) for outcome in outcomes])
        return _made(outcomes)

    def shown(kept: bytes) -> bytes:
        return encode_json(_added(request, [draft.text for draft in drafts], msgspec.json.decode(kept)))

    return await write_once(exchange, services, scope, work, _stored, shown)


def _stored(outcomes: Sequence[Outcome]) -> Written:
    """What is kept of an answer under a key: the ids alone, so that nothing has to be erased there."""
    return Written(200, outcomes[-1].scope_version, encode_json([outcome.id for outcome in outcomes]))


def _added(request: AddRequest, texts: Sequence[str], ids: Sequence[str]) -> Any:
    results = [
        {"id": memory_id, "memory": text, "event": "ADD", "data": {"memory": text}}
        for memory_id, text in zip(ids, texts, strict=True)
    ]
    if request.bare:
        return results
    warnings = [*([] if request.infer is False else [_VERBATIM]), *request.ignored()]
    answer = {
        "message": "Memories were stored word for word",
        "status": "SUCCEEDED",
        "event_id": ids[0],
        "results": results,
    }
    return answer | ({"warnings": warnings} if warnings else {})


def _entities_of(request: AddRequest) -> Entities:
    """The entities beside the messages, or below `filters`, where the client's options put them."""
    entities = read_entities(request, "$.")
    for field, value in (request.filters or {}).items():
        path = f"$.filters.{field}"
        if field not in FIELDS:
            raise InvalidRequest(f"{path}: only {', '.join(FIELDS)} can stand here", path=path)
        name = read_name(value, path)
        if getattr(entities, field) not in {None, name}:
            raise InvalidRequest(f"{path}: is another one than $.{field}", path=path)
        entities = msgspec.structs.replace(entities, **{field: name})
    return entities


def _drafts(services: Services, request: AddRequest, entities: Entities) -> list[Draft]:
    """A memory for each message that says something; the system's say how to talk, not what to remember."""
    said = [
        (message, services.limits.text(text, f"$.messages[{place}].content"))
        for place, message in enumerate(request.messages)
        if message.role != "system" and (text := _text(message, f"$.messages[{place}].content")).strip()
    ]
    if not said:
        raise InvalidRequest("$.messages: none of them says anything", path="$.messages")
    services.limits.items(len(said), "$.messages")
    rest = entities.rest
    own: dict[str, Any] = {"immutable": True} if request.immutable else {}
    if "app_id" in rest:
        own["app_id"] = rest["app_id"]
    created_at, expires_at = _moment(request.timestamp), read_expiry(request.expiration_date)
    return [
        Draft(
            text=text,
            tags=request.categories or (),
            agent_id=rest.get("agent_id"),
            run_id=rest.get("run_id"),
            metadata=_with_own(request.metadata, own | _speaker(message)),
            created_at=created_at,
            expires_at=expires_at,
        )
        for message, text in said
    ]


def _text(message: Message, path: str) -> str:
    """What a message says; of its parts only text can be kept."""
    if not isinstance(message.content, list):
        return message.content or ""
    texts = []
    for place, part in enumerate(message.content):
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            where = f"{path}[{place}]"
            raise InvalidRequest(f"{where}: only parts of type text can be stored", path=where)
        texts.append(part["text"])
    return "\n".join(texts)


def _speaker(message: Message) -> dict[str, str]:
    return {"role": message.role} | ({} if message.name is None else {"actor_id": message.name})


def _with_own(metadata: dict[str, Any] | None, own: dict[str, Any]) -> dict[str, Any]:
    """Metadata as it is stored: what has no place of its own stands below a key that clients cannot set."""
    if metadata is not None and OWN in metadata:
        raise InvalidRequest(f"$.metadata.{OWN}: the key is the service's own", path=f"$.metadata.{OWN}")
    return {**(metadata or {}), **({OWN: own} if own else {})}


def _moment(value: float | str | None) -> datetime | None:
    """A time in seconds since 1970, or as text."""
    if value is None or isinstance(value, str):
        return read_moment(value, "timestamp")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise InvalidRequest("$.timestamp: must be seconds since 1970", path="$.timestamp") from error


async def update(exchange: Exchange, services: Services, memory_id: str) -> Reply:
    """Change a memory."""
    require_bare_query(exchange)
    request = exchange.read(_update_body)
    target, scope = await owned_by(exchange, services, memory_id)

    def changes(memory: Memory) -> Changes:
        return _changes(memory, request)

    return await _changed(exchange, services, scope, target, changes, lambda shown: shown)


async def feedback(exchange: Exchange, services: Services) -> Reply:
    """Keep with a memory what its user thinks of it."""
    require_bare_query(exchange)
    request = exchange.read(_feedback_body)
    if request.feedback not in {None, *_FEEDBACK}:
        raise InvalidRequest(f"$.feedback: must be one of {', '.join(_FEEDBACK)}, or null", path="$.feedback")
    target, scope = await owned_by(exchange, services, request.memory_id)
    said = {"feedback": request.feedback, "feedback_reason": request.feedback_reason}

    def changes(memory: Memory) -> Changes:
        metadata = msgspec.json.decode(memory.metadata)
        own = {name: value for name, value in (_own(metadata) | said).items() if value is not None}
        metadata.pop(OWN, None)
        return Changes(metadata={**metadata, **({OWN: own} if own else {})})

    return await _changed(exchange, services, scope, target, changes, lambda _shown: {"id": str(target), **said})


async def _changed(
    exchange: Exchange,
    services: Services,
    scope: Scope,
    target: UUID,
    changes: Callable[[Memory], Changes],
    answer: Callable[[dict[str, Any]], dict[str, Any]],
) -> Reply:
    """The answer to a change that depends on what the memory is: the change is of the version that was read."""

    async def attempt(claim: Claim | None) -> Outcome:
        found = await services.recall.get_many(scope, [target])
        if not found.memories:
            raise NotFound(f"there is no memory with the id {target}")
        memory = found.memories[0]
        expected = frozenset({memory.version})
        actor = exchange.principal.key_id
        return await services.remember.update(
            scope, target, changes(memory), expected_versions=expected, actor=actor, claim=claim
        )

    async def work(claim: Claim | None) -> list[Outcome]:
        for _ in range(_ATTEMPTS):
            try:
                return [await attempt(claim)]
            except PreconditionFailed:
                continue
        raise Conflict(f"the memory {target} is changed by others all the time; send the change again")

    def told(outcomes: Sequence[Outcome]) -> Written:
        memory = msgspec.json.decode(encode_json(outcomes[0].memory), type=Shown)
        return Written(200, outcomes[0].scope_version, encode_json(answer(show(memory))), shows=target)

    return await write_once(exchange, services, scope, work, told)


def _own(metadata: dict[str, Any]) -> dict[str, Any]:
    own = metadata.get(OWN)
    return own if isinstance(own, dict) else {}


def _changes(memory: Memory, request: UpdateRequest) -> Changes:
    """What a client wants changed of a memory. Keys of the metadata are set, those that are not named stay."""
    if request.timestamp is not None:
        raise InvalidRequest("$.timestamp: when a memory was made cannot be changed", path="$.timestamp")
    metadata = msgspec.json.decode(memory.metadata)
    own = _own(metadata)
    if own.get("immutable") is True:
        raise InvalidRequest(f"the memory {memory.id} is immutable: delete it and add another")
    expiry = request.expiration_date
    return Changes(
        text=UNSET if request.text is None else request.text,
        tags=UNSET if request.categories is None else request.categories,
        metadata=UNSET if request.metadata is None else {**metadata, **_with_own(request.metadata, own)},
        expires_at=read_expiry(expiry) if isinstance(expiry, str | None) else UNSET,
    )


async def delete(exchange: Exchange, services: Services, memory_id: str) -> Reply:
    """Delete a memory; doing so again is no error while the deletion is remembered."""
    parameters = exchange.parameters(DeleteParameters)
    require_project(exchange, parameters.project_id)
    target, scope = await owned_by(exchange, services, memory_id)

    async def work(claim: Claim | None) -> list[Outcome]:
        actor = exchange.principal.key_id
        return [await services.forget.delete(scope, target, expected_versions=None, actor=actor, claim=claim)]

    linked = (parameters.delete_linked or "").lower() == "true"  # nothing is superseded here: there is one version
    answer = {"message": "Memory deleted successfully!"} | ({"cascade_count": 0} if linked else {})
    return await write_once(
        exchange, services, scope, work, lambda outcomes: Written(200, outcomes[0].scope_version, encode_json(answer))
    )


async def batch_update(exchange: Exchange, services: Services) -> Reply:
    """Change memories in one transaction: all of them, or none where one cannot be changed."""
    require_bare_query(exchange)
    _refuse_key(exchange)
    request = exchange.read(_batch_update_body)
    require_project(exchange, request.project_id)
    services.limits.items(len(request.memories), "$.memories")
    ids = _distinct(exchange, [item.memory_id for item in request.memories])
    scopes = await scopes_of(exchange, services, ids)
    memories = await _memories(services, scopes, ids)
    edits = [
        Edit(
            scope=scopes[target],
            id=target,
            changes=_changes(memories[target], item),
            expected_versions=frozenset({memories[target].version}),
            path=f"$.memories[{place}]",
        )
        for place, (target, item) in enumerate(zip(ids, request.memories, strict=True))
    ]
    _made(await services.remember.update_many(edits, actor=exchange.principal.key_id))
    return exchange.reply({"message": f"Successfully updated {len(ids)} memories"})


async def batch_delete(exchange: Exchange, services: Services) -> Reply:
    """Delete memories, in one transaction for each user."""
    require_bare_query(exchange)
    _refuse_key(exchange)
    request = exchange.read(_batch_delete_body)
    require_project(exchange, request.project_id)
    services.limits.items(len(request.memories), "$.memories")
    ids = _distinct(exchange, [item.memory_id for item in request.memories])
    scopes = await scopes_of(exchange, services, ids)
    by_scope: dict[Scope, list[UUID]] = {}
    for target in ids:
        by_scope.setdefault(scopes[target], []).append(target)
    for scope, targets in by_scope.items():
        _made(await services.forget.delete_many(scope, targets, actor=exchange.principal.key_id))
    return exchange.reply({"message": f"Successfully deleted {len(ids)} memories"})


def _refuse_key(exchange: Exchange) -> None:
    if read_key(exchange) is not None:
        raise InvalidRequest("Idempotency-Key: a batch takes none here; repeat it as it is", path="Idempotency-Key")


def _distinct(exchange: Exchange, texts: Sequence[str]) -> list[UUID]:
    """The ids of a batch, none of them twice."""
    ids = [exchange.path_id(text) for text in texts]
    if len(set(ids)) != len(ids):
        raise InvalidRequest("$.memories: names a memory twice", path="$.memories")
    return ids


async def _memories(services: Services, scopes: dict[UUID, Scope], ids: Sequence[UUID]) -> dict[UUID, Memory]:
    """The memories of a batch as they are now."""
    found: dict[UUID, Memory] = {}
    for scope in set(scopes.values()):
        own = [target for target in ids if scopes[target] == scope]
        read = await services.recall.get_many(scope, own)
        if read.missing:
            raise NotFound(f"there is no memory with the id {read.missing[0]}")
        found |= {memory.id: memory for memory in read.memories}
    return found


def _made(outcomes: list[Outcome]) -> list[Outcome]:
    """Outcomes of changes that were all made, else the first refusal."""
    for outcome in outcomes:
        if outcome.refused is not None:
            raise outcome.refused
    return outcomes
