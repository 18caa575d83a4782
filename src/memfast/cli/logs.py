"""Log lines for people or for machines, on standard error: of which request, and never what memories say."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from memfast.config import LogConfig
from memfast.errors import MemfastError
from memfast.metrics import CURRENT, NO_REQUEST
from memfast.metrics.tracing import trace_id

__all__ = ["ConsoleFormatter", "JsonFormatter", "set_up"]


class _Formatter(logging.Formatter):
    """What both forms have in common.

    The text of an error that is not one of ours may quote what it met: a driver names the value that it could not
    encode. So it is left out, unless that is asked for; its type and its trace stay.

    Args:
        quotes: take the texts of such errors in.
    """

    def __init__(self, *, quotes: bool = False, fmt: str | None = None) -> None:
        super().__init__(fmt)
        self._quotes = quotes

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name that logging calls
        """The trace of an error and of what caused it, the last one first."""
        parts = []
        for error in _chain(ei[1]):
            told = f": {error}" if self._quotes or isinstance(error, MemfastError) else ""
            parts.append(
                f"{type(error).__qualname__}{told}\n{''.join(traceback.format_tb(error.__traceback__))}".rstrip()
            )
        return "\ncaused by ".join(parts)


class JsonFormatter(_Formatter):
    """One JSON object a line: at, level, logger, message, the fields that belong to it, the request, the trace."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class ConsoleFormatter(_Formatter):
    """One readable line, with its fields at the end."""

    def __init__(self, *, quotes: bool = False) -> None:
        super().__init__(quotes=quotes, fmt="%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging calls
        """The line without an error's trace."""
        fields = "".join(f" {name}={_shown(value)}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


def set_up(config: LogConfig) -> None:
    """Send every logger's lines to standard error in the configured form."""
    handler = logging.StreamHandler(sys.stderr)
    quotes = config.error_texts
    handler.setFormatter(JsonFormatter(quotes=quotes) if config.format == "json" else ConsoleFormatter(quotes=quotes))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("memfast").setLevel(config.level.upper())


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    """The fields of a line, and the request that it belongs to."""
    fields: dict[str, Any] = dict(getattr(record, "fields", ()))
    current = CURRENT.get()
    if current is not NO_REQUEST:
        fields.setdefault("request_id", current.request_id.decode())
        if current.parent is not None:
            fields.setdefault("trace_id", trace_id(current.parent))
    return fields


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{_shown(each)}" for name, each in value.items())
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it; of a group also its members."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        if isinstance(error, BaseExceptionGroup):
            for each in error.exceptions:
                yield from _chain(each)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
