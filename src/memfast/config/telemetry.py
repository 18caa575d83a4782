"""Settings of what is told to a receiver of OpenTelemetry."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from memfast.config.fields import doc

__all__ = ["TelemetryConfig"]


class TelemetryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Spans of requests, sent by OTLP over HTTP; needs `memfast[otel]`."""

    endpoint: Annotated[
        str,
        doc(
            "a receiver of OTLP over HTTP that spans are sent to, e.g. http://127.0.0.1:4318; empty = none",
            pattern=r"^(https?://[^\s/?#@]+(/[^\s?#]*)?)?$",
        ),
    ] = ""
    sample: Annotated[
        float, doc("requests that are traced, of those whose caller sends no traceparent", "share", ge=0, le=1)
    ] = 1.0
    queue_spans: Annotated[
        int, doc("spans of a worker that may wait; what comes then is dropped", "spans", ge=64, le=1_000_000)
    ] = 4096
    interval_s: Annotated[float, doc("time after which what waits is sent", "s", gt=0, le=300)] = 5.0
    timeout_s: Annotated[float, doc("time one sending may take, with what is tried again", "s", gt=0, le=300)] = 10.0
    stop_timeout_s: Annotated[float, doc("time for what still waits when the service stops", "s", ge=0, le=60)] = 2.0
