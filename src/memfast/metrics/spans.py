"""Which requests become spans, and by which ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from memfast.kernels import Trace
from memfast.metrics.tracing import NO_REQUEST, trace

__all__ = ["Sampler", "SpanIds"]

_SAMPLED = 1
"""The flag of a `traceparent` that says that the caller keeps the trace."""


class SpanIds(NamedTuple):
    """A request's span: its trace, itself, its parent (0 = none), and whether anybody is told of it."""

    trace_id: int
    span_id: int
    parent_id: int
    sampled: bool


_NOT_KEPT = SpanIds(0, 0, 0, sampled=False)
"""The ids of a request whose caller keeps no trace: nobody needs them."""


class Sampler:
    """Decides by the caller's flag, and without a caller by chance.

    Args:
        share: of the requests without a `traceparent` that are traced, 0 to 1.
        bits: a random number of so many bits.
    """

    def __init__(self, share: float, bits: Callable[[int], int]) -> None:
        self._below = round(share * 2**64)
        self._bits = bits

    def ids(self, parent: bytes | None) -> SpanIds:
        """The ids of a request with this valid `traceparent`, or with none."""
        if parent is None:
            trace_id = self._bits(128) or 1
            return SpanIds(trace_id, self._bits(64) or 1, 0, trace_id % 2**64 < self._below)
        if not int(parent[53:55], 16) & _SAMPLED:
            return _NOT_KEPT
        return SpanIds(int(parent[3:35], 16), self._bits(64) or 1, int(parent[36:52], 16), sampled=True)

    def of(self, request: Trace) -> SpanIds:
        """The ids of a request, the same whenever they are asked for."""
        whole = request.whole or request
        ids = whole.span
        if not isinstance(ids, SpanIds):
            ids = whole.span = self.ids(whole.parent)
        return ids

    def outgoing(self) -> bytes | None:
        """The `traceparent` of a call that the running request makes: its span is the parent. None without one."""
        request = trace()
        if request is NO_REQUEST:
            return None
        ids = self.of(request)
        if not ids.sampled:
            return request.parent
        return b"00-%032x-%016x-01" % (ids.trace_id, ids.span_id)
