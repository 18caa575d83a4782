"""Spans as the SDK's batch processor takes them, sent by its OTLP exporter from a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from memfast import __version__
from memfast.config import TelemetryConfig
from memfast.metrics import Meter
from memfast.ports.spans import Attributes, RequestSpan
from memfast.tracing.seldom import Seldom

__all__ = ["BATCH_SPANS", "SpanExport"]

_log = logging.getLogger("memfast.tracing")

BATCH_SPANS = 512
"""Spans of one request to the receiver, at most."""

_GRACE_S = 0.5
"""Time for a sending that was given up to end, in seconds; one that waits for bytes of the receiver does not."""

_PATH = "/v1/traces"
"""Where a receiver takes spans, below its address (OTLP 1.x, "OTLP/HTTP Request")."""

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET, _ERROR = Status(), Status(StatusCode.ERROR)


class SpanExport:
    """`ports.Spans`: hands spans to a thread, which sends them now and then.

    What the SDK reads of `OTEL_*` variables is believed, but for what a setting says: headers, certificates,
    compression, the resource. Spans are made without its tracer, which takes 27 µs for each, and this 3: everything
    about them is known already.

    Args:
        config: where to, and the bounds.
        meter: counts what becomes of spans.
        bits: a random number of so many bits.
        monotonic: seconds.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        meter: Meter,
        bits: Callable[[int], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._bits = bits
        self._resource = _resource()
        self._library = InstrumentationScope("memfast", __version__)
        self._dropped = meter.counter("memfast_spans", "dropped")
        self._given = 0
        self._seldom = Seldom(monotonic)
        base = config.endpoint.rstrip("/")
        endpoint = base if base.endswith(_PATH) else base + _PATH
        self._sender = _Sender(OTLPSpanExporter(endpoint=endpoint, timeout=config.timeout_s), meter)
        self._processor = BatchSpanProcessor(
            self._sender,
            max_queue_size=config.queue_spans,
            schedule_delay_millis=config.interval_s * 1000,
            max_export_batch_size=min(BATCH_SPANS, config.queue_spans),
        )

    def tell(self, span: RequestSpan) -> None:
        """See `ports.Spans.tell`. A request whose spans find no room is dropped with all of them, and counted."""
        count = 1 + len(span.stages)
        if self._given - self._sender.taken + count > self._config.queue_spans:
            self._dropped.add(count)
            return
        self._given += count
        own = SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=_SAMPLED)
        parent = None
        if span.parent_id:
            parent = SpanContext(span.trace_id, span.parent_id, is_remote=True, trace_flags=_SAMPLED)
        start_ns = span.end_ns - int(span.took_s * 1e9)
        for name, begin_s, took_s in span.stages:
            context = SpanContext(span.trace_id, self._bits(64) or 1, is_remote=False, trace_flags=_SAMPLED)
            begin_ns = start_ns + int(begin_s * 1e9)
            self._give(name, context, own, begin_ns, begin_ns + int(took_s * 1e9))
        status = _ERROR if span.failed else _UNSET
        self._give(span.name, own, parent, start_ns, span.end_ns, SpanKind.SERVER, status, span.attributes)

    def close(self) -> None:
        """Send what waits, for `stop_timeout_s` at most; what is left then is dropped. Blocks. Safe to call twice."""
        ending = threading.Thread(target=self._processor.shutdown, name="memfast-spans-end", daemon=True)
        ending.start()
        ending.join(self._config.stop_timeout_s)
        left = self._sender.end(self._given)
        ending.join(_GRACE_S)
        if left:
            self._dropped.add(left)
            _log.warning("%d spans were not sent in the %g s of a stop", left, self._config.stop_timeout_s)
        self._seldom.close()

    def _give(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        start_ns: int,
        end_ns: int,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = _UNSET,
        attributes: Attributes | None = None,
    ) -> None:
        span = ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=kind,
            status=status,
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=self._library,
        )
        self._processor.on_end(span)


class _Sender(SpanExporter):
    """Sends by another, and counts. `taken` = spans that do not wait any more."""

    def __init__(self, exporter: SpanExporter, meter: Meter) -> None:
        self._exporter = exporter
        self._counters = {
            SpanExportResult.SUCCESS: meter.counter("memfast_spans", "exported"),
            SpanExportResult.FAILURE: meter.counter("memfast_spans", "failed"),
        }
        self._lock = threading.Lock()
        self._told = 0
        self._ended = False
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; what comes after the end is let go."""
        self.taken += len(spans)
        if self._ended:
            return SpanExportResult.FAILURE
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            with self._lock:
                if not self._ended:
                    self._told += len(spans)
                    self._counters[result].add(len(spans))
        return result

    def shutdown(self) -> None:
        """Nothing: `end` says when."""

    def end(self, given: int) -> int:
        """Give up what is being sent or tried again; returns how many of the spans given so far were not sent."""
        with self._lock:
            if self._ended:
                return 0
            self._ended = True
        self._exporter.shutdown()
        return given - self._told


def _resource() -> Resource:
    """This worker, as the standard variables name it or as we do."""
    own = {"service.name": "memfast", "service.version": __version__, "service.instance.id": str(uuid.uuid4())}
    named = Resource({**own, "process.pid": os.getpid()})
    return Resource.create().merge(named).merge(OTELResourceDetector().detect())
