"""Errors as RFC 9457 problems."""

from __future__ import annotations

import msgspec

from memfast.errors import MemfastError, Rejected, Unauthorized, Unavailable
from memfast.http.exchange import Reply
from memfast.http.wire import Problem

__all__ = ["INTERNAL_ERROR", "problem", "problem_headers", "problem_reply", "type_uri"]

INTERNAL_ERROR = MemfastError("the service met an error of its own; its log has the details under the request's id")
INTERNAL_SLUG = "internal-error"


def type_uri(slug: str) -> str:
    """The stable `type` of a problem."""
    return f"urn:memfast:problem:{slug}"


def problem(error: MemfastError) -> Problem:
    """What a client is told of an error."""
    slug = INTERNAL_SLUG if error.status == 500 else error.slug
    path = error.path if isinstance(error, Rejected) else None
    return Problem(type=type_uri(slug), title=error.title, status=error.status, detail=str(error), path=path)


def problem_reply(error: MemfastError, headers: list[tuple[bytes, bytes]], instance: str) -> Reply:
    """The answer for an error.

    Args:
        error: what happened.
        headers: the standard headers.
        instance: the request's path.
    """
    body = msgspec.json.encode(msgspec.structs.replace(problem(error), instance=instance))
    return Reply(error.status, [*problem_headers(error, b"application/problem+json", len(body)), *headers], body)


def problem_headers(error: MemfastError, content_type: bytes, size: int) -> list[tuple[bytes, bytes]]:
    """The headers of an answer for an error, of so many bytes, without the standard ones."""
    own = [
        (b"content-type", content_type),
        (b"content-length", b"%d" % size),
        (b"cache-control", b"no-store"),
    ]
    if isinstance(error, Unauthorized):
        own.append((b"www-authenticate", b'Bearer realm="memfast"'))
    if isinstance(error, Unavailable):
        own.append((b"retry-after", b"%d" % error.retry_after_s))
    return own
