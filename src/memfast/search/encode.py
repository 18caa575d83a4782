"""Finished answers from pre-encoded parts: the bytes of a search's answer, the same from every tier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from memfast.model import Memory

__all__ = ["Form", "encode_fragment", "encode_search", "fragment_version", "recode"]

Form = Literal["json", "msgpack"]

_encode = msgspec.json.Encoder().encode
_encode_msgpack = msgspec.msgpack.Encoder().encode


def encode_fragment(memory: Memory) -> bytes:
    """A memory as it stands in an answer, without the closing brace: a score may follow."""
    return _encode(memory)[:-1]


def fragment_version(fragment: bytes) -> int:
    """The version of the memory in a fragment: its last field."""
    return int(fragment[fragment.rindex(b":") + 1 :])


def encode_search(fragments: Sequence[bytes | memoryview], scores: Sequence[float], version: int) -> bytes:
    """The JSON of a search's answer.

    Args:
        fragments: hits as `encode_fragment` gives them, by falling score.
        scores: their scores.
        version: the scope's version in the snapshot.
    """
    if not scores:
        return b'{"results":[],"version":%d,"degraded":[]}' % version
    pieces: list[bytes | memoryview] = [b"},"] * (4 * len(scores))
    pieces[0::4] = fragments
    pieces[1::4] = [b',"score":'] * len(scores)
    pieces[2::4] = _encode(scores)[1:-1].split(b",")
    pieces[-1] = b'}],"version":%d,"degraded":[]}' % version
    return b"".join((b'{"results":[', *pieces))


def recode(body: bytes, form: Form) -> bytes:
    """A JSON body in the form that the client accepts."""
    return body if form == "json" else _encode_msgpack(msgspec.json.decode(body))
