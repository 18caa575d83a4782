"""What an `Idempotency-Key` claims: that a write is done once, and answered the same however often it is sent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from memfast.errors import AnswerErased, KeyReused

__all__ = ["AnsweredBeforeError", "Claim", "Kept", "Written"]


class Written(Struct, frozen=True, array_like=True):
    """The answer to a write, as it is kept: everything of it that the request alone does not say.

    Attributes:
        status: the HTTP status.
        version: the scope's version after the write; 0 where nothing was written.
        body: JSON; empty where the answer has no body.
        headers: its own ones, without those of every answer and those that `version` makes.
        shows: the id of the memory whose content is in the body, if any.
    """

    status: int
    version: int
    body: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    shows: UUID | None = None


class Claim(Struct, frozen=True, kw_only=True):
    """A request's claim to be done once. All changes of the request carry the same one.

    Attributes:
        key: digest of the key.
        request: digest of what the request says.
        expires_at: until then the key is taken.
        answer: makes the answer of the outcomes of the request's changes, or of a forget's receipt. It is called in the
            transaction, and depends on nothing but its argument.
    """

    key: bytes
    request: bytes
    expires_at: datetime
    answer: Callable[[Any], Written]

    def of(self, whole: Callable[[Any], Any]) -> Claim:
        """The claim of a part of the request: `whole` makes of its outcomes what the request came to."""

        def answer(part: Any) -> Written:
            return self.answer(whole(part))

        return msgspec.structs.replace(self, answer=answer)


class Kept(Struct, frozen=True):
    """What is kept under a key. Nothing is left of the request and the answer once the memory it showed is purged."""

    request: bytes | None
    answer: Written | None

    def answer_to(self, request: bytes) -> Written:
        """The answer, for a request with this digest.

        Raises:
            KeyReused: it belongs to another request.
            AnswerErased: the memory that it showed was purged.
        """
        if self.answer is None:
            raise AnswerErased(
                "Idempotency-Key: the request was done before, and the memory that its answer showed was purged since"
            )
        if self.request != request:
            raise KeyReused(
                "Idempotency-Key: the key was sent with another request of this user; send a new key with a new "
                "request, and the same method, path, parameters, If-Match and body with a repeated one"
            )
        return self.answer


class AnsweredBeforeError(Exception):
    """The transaction found the key taken, and wrote nothing for the request."""

    def __init__(self, kept: Kept) -> None:
        super().__init__("answered before")
        self.kept = kept
