"""Spans of requests, sent by OpenTelemetry's SDK; needs `memfast[otel]`, and is imported where that is asked for."""
