"""Tokens of writes: the version that a write made, in one life of the database. Clients send them back as they are."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

__all__ = ["TEXT_PATTERN", "Token", "read_token", "write_token"]

TEXT_PATTERN = r"^[0-9a-f]{32}\.(0|[1-9][0-9]{0,17})$"
"""The lineage, a dot, the version."""

_TOKEN = re.compile(TEXT_PATTERN.removesuffix("$").encode() + rb"\Z")
_REMEMBERED = 4096


class Token(NamedTuple):
    """A version of a scope in a life of the database."""

    lineage: UUID
    version: int


@lru_cache(_REMEMBERED)
def read_token(text: bytes) -> Token | None:
    """The token that a text stands for; None when it stands for none."""
    if _TOKEN.match(text) is None:
        return None
    lineage, _, version = text.partition(b".")
    return Token(UUID(hex=lineage.decode()), int(version))


def write_token(token: Token) -> bytes:
    """A token as clients get it."""
    return b"%b.%d" % (token.lineage.hex.encode(), token.version)
