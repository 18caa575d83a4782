"""Spans of requests, where somebody is to be told of them. OpenTelemetry is imported here alone, and only then."""

from __future__ import annotations

import asyncio
import importlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from memfast.config import Config
from memfast.errors import ConfigError
from memfast.metrics import Meter
from memfast.metrics.spans import Sampler
from memfast.ports.spans import Spans

__all__ = ["open_spans", "outgoing_parent", "require_telemetry"]


def require_telemetry(config: Config) -> None:
    """Refuse a start that could not tell what it is to tell; workers inherit what is imported here.

    Raises:
        ConfigError: the SDK is not installed.
    """
    if config.telemetry.endpoint:
        try:
            importlib.import_module("memfast.tracing.export")
        except ImportError as error:
            raise ConfigError(
                'telemetry.endpoint is set, and OpenTelemetry is not installed: pip install "memfast[otel]"'
            ) from error


@asynccontextmanager
async def open_spans(config: Config, meter: Meter) -> AsyncIterator[tuple[Spans, Sampler] | None]:
    """What takes a worker's spans, and what says which; None where nobody is to be told.

    At the end what waits is sent, for `telemetry.stop_timeout_s`.

    Raises:
        ConfigError: the SDK is not installed.
    """
    if not config.telemetry.endpoint:
        yield None
        return
    require_telemetry(config)
    from memfast.tracing.export import SpanExport  # noqa: PLC0415 what is not configured is not imported

    spans = SpanExport(config.telemetry, meter, random.getrandbits)
    try:
        yield spans, _sampler(config)
    finally:
        await asyncio.to_thread(spans.close)


def outgoing_parent(config: Config) -> Callable[[], bytes | None] | None:
    """What gives the `traceparent` of a call that a request makes; None where there are no spans."""
    return _sampler(config).outgoing if config.telemetry.endpoint else None


def _sampler(config: Config) -> Sampler:
    return Sampler(config.telemetry.sample, random.getrandbits)
