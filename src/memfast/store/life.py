"""Which life of a database this is: noticed between starts by a note in the data directory."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
from msgspec import Struct

from memfast.store.queries import ADMIN

__all__ = ["Note", "ServerLife", "continues_life", "last_note", "server_life", "write_note"]

_log = logging.getLogger("memfast.store")


class ServerLife(Struct, frozen=True):
    """What tells one life of a server from another: its system id, its timeline, and how far its log has come."""

    system: str
    timeline: int
    wal: int

    def continues(self, last: ServerLife) -> bool:
        """Whether this is the life of `last`, at the same point or later."""
        return (self.system, self.timeline) == (last.system, last.timeline) and self.wal >= last.wal


class Note(Struct, frozen=True):
    """What a service knows of its last start: the ids that the database may hold of it, and how far the server was."""

    service: UUID
    starts: list[UUID]
    life: ServerLife


async def server_life(connection: Any) -> ServerLife:
    """The server's life now."""
    row = await connection.fetchrow(ADMIN.server_life)
    return ServerLife(row["system"], row["timeline"], row["wal"])


async def continues_life(connection: Any, path: Path) -> tuple[bool, Note]:
    """Record a start, in the database and in the note; returns whether the database is the one that was left.

    The note first names the old and the new id: a crash between the two writes changes nothing.
    """
    life, last = await server_life(connection), last_note(path)
    service = uuid4() if last is None else last.service
    known: UUID | None = await connection.fetchval(ADMIN.known_start, service)
    same = last is None or (life.continues(last.life) and known in last.starts)
    note = Note(service, [uuid4()], life)
    write_note(path, msgspec.structs.replace(note, starts=[*([known] if known else []), *note.starts]))
    await connection.execute(ADMIN.record_start, service, note.starts[0])
    write_note(path, note)
    return same, note


def last_note(path: Path) -> Note | None:
    """What was noted last; None without a note, or with one that cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Note)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        _log.warning("%s cannot be read and is ignored: %s", path, error)
        return None


def write_note(path: Path, note: Note) -> None:
    """Replace the note as a whole. A disk that is full or gone costs the note and nothing else."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(msgspec.json.encode(note))
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
