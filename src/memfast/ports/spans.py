"""What takes the spans of requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

__all__ = ["Attributes", "RequestSpan", "Spans"]

Attributes = Mapping[str, str | int | bool | Sequence[str]]


class RequestSpan(Struct, frozen=True, kw_only=True):
    """One request that has ended, and its stages.

    Attributes:
        name: what was asked for, e.g. `POST /v1/search`.
        trace_id: of 128 bits.
        span_id: of 64 bits.
        parent_id: the caller's span, of 64 bits; 0 without one.
        end_ns: when it ended, in nanoseconds since 1970.
        took_s: how long it took, in seconds.
        failed: whether the service did not do what it should.
        attributes: what is known of it.
        stages: name, begin after the request's, and duration of each, in seconds.
    """

    name: str
    trace_id: int
    span_id: int
    parent_id: int
    end_ns: int
    took_s: float
    failed: bool
    attributes: Attributes
    stages: Sequence[tuple[str, float, float]]


class Spans(Protocol):
    """Takes spans."""

    def tell(self, span: RequestSpan) -> None:
        """Take one; returns at once, whatever becomes of it."""
