"""Writes that come with an `Idempotency-Key`, and those that come without."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import TypeVar

from memfast.bootstrap import Services
from memfast.claims import Claim, Written
from memfast.errors import InvalidRequest
from memfast.http.exchange import Exchange, Reply
from memfast.model import Scope

__all__ = ["KEY_PATTERN", "read_key", "write_once"]

KEY_PATTERN = "^[!-~]([ -~]{0,253}[!-~])?$"
"""1 to 255 printable characters of ASCII, without blanks at its ends."""

_KEY = re.compile(KEY_PATTERN.removesuffix("$").encode() + rb"\Z")
_SEED_BYTES = 32
_DIGEST_BYTES = 32

_T = TypeVar("_T")


async def write_once(
    exchange: Exchange,
    services: Services,
    scope: Scope,
    work: Callable[[Claim | None], Awaitable[_T]],
    told: Callable[[_T], Written],
    shown: Callable[[bytes], bytes] = bytes,
) -> Reply:
    """The answer to a write; with a key it is done once.

    Args:
        exchange: the request.
        services: the worker's.
        scope: the one that is written to.
        work: does the write, under a claim if there is one.
        told: the answer, made of what the work gives and nothing else.
        shown: makes the body that is sent of the one that is kept.
    """
    key, replayed = read_key(exchange), False
    if key is None:
        answer = told(await work(None))
    else:
        answer, replayed = await services.claims.once(scope, key, _digest(exchange), work, told)
    return exchange.written(answer, shown(answer.body), replayed=replayed)


def read_key(exchange: Exchange) -> bytes | None:
    """The request's key, if it came with one.

    Raises:
        InvalidRequest: it is empty, too long, or has other characters than printable ones.
    """
    key = exchange.headers.get(b"idempotency-key")
    if key is not None and _KEY.match(key) is None:
        raise InvalidRequest(
            "Idempotency-Key: must be 1 to 255 printable ASCII characters, e.g. a UUID", path="Idempotency-Key"
        )
    return key


def _digest(exchange: Exchange) -> bytes:
    """Everything that a request says: its method, its path, its parameters in any order, its condition, its body."""
    about = (
        exchange.method,
        exchange.path,
        sorted(exchange.query.split(b"&")),
        exchange.condition,
        exchange.form,
    )
    seed = blake2b(repr(about).encode(), digest_size=_SEED_BYTES).digest()
    return blake2b(exchange.body, digest_size=_DIGEST_BYTES, key=seed).digest()
