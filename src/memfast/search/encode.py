"""Finished answers from pre-encoded parts: the bytes of a search's answer, the same from every tier."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any, Literal
from uuid import UUID

import msgspec
import numpy as np

from memfast import kernels
from memfast.model import Memory
from memfast.ports import FragmentTable

__all__ = [
    "Form",
    "encode_detailed",
    "encode_fragment",
    "encode_rows",
    "encode_search",
    "encode_steps",
    "fragment_version",
    "recode",
]

Form = Literal["json", "msgpack"]
_NO_ROWS: FragmentTable = np.empty((2, 0), np.int64), np.empty(0, np.uint8)

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
    data = np.frombuffer(b"".join(fragments), np.uint8)
    ends = list(accumulate(map(len, fragments), initial=0))
    block = np.array((ends[:-1], ends[1:]), np.int64), data
    return encode_rows((block, _NO_ROWS), list(range(len(scores))), scores, version)


def encode_rows(
    blocks: tuple[FragmentTable, FragmentTable], rows: list[int], scores: Sequence[float], version: int
) -> bytes:
    """The JSON of a search's answer whose fragments lie in tables: see `kernels.join_rows`.

    Args:
        blocks: the tables.
        rows: hits by falling score.
        scores: their scores.
        version: the scope's version in the snapshot.
    """
    if not rows:
        return b'{"results":[],"version":%d,"degraded":[]}' % version
    hits = kernels.join_rows(blocks, rows, _encode(scores)[1:-1], b',"score":', b"},")
    return b'{"results":[%b],"version":%d,"degraded":[]}' % (hits[:-1], version)


def encode_steps(
    blocks: tuple[FragmentTable, FragmentTable], rows: list[int], found: Sequence[tuple[UUID, int, float]]
) -> bytes:
    """The JSON list of the memories that a walk found, each with its depth and its weight.

    Args:
        blocks: tables of their fragments.
        rows: where they lie in them.
        found: id, depth and weight of each; those of a depth stand together.
    """
    levels, start = [], 0
    for depth, level in groupby(found, itemgetter(1)):
        weights = [weight for _, _, weight in level]
        own = rows[start : start + len(weights)]
        label = b',"depth":%d,"weight":' % depth
        levels.append(kernels.join_rows(blocks, own, _encode(weights)[1:-1], label, b"},"))
        start += len(own)
    return b"[%b]" % b"".join(levels)[:-1]


def encode_detailed(
    hits: Sequence[bytes | memoryview],
    scores: Sequence[float],
    version: int,
    *,
    explained: Sequence[dict[str, Any]] | None = None,
    beside: Sequence[Sequence[tuple[int, bytes | memoryview]]] | None = None,
    about: dict[str, Any] | None = None,
    degraded: Sequence[str] = (),
) -> bytes:
    """The JSON of a search's answer that says more than its hits and scores.

    Args:
        hits: their fragments, by falling score.
        scores: their scores.
        version: the scope's version in the snapshot.
        explained: of each hit, where its score comes from.
        beside: of each hit, the distance and the fragment of every memory that stands beside it.
        about: what is said of the search as a whole.
        degraded: legs that were left out.
    """
    parts = []
    for number, (fragment, score) in enumerate(zip(hits, scores, strict=True)):
        told = b'%b,"score":%b' % (bytes(fragment), _encode(score))
        if explained is not None:
            told += b',"scores":' + _encode(explained[number])
        if beside is not None:
            told += b',"neighbors":[%b]' % b",".join(b'%b,"distance":%d}' % (bytes(f), d) for d, f in beside[number])
        parts.append(told + b"}")
    end = b"" if about is None else b',"explain":' + _encode(about)
    return b'{"results":[%b],"version":%d,"degraded":%b%b}' % (b",".join(parts), version, _encode(degraded), end)


def recode(body: bytes, form: Form) -> bytes:
    """A JSON body in the form that the client accepts."""
    return body if form == "json" else _encode_msgpack(msgspec.json.decode(body))
