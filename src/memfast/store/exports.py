"""Reading a whole scope page by page, in one snapshot."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfast.links import Link
from memfast.model import Memory, Past, Scope, StoredMemory
from memfast.store.codecs import decode_vectors
from memfast.store.links import FIRST_KEY, read_link
from memfast.store.queries import TRANSFER
from memfast.store.records import read_memory

__all__ = ["read_scope"]

_PAGE_ROWS = 256
"""Rows that are held at once: of the largest memories that the default limits allow, 25 MB."""

_NO_VECTOR: NDArray[np.float32] = np.empty(0, dtype=np.float32)


async def read_scope(
    connection: Any, scope: Scope, *, generation: int, dimensions: int, now: datetime, since: datetime
) -> AsyncGenerator[Sequence[StoredMemory | Past | Link], None]:
    """What a scope holds, in the open transaction of a connection: see `ports.MemoryStore.export`."""
    after = 0
    while True:
        records = await connection.fetch(TRANSFER.export_memories, scope.id, generation, after, _PAGE_ROWS, now, since)
        rows = _memories(scope, records, dimensions)
        page: list[StoredMemory | Past] = []
        async with aclosing(_past_of(connection, scope, rows, generation, dimensions, since)) as past:
            event = await anext(past, None)
            for row in rows:
                page.append(row)
                while event is not None and event.id == row.id:
                    page.append(event)
                    event = await anext(past, None)
                    if len(page) >= _PAGE_ROWS:
                        yield page
                        page = []
        if page:
            yield page
        if len(records) < _PAGE_ROWS:
            break
        after = rows[-1].version
    after_link = FIRST_KEY
    while True:
        key = (after_link.from_id, after_link.to_id, after_link.type)
        links = [
            read_link(record)
            for record in await connection.fetch(TRANSFER.export_links, scope.id, *key, now, _PAGE_ROWS)
        ]
        if links:
            yield links
        if len(links) < _PAGE_ROWS:
            return
        after_link = links[-1].key


async def _past_of(
    connection: Any,
    scope: Scope,
    rows: Sequence[StoredMemory],
    generation: int,
    dimensions: int,
    since: datetime,
) -> AsyncGenerator[Past, None]:
    """The history of memories, in their order, oldest first."""
    ids = [row.id for row in rows]
    cursor = await connection.cursor(TRANSFER.export_history, scope.id, ids, since, generation)
    while records := await cursor.fetch(_PAGE_ROWS):
        for record, vector in zip(records, _vectors(records, dimensions), strict=True):
            memory = _memory(scope, record)
            yield Past(
                id=record[1],
                version=record[14],
                event=record[15],
                at=record[16],
                superseded_at=record[18],
                memory=memory,
                created_at=record[11],
                updated_at=record[12],
                actor=record[17],
                vector=vector,
            )


def _memories(scope: Scope, records: Sequence[Any], dimensions: int) -> list[StoredMemory]:
    return [
        StoredMemory(
            id=record[1],
            version=record[14],
            memory=_memory(scope, record),
            created_at=record[11],
            updated_at=record[12],
            event=record[15],
            event_at=record[16],
            actor=record[17],
            vector=vector,
        )
        for record, vector in zip(records, _vectors(records, dimensions), strict=True)
    ]


def _memory(scope: Scope, record: Any) -> Memory | None:
    return None if record[2] is None else read_memory(scope.user_id, record, 1)


def _vectors(records: Sequence[Any], dimensions: int) -> list[NDArray[np.float32] | None]:
    """The vector of each row that has one."""
    raw = [record[0] for record in records]
    decoded = iter(decode_vectors([value for value in raw if value is not None], dimensions))
    return [None if value is None else next(decoded, _NO_VECTOR) for value in raw]
