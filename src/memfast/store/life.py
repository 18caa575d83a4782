"""Which life of a server this is: noticed between starts by a note in the data directory."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from memfast.store.queries import ADMIN

__all__ = ["ServerLife", "last_life", "note_life", "server_life"]

_log = logging.getLogger("memfast.store")


class ServerLife(Struct, frozen=True):
    """What tells one life of a server from another: its system id, its timeline, and how far its log has come."""

    system: str
    timeline: int
    wal: int

    def continues(self, last: ServerLife) -> bool:
        """Whether this is the life of `last`, at the same point or later."""
        return (self.system, self.timeline) == (last.system, last.timeline) and self.wal >= last.wal


async def server_life(connection: Any) -> ServerLife:
    """The server's life now."""
    row = await connection.fetchrow(ADMIN.server_life)
    return ServerLife(row["system"], row["timeline"], row["wal"])


def last_life(note: Path) -> ServerLife | None:
    """The life that was seen last; None without a note, or with one that cannot be read."""
    try:
        return msgspec.json.decode(note.read_bytes(), type=ServerLife)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        _log.warning("%s cannot be read and is ignored: %s", note, error)
        return None


def note_life(note: Path, life: ServerLife) -> None:
    """Replace the note as a whole. A disk that is full or gone costs the note and nothing else."""
    draft = note.with_name(f"{note.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        draft.write_bytes(msgspec.json.encode(life))
        draft.replace(note)
