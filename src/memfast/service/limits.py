"""What a client may send: every bound and every rule of form, checked before anything else is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from memfast import kernels
from memfast.config import LimitsConfig
from memfast.errors import InvalidRequest

__all__ = ["NAME_CHARS", "Limits"]

_FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)
_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)
_JSON_INTEGER = 2**53
_ZERO = 1e-30
"""A vector whose largest number is smaller has no direction."""
NAME_CHARS = 512
"""Longest kind, agent_id, run_id and source."""


class Limits:
    """Checks the parts of a request.

    Every method takes the JSON path of what it checks and raises `InvalidRequest` with it.

    Args:
        limits: the configured bounds.
        dimensions: the length of every vector.
    """

    def __init__(self, limits: LimitsConfig, dimensions: int) -> None:
        self.config = limits
        self._dimensions = dimensions

    def text(self, text: str, path: str) -> str:
        """A memory's text or a query: something other than blanks, bounded in bytes, no NUL."""
        if not text or text.isspace():
            raise InvalidRequest(f"{path}: must say something; it is empty", path=path)
        self._bytes(text, self.config.text_bytes, path)
        return _no_nul(text, path)

    def user_id(self, user_id: str, path: str) -> str:
        """A user's id: not empty, bounded in bytes, compared exactly as it is."""
        if not user_id:
            raise InvalidRequest(f"{path}: must not be empty", path=path)
        self._bytes(user_id, self.config.user_id_bytes, path)
        return _no_nul(user_id, path)

    def name(self, value: str, path: str) -> str:
        """A kind, an agent's or a run's id, a source."""
        if not value or len(value) > NAME_CHARS:
            raise InvalidRequest(f"{path}: must have 1 to {NAME_CHARS} characters, it has {len(value)}", path=path)
        return _no_nul(value, path)

    def tags(self, tags: Sequence[str], path: str) -> list[str]:
        """Tags, each once, in their order."""
        return self._words(tags, self.config.tags, self.config.tag_chars, path)

    def entities(self, entities: Sequence[str], path: str) -> list[str]:
        """Entities, each once, in their order."""
        return self._words(entities, self.config.entities, self.config.entity_chars, path)

    def importance(self, value: float, path: str) -> float:
        """A number from 0 to 1."""
        if not 0.0 <= value <= 1.0:
            raise InvalidRequest(f"{path}: must be from 0 to 1, it is {value:g}", path=path)
        return float(value)

    def time(self, value: datetime, path: str) -> datetime:
        """A point in time with its offset, as UTC."""
        if value.tzinfo is None:
            raise InvalidRequest(f"{path}: must name its offset, e.g. {value.isoformat()}Z", path=path)
        try:
            moment = value if value.tzinfo is UTC else value.astimezone(UTC)
        except OverflowError as error:
            raise InvalidRequest(f"{path}: lies outside the years 1 to 9999", path=path) from error
        if not _FIRST_MOMENT < moment < _LAST_MOMENT:  # the driver takes these two for infinity
            raise InvalidRequest(f"{path}: the first and the last moment of the calendar cannot be kept", path=path)
        return moment

    def metadata(self, value: dict[str, Any], path: str) -> Raw:
        """A JSON object, bounded in size and depth, as its JSON text."""
        return self.json(value, path)

    def json(self, value: Any, path: str) -> Raw:
        """Any value that metadata may hold, with the same bounds, as its JSON text."""
        self._json(value, path, 1)
        encoded = msgspec.json.encode(value)
        if len(encoded) > self.config.metadata_bytes:
            raise InvalidRequest(
                f"{path}: must be at most {self.config.metadata_bytes} bytes as JSON, it is {len(encoded)}",
                path=path,
            )
        return Raw(encoded)

    def vector(self, value: bytes | Sequence[float], path: str) -> NDArray[np.float32]:
        """A vector as numbers or little-endian float32 bytes, to float32 (dimensions,) of norm 1."""
        if isinstance(value, bytes):
            if len(value) != 4 * self._dimensions:
                raise InvalidRequest(
                    f"{path}: must be {self._dimensions} float32 numbers ({4 * self._dimensions} bytes), "
                    f"it has {len(value)} bytes",
                    path=path,
                )
            unit = kernels.unit_vector(value)
            if unit is not None:
                return unit
            given = np.frombuffer(value, dtype="<f4").astype(np.float64)
        else:
            if len(value) != self._dimensions:
                raise InvalidRequest(f"{path}: must have {self._dimensions} numbers, it has {len(value)}", path=path)
            given = np.asarray(value, dtype=np.float64)
        largest = float(np.abs(given).max())
        if not math.isfinite(largest):
            raise InvalidRequest(f"{path}: must hold finite numbers only", path=path)
        if largest < _ZERO:
            raise InvalidRequest(f"{path}: must not be the zero vector, it has no direction", path=path)
        given /= largest  # so that no square overflows or vanishes
        return (given / math.sqrt(float(given @ given))).astype(np.float32)

    def page(self, limit: int, path: str) -> int:
        """A number of results, from 1 up to the bound."""
        if not 1 <= limit <= self.config.page_items:
            raise InvalidRequest(f"{path}: must be from 1 to {self.config.page_items}, it is {limit}", path=path)
        return limit

    def items(self, count: int, path: str) -> None:
        """The number of items of a batch."""
        if not 1 <= count <= self.config.batch_items:
            raise InvalidRequest(f"{path}: must have 1 to {self.config.batch_items} items, it has {count}", path=path)

    def _bytes(self, text: str, most: int, path: str) -> None:
        size = len(text) if text.isascii() else len(text.encode())
        if size > most:
            raise InvalidRequest(f"{path}: must be at most {most} bytes of UTF-8, it is {size}", path=path)

    def _words(self, words: Sequence[str], most: int, chars: int, path: str) -> list[str]:
        if len(words) > most:
            raise InvalidRequest(f"{path}: must have at most {most} entries, it has {len(words)}", path=path)
        for position, word in enumerate(words):
            where = f"{path}[{position}]"
            if not word or len(word) > chars:
                raise InvalidRequest(f"{where}: must have 1 to {chars} characters, it has {len(word)}", path=where)
            _no_nul(word, where)
        return list(dict.fromkeys(words))

    def _json(self, value: Any, path: str, depth: int) -> None:
        if isinstance(value, dict | list):
            self._container(value, path, depth)
        elif isinstance(value, str):
            _no_nul(value, path)
        elif isinstance(value, int):
            if abs(value) >= _JSON_INTEGER:
                raise InvalidRequest(f"{path}: an integer must be below 2^53; send it as a string", path=path)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise InvalidRequest(f"{path}: a number must be finite", path=path)
        elif value is not None:
            raise InvalidRequest(f"{path}: {type(value).__name__} is not a JSON value", path=path)

    def _container(self, value: dict[Any, Any] | list[Any], path: str, depth: int) -> None:
        if depth > self.config.metadata_depth:
            raise InvalidRequest(f"{path}: must be nested at most {self.config.metadata_depth} levels deep", path=path)
        if isinstance(value, list):
            for position, item in enumerate(value):
                self._json(item, f"{path}[{position}]", depth + 1)
            return
        for name, item in value.items():
            if not isinstance(name, str):
                raise InvalidRequest(f"{path}: the names of an object must be strings", path=path)
            self._json(item, f"{path}.{_no_nul(name, path)}", depth + 1)


def _no_nul(text: str, path: str) -> str:
    if "\0" in text:
        raise InvalidRequest(f"{path}: must not contain the character NUL (U+0000)", path=path)
    return text
