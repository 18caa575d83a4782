"""Steps for a copy of the links elsewhere: what a transaction did to a scope, as memories and links alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

from memfast.links import Link, LinkKey
from memfast.model import StoredMemory
from memfast.projection import Change, LinkGone, LinkPut, NodeGone, NodePut
from memfast.store.flush import Flush, Row

__all__ = ["NO_CHANGES", "decode_changes", "encode_changes", "flush_changes", "intake_changes"]

_encoder = msgspec.msgpack.Encoder(uuid_format="bytes")
_decoder = msgspec.msgpack.Decoder(list[Change])


def encode_changes(changes: list[Change]) -> bytes:
    """As they stand in the outbox."""
    return _encoder.encode(changes)


def decode_changes(raw: bytes) -> list[Change]:
    """What stands in the outbox."""
    return _decoder.decode(raw)


NO_CHANGES = encode_changes([])
"""A step that only raises the version."""


def flush_changes(flush: Flush, rows: Mapping[UUID, Row], links: Mapping[LinkKey, Link]) -> list[Change]:
    """What a flush changes: memories that end, with their links, before those that begin, and links after both.

    Args:
        flush: what is written to a scope.
        rows: the stored rows before it, by id.
        links: the stored links before it that changes speak of.
    """
    severed = flush.links.severed
    changes: list[Change] = [NodeGone(target) for target in severed if _told_of(rows.get(target))]
    for target, row in flush.rows.items():
        if row.memory is not None and (target in severed or not _same_times(row, rows.get(target))):
            changes.append(NodePut(target, row.memory.created_at, row.memory.expires_at))
    for key, link in flush.links.rows.items():
        if link is not None:
            changes.append(LinkPut(link.from_id, link.to_id, link.type, link.weight, link.directed, link.created_at))
        elif key in links:
            changes.append(LinkGone(key))
    return changes


def intake_changes(severed: Sequence[UUID], rows: Sequence[StoredMemory]) -> list[Change]:
    """What imports into a scope change, in the same order.

    Args:
        severed: memories that had expired and begin anew.
        rows: new and replaced ones.
    """
    gone = [NodeGone(target) for target in severed]
    live = [(row.id, row.memory) for row in rows if row.memory is not None]
    return [*gone, *(NodePut(target, memory.created_at, memory.expires_at) for target, memory in live)]


def _told_of(row: Row | None) -> bool:
    return row is not None and row.memory is not None


def _same_times(row: Row, before: Row | None) -> bool:
    if before is None or before.memory is None or row.memory is None:
        return False
    one, two = row.memory, before.memory
    return (one.created_at, one.expires_at) == (two.created_at, two.expires_at)
