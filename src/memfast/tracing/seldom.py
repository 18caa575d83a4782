"""What the SDK logs, seldom: it speaks of every try, and a receiver may be away for days."""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["PAUSE_S", "Seldom"]

_log = logging.getLogger("memfast.tracing")
_SDK = logging.getLogger("opentelemetry")

PAUSE_S = 300.0
"""Time between two lines of the log, in seconds."""


class Seldom(logging.Handler):
    """Passes one line of the SDK in `PAUSE_S` on, as a warning of ours; while it is open nothing else gets through.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        super().__init__(logging.WARNING)
        self._monotonic = monotonic
        self._after_s = monotonic()
        _SDK.addHandler(self)
        _SDK.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a line on, or let it be."""
        now_s = self._monotonic()
        if now_s >= self._after_s:
            self._after_s = now_s + PAUSE_S
            _log.warning("spans: %s (told at most every %.0f s)", record.getMessage(), PAUSE_S)

    def close(self) -> None:
        """Let the SDK log as it did before. Safe to call twice."""
        _SDK.removeHandler(self)
        _SDK.propagate = not any(isinstance(each, Seldom) for each in _SDK.handlers)
        super().close()
