"""The request that the running task works for, wherever it is: for its log lines, and the time of its stages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from time import perf_counter
from typing import Final

from memfast.kernels import STAGES_MAX, Trace

__all__ = [
    "CURRENT",
    "NO_REQUEST",
    "STAGES",
    "WRITE_STAGES",
    "Stage",
    "Work",
    "measured",
    "trace",
    "trace_id",
    "valid_parent",
]


class Stage:
    """Where the time of a request goes; numbers, because they are used with every search."""

    DECODE: Final = 0
    """From the begin of the endpoint until the question is understood."""
    CACHE: Final = 1
    """Looking for a finished answer, and keeping one."""
    WARM: Final = 2
    """Getting the user's shard: held, brought up to date, loaded for this answer."""
    EMBED: Final = 3
    """Getting the vector of a text: held, or made."""
    SQL: Final = 4
    """PostgreSQL's nearest vectors and what links lead to; of a write its transaction, of any other read its rows."""
    RANK: Final = 5
    """Comparing, and fusing the legs of a search."""
    ENCODE: Final = 6
    """Bytes out of hits."""
    WAIT: Final = 7
    """Waiting for an equal search of somebody else; of a write for its transaction."""


class Work:
    """What the stages of a request are of, where they are counted."""

    SEARCH: Final = "search"
    WRITE: Final = "write"


STAGES: tuple[str, ...] = ("decode", "cache", "warm", "embed", "sql", "rank", "encode", "wait")
"""Names by number."""
assert len(STAGES) <= STAGES_MAX

WRITE_STAGES = ("embed", "sql", "wait")
"""Those that a write has."""

NO_REQUEST = Trace(b"")
"""The trace of work that no request waits for: nobody looks at it."""

CURRENT: ContextVar[Trace] = ContextVar("memfast_trace", default=NO_REQUEST)
"""The trace of the request."""

trace = CURRENT.get
"""The running request's trace, or the one that nobody looks at."""


@contextmanager
def measured(stage: int) -> Iterator[None]:
    """Add the time of a block to a stage of the running request, however the block ends."""
    began_s = perf_counter()
    try:
        yield
    finally:
        trace().add(stage, perf_counter() - began_s)


_PARENT = re.compile(
    rb"(?:00-%(ids)b|(?!00|ff)[0-9a-f]{2}-%(ids)b(?:-[\x21-\x7e]*)?)"
    % {b"ids": rb"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"}
)
_PARENT_BYTES = 55
_PARENT_BYTES_MAX = 256


@lru_cache(64)
def valid_parent(value: bytes) -> bytes | None:
    """A `traceparent` header as version 00 of it (W3C Trace Context, 3.2 and 4.2); None for one that is not valid."""
    if len(value) > _PARENT_BYTES_MAX or not _PARENT.fullmatch(value):
        return None
    return b"00" + value[2:_PARENT_BYTES]


def trace_id(parent: bytes) -> str:
    """The trace that a valid `traceparent` belongs to, as 32 hexadecimal digits."""
    return parent[3:35].decode()
