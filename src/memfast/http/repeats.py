"""Requests that were asked before, to the byte: what they are recognised by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b

from memfast.http.addresses import Address
from memfast.http.codec import response_form
from memfast.http.exchange import CONSISTENCY
from memfast.search.encode import Form
from memfast.service.access import Principal
from memfast.service.answers import KEY_BYTES

__all__ = ["asked"]

_DIGESTED_BYTES = 64 * 1024
"""Largest body that is looked up whole; a larger one is a batch, and none is asked twice."""

_SEED_BYTES = 32
_REMEMBERED_SEEDS = 1024


def asked(
    address: Address, query: bytes, headers: Mapping[bytes, bytes], principal: Principal, body: bytes
) -> tuple[bytes | None, Form, Callable[[bytes], bytes] | None]:
    """What a request asks for and whom it speaks for, as 192 bits.

    Returns:
        The digest, or None where no answer may be given unseen; how the answer is encoded; and what makes it of a
        finished one, where that is not the answer itself.
    """
    if address.surface is not None:
        found = None if address.surface.asked is None else address.surface.asked(headers, principal, body)
        return (None, "json", None) if found is None else (found[0], "json", found[1])
    if not address.repeatable or len(body) > _DIGESTED_BYTES or CONSISTENCY in headers:
        return None, "json", None
    content_type, accept = headers.get(b"content-type"), headers.get(b"accept")
    seed, form = _seed(principal, address.method, address.path, query, content_type, accept)
    return blake2b(seed + body, digest_size=KEY_BYTES).digest(), form, None


@lru_cache(_REMEMBERED_SEEDS)
def _seed(
    principal: Principal, method: str, path: str, query: bytes, content_type: bytes | None, accept: bytes | None
) -> tuple[bytes, Form]:
    """Everything that a request says beside its body, digested, and how its answer is encoded: few differ in it."""
    said = repr((principal.tag, method, path, query, content_type, accept)).encode()
    return blake2b(said, digest_size=_SEED_BYTES).digest(), response_form(accept or b"")
