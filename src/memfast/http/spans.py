"""Spans of requests, made of what was measured when a request has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from memfast.http.exchange import Exchange
from memfast.http.measures import Measures
from memfast.kernels import Trace
from memfast.metrics import STAGES, valid_parent
from memfast.metrics.spans import Sampler, SpanIds
from memfast.ports.spans import RequestSpan, Spans
from memfast.service.answers import Kind

__all__ = ["TracedMeasures"]

_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""What has a name in OpenTelemetry's conventions; any other method may be anything, and is not told."""

_WATCHED = ("/v1/health", "/metrics")
"""What probes and scrapers ask for all the time: spans only of requests whose caller sends a `traceparent`."""

_Attributes = dict[str, str | int | bool | list[str]]


class TracedMeasures(Measures):
    """`Measures` that also make a span of every request that is sampled.

    Attributes are those of OpenTelemetry's conventions for HTTP servers, and our own as `memfast.*`. A path is told as
    its route, because paths name users; whose memories they are is told by the keyed hash that the database knows.

    Args:
        spans: takes them.
        sampler: says which, and their ids.
        wall_ns: nanoseconds since 1970.
        rest: see `Measures`.
    """

    def __init__(self, spans: Spans, sampler: Sampler, *rest: Any, wall_ns: Callable[[], int] = time.time_ns) -> None:
        super().__init__(*rest)
        self._spans = spans
        self._sampler = sampler
        self._wall_ns = wall_ns
        self._kinds: dict[tuple[str, int], tuple[str, _Attributes]] = {}
        self._watched = frozenset(
            number for number, operation in enumerate(self._operations) if operation.route.startswith(_WATCHED)
        )

    def hot(self, scope: Mapping[str, Any], kind: Kind, request_id: bytes, started: float) -> int:
        """See `Measures.hot`."""
        number = super().hot(scope, kind, request_id, started)
        ids = self._sampler.ids(_parent(scope))
        if ids.sampled:
            about: _Attributes = {"memfast.request_id": request_id.decode(), "memfast.tier": "hot"}
            self._told(ids, scope["method"], number, 200, started, about)
        return number

    def ended(self, exchange: Exchange, started: float) -> int:
        """See `Measures.ended`."""
        number = super().ended(exchange, started)
        self._exchanged(exchange, number, exchange.status, started)
        return number

    def refused(
        self, scope: Mapping[str, Any], exchange: Exchange | None, named: Trace, status: int, started: float
    ) -> int:
        """See `Measures.refused`."""
        number = super().refused(scope, exchange, named, status, started)
        if exchange is None:  # else it was told as one that has ended
            ids = self._sampler.of(named)
            if ids.sampled:
                about: _Attributes = {"memfast.request_id": named.request_id.decode()}
                self._told(ids, scope["method"], number, status, started, about)
        return number

    def abandoned(self, scope: Mapping[str, Any], exchange: Exchange | None, started: float) -> None:
        """See `Measures.abandoned`."""
        super().abandoned(scope, exchange, started)
        if exchange is not None:
            self._exchanged(exchange, self._number(exchange.method, exchange.path), None, started)
            return
        ids = self._sampler.ids(_parent(scope))
        if ids.sampled:
            self._told(ids, scope["method"], self._number(scope["method"], scope["path"]), None, started, {})

    def _exchanged(self, exchange: Exchange, number: int, status: int | None, started: float) -> None:
        """Tell of a request that was read; without a status its client has gone."""
        trace = exchange.trace
        ids = self._sampler.of(trace)
        if not ids.sampled:
            return
        about: _Attributes = {"memfast.request_id": trace.request_id.decode()}
        if exchange.tier != "none":
            about["memfast.tier"] = exchange.tier
        if trace.scope_id is not None:
            about["memfast.scope"] = trace.scope_id.hex
        if exchange.version is not None:
            about["memfast.version"] = exchange.version
        if trace.degraded:
            about["memfast.degraded"] = list(trace.degraded)
        self._told(ids, exchange.method, number, status, started, about, trace)

    def _told(
        self,
        ids: SpanIds,
        method: str,
        number: int,
        status: int | None,
        started: float,
        about: _Attributes,
        trace: Trace | None = None,
    ) -> None:
        took_s = perf_counter() - started
        if number in self._watched and not ids.parent_id:
            return
        name, always = self._kind(method, number)
        failed = status is not None and status >= 500
        attributes = always | about
        if status is None:
            attributes["memfast.abandoned"] = True
        else:
            attributes["http.response.status_code"] = status
        if failed:
            attributes["error.type"] = str(status)
        span = RequestSpan(
            name=name,
            trace_id=ids.trace_id,
            span_id=ids.span_id,
            parent_id=ids.parent_id,
            end_ns=self._wall_ns(),
            took_s=took_s,
            failed=failed,
            attributes=attributes,
            stages=() if trace is None else _stages(trace, started),
        )
        self._spans.tell(span)

    def _kind(self, method: str, number: int) -> tuple[str, _Attributes]:
        """The name of a request's span, and what is said of every such request."""
        known = method if method in _METHODS else "_OTHER"
        kind = self._kinds.get((known, number))
        if kind is None:
            operation = self._operations[number]
            name = known if known in _METHODS else "HTTP"
            attributes: _Attributes = {"http.request.method": known, "url.scheme": "http"}
            if number != self._other:
                name = f"{name} {operation.route}"
                attributes |= {"http.route": operation.route, "url.path": operation.route}
            kind = self._kinds[known, number] = (name, attributes)
        return kind


def _parent(scope: Mapping[str, Any]) -> bytes | None:
    """The request's `traceparent`, if it is valid."""
    sent = dict(scope["headers"]).get(b"traceparent")
    return None if sent is None else valid_parent(sent)


def _stages(trace: Trace, started: float) -> list[tuple[str, float, float]]:
    return [
        (name, begun - started, spent)
        for name, begun, spent in zip(STAGES, trace.begun, trace.spent, strict=True)
        if spent >= 0
    ]
