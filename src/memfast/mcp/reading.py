"""Tools that read."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, Struct

from memfast.errors import MemfastError, NotFound
from memfast.links import Walk
from memfast.mcp.budget import Preview, fit, fitting, shorten, tokens_of
from memfast.mcp.calls import Call
from memfast.mcp.wire import (
    FoundMemories,
    FoundMemory,
    FullMemory,
    GetArguments,
    ListArguments,
    ListedMemories,
    RecallArguments,
    RelatedArguments,
    RelatedMemories,
    RelatedMemory,
    StatusAnswer,
    StatusArguments,
)
from memfast.model import Memory
from memfast.service.question import Query
from memfast.service.recall import ListQuery

__all__ = ["get", "list_memories", "recall", "related", "status"]

_FRAME_TOKENS = 130
"""What stands around the memories of an answer takes less."""

_REASON_TOKENS = 100
_DAY = 10
_WEIGHT_PLACES = 6

_encode = msgspec.json.Encoder().encode


class _Hit(Struct):
    id: UUID
    text: str
    created_at: str
    score: float


class _Hits(Struct):
    results: list[_Hit]
    degraded: list[str]


class _Neighbour(Struct):
    id: UUID
    text: str
    created_at: str
    depth: int
    weight: float


class _Neighbours(Struct):
    results: list[_Neighbour]


_hits = msgspec.json.Decoder(_Hits)
_neighbours = msgspec.json.Decoder(_Neighbours)
_memory = msgspec.json.Decoder(Memory)


async def recall(call: Call, asked: RecallArguments) -> FoundMemories:
    """Search."""
    services, scope = call.services, call.scope(asked.user_id)
    room = asked.max_tokens - _FRAME_TOKENS
    query = Query(text=asked.query, limit=fitting(asked.limit, room), filter=asked.filter)
    answer, _ = await call.read(scope, lambda: services.search.find(scope, query, "json"))
    found = _hits.decode(answer.body)
    memories = [
        FoundMemory(id=hit.id, text=hit.text, created_at=hit.created_at[:_DAY], score=hit.score)
        for hit in found.results
    ]
    return FoundMemories(memories=shorten(memories, room), degraded=found.degraded)


async def get(call: Call, asked: GetArguments) -> FullMemory:
    """All of one memory, as far as there is room."""
    services, scope = call.services, call.scope(asked.user_id)
    answer, _ = await call.read(scope, lambda: services.recall.get(scope, asked.id, "json"))
    return full_memory(_memory.decode(answer.body), asked.offset, asked.max_tokens)


def full_memory(memory: Memory, offset: int, max_tokens: int) -> FullMemory:
    """A memory whose JSON takes at most so many tokens: its text from an offset on, and what of the rest has room."""
    bare = FullMemory(
        id=memory.id,
        text="",
        created_at=memory.created_at,
        updated_at=memory.updated_at,
        version=memory.version,
        importance=memory.importance,
    )
    room = max_tokens - tokens_of(_encode(bare)) - _FRAME_TOKENS
    rest = memory.text[offset:]
    for_details = max(room - tokens_of(_encode(rest)), room // 2)
    details: dict[str, Any] = {}
    left_out: list[str] = []
    for name in _DETAILS:
        value = getattr(memory, name)
        if value in (None, [], Raw(b"{}")):
            continue
        size = tokens_of(_encode({name: value})) + 1
        if size > for_details:
            left_out.append(name)
        else:
            details[name] = value
            for_details -= size
            room -= size
    text = fit(rest, room)
    return msgspec.structs.replace(
        bare,
        text=text,
        next_offset=offset + len(text) if len(text) < len(rest) else UNSET,
        left_out=left_out or UNSET,
        **details,
    )


_DETAILS = ("expires_at", "kind", "tags", "source", "agent_id", "run_id", "entities", "metadata")


async def list_memories(call: Call, asked: ListArguments) -> ListedMemories:
    """One page by time."""
    scope, room = call.scope(asked.user_id), asked.max_tokens - _FRAME_TOKENS * 2
    query = ListQuery(
        limit=fitting(asked.limit, room), cursor=asked.cursor, filter=asked.filter, ascending=asked.order == "oldest"
    )
    page = await call.services.recall.list(scope, query)
    memories = [Preview(id=memory.id, text=memory.text, created_at=day(memory.created_at)) for memory in page.memories]
    return ListedMemories(memories=shorten(memories, room), next_cursor=page.next_cursor)


def day(moment: datetime) -> str:
    """The day of a time in UTC."""
    return moment.date().isoformat()


async def related(call: Call, asked: RelatedArguments) -> RelatedMemories:
    """Follow links."""
    services, scope = call.services, call.scope(asked.user_id)
    room = asked.max_tokens - _FRAME_TOKENS
    walk = Walk(start=asked.id, depth=asked.depth, limit=fitting(asked.limit, room), type=asked.type)
    answer, _ = await call.read(scope, lambda: services.links.related(scope, walk, "json"))
    memories = [
        RelatedMemory(
            id=each.id,
            text=each.text,
            created_at=each.created_at[:_DAY],
            depth=each.depth,
            weight=round(each.weight, _WEIGHT_PLACES),
        )
        for each in _neighbours.decode(answer.body).results
    ]
    return RelatedMemories(memories=shorten(memories, room))


async def status(call: Call, asked: StatusArguments) -> StatusAnswer:
    """The state of the service, and how much it knows of the user."""
    services = call.services
    report, standing = await services.health.report(), services.modes.standing()
    user_id = None if asked.user_id is None and call.fixed_user() is None else call.user(asked.user_id)
    memories: int | None = None
    if user_id is not None:
        try:
            memories = (await services.directory.get(call.exchange.scope(user_id))).memories
        except NotFound:
            memories = 0
        except MemfastError:  # the database is away, which the rest of the answer tells
            memories = None
    return StatusAnswer(
        ready=report.status == "ready",
        mode=standing.mode,
        reason=fit(report.problem or standing.reason, _REASON_TOKENS),
        user_id=user_id,
        memories=memories,
    )
