"""Memories as mem0 gives them out, as lines of an import.

They come from `get_all` of its library, its server or its platform. What has no place of its own is kept below `mem0`
in the metadata.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from memfast.errors import InvalidRequest
from memfast.service.lines import MemoryLine

__all__ = ["OWN", "is_mem0", "read_expiry", "read_mem0", "read_moment", "show_expiry"]

OWN = "mem0"
"""The key of the metadata below which stands what has no place of its own."""

_TEXTS = ("memory", "text", "data")
_RUNS = ("run_id", "session_id")
_TIMES = ("created_at", "updated_at")
_DROPPED = ("score", "score_breakdown")
"""What a search says of a memory, and not the memory of itself."""


def is_mem0(line: bytes) -> bool:
    """Whether a line is one of mem0's objects: it says what it remembers, and not of which type it is."""
    try:
        found = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(found, dict) and "memory" in found and "type" not in found


def read_mem0(line: bytes) -> MemoryLine:
    """A line of an import.

    Raises:
        InvalidRequest: it is no JSON object with a text, or a field is of another type.
    """
    try:
        fields: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"$: the line is not a JSON object: {error}", path="$") from error
    given = {name: value for name, value in fields.items() if value is not None and name not in _DROPPED}
    text = _first(given, _TEXTS)
    if not isinstance(text, str):
        raise InvalidRequest("$.memory: is missing or no text", path="$.memory")
    own: dict[str, Any] = {"text": text, "run_id": _first(given, _RUNS), "tags": given.pop("categories", [])}
    own |= {name: given.pop(name, None) for name in ("user_id", "agent_id")}
    own |= {name: read_moment(given.pop(name, None), name) for name in _TIMES}
    own["expires_at"] = read_expiry(given.pop("expiration_date", None))
    own["id"] = _id(given)
    metadata = given.pop("metadata", {})
    if not isinstance(metadata, dict):
        raise InvalidRequest("$.metadata: must be an object", path="$.metadata")
    own["metadata"] = msgspec.Raw(msgspec.json.encode(metadata | ({OWN: given} if given else {})))
    try:
        return msgspec.convert(own, MemoryLine, strict=False)
    except msgspec.ValidationError as error:
        message, _, path = str(error).rpartition(" - at `")
        path = path.rstrip("`") or "$"
        raise InvalidRequest(f"{path}: {message or error}", path=path) from error


def _first(given: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The field under the first of its names that is there; the others stay."""
    return next((given.pop(name) for name in names if name in given), None)


def _id(given: dict[str, Any]) -> UUID | None:
    """Its id where that is a UUID; any other is kept with the rest, and a new one follows from the line."""
    try:
        found = UUID(str(given.get("id", "")))
    except ValueError:
        return None
    del given["id"]
    return found


def read_moment(value: Any, name: str) -> datetime | None:
    """A time, which older versions write without its offset: then it is UTC."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise InvalidRequest(f"$.{name}: must be a time as of ISO 8601", path=f"$.{name}") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def read_expiry(value: Any) -> datetime | None:
    """When a memory goes: after the end, in UTC, of its day of expiration."""
    moment = read_moment(value, "expiration_date")
    if moment is None or len(str(value)) > len("2026-01-01"):
        return moment
    try:
        return moment + timedelta(days=1)
    except OverflowError as error:
        raise InvalidRequest("$.expiration_date: is the last day of the calendar", path="$.expiration_date") from error


def show_expiry(expires_at: datetime | None) -> str | None:
    """The day of expiration of a memory that goes then."""
    if expires_at is None:
        return None
    return (expires_at.astimezone(UTC) - timedelta(microseconds=1)).date().isoformat()
