"""Cursors: opaque, signed, and of use for the listing that made them alone."""

from __future__ import annotations

import binascii
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from hashlib import blake2b
from typing import TypeVar
from uuid import UUID

import msgspec

from memfast.errors import InvalidRequest

__all__ = ["Cursors"]

_TAG_BYTES = 12
_T = TypeVar("_T")


class Cursors:
    """Seals positions under the database's secret. `life` gives the lineage now: those of an older one are invalid."""

    def __init__(self, secret: bytes, life: Callable[[], UUID]) -> None:
        self._secret = secret
        self._life = life

    def seal(self, position: object, *, binding: bytes) -> str:
        """A cursor for a position. `binding` names the scope and the filters."""
        body = msgspec.msgpack.encode(position)
        return urlsafe_b64encode(self._tag(body, binding) + body).decode().rstrip("=")

    def open(self, cursor: str, kind: type[_T], *, binding: bytes) -> _T:
        """The position of a cursor.

        Raises:
            InvalidRequest: it was not made here, for this listing, in this life of the database.
        """
        try:
            sealed = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
            tag, body = sealed[:_TAG_BYTES], sealed[_TAG_BYTES:]
            if hmac.compare_digest(tag, self._tag(body, binding)):
                return msgspec.msgpack.decode(body, type=kind)
        except (ValueError, binascii.Error, msgspec.DecodeError):
            pass
        raise InvalidRequest(
            "cursor: not a cursor of this listing; use next_cursor with the same user and filters, or start again "
            "without one",
            path="cursor",
        )

    def _tag(self, body: bytes, binding: bytes) -> bytes:
        digest = blake2b(key=self._secret, digest_size=_TAG_BYTES, person=b"cursor")
        for part in (self._life().bytes, binding, body):
            digest.update(len(part).to_bytes(4, "big"))
            digest.update(part)
        return digest.digest()
