"""What one user does, as requests: remembers, searches, reads, changes and deletes memories of its own.

The mix is made up, not recorded: an agent searches before it answers and remembers some of what it heard. Some searches
are asked again, as agents do within a conversation. Another mix is another trace (see `bench.load.traces`).
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from bench.harness.corpus import sentences

__all__ = ["OPERATIONS", "Person", "Request"]

OPERATIONS: Mapping[str, int] = MappingProxyType({"search": 60, "remember": 20, "get": 12, "update": 5, "delete": 3})
"""Each operation with its share in percent."""

REPEATED = 0.4
"""The share of searches that ask one of the last questions again."""

_QUESTIONS = 8
_MEMORIES_MAX = 10_000
"""Memories that a person knows the ids of, at most; the oldest are left alone from then on."""


@dataclass(frozen=True)
class Request:
    """One request. `memory_id` is the memory that it reads, changes or deletes, if any."""

    operation: str
    method: str
    path: str
    body: dict[str, Any] | None = None
    memory_id: str = ""


class Person:
    """One user and what it remembers.

    A memory that a request under way speaks of is left alone by others, so that none can miss it: whatever is answered
    with an error is one.

    Args:
        user_id: its name.
        seed: of everything that is drawn, beside the name.
    """

    def __init__(self, user_id: str, seed: int = 1) -> None:
        self.user_id = user_id
        self._rng = np.random.default_rng([seed, zlib.crc32(user_id.encode())])
        self._ids: deque[str] = deque(maxlen=_MEMORIES_MAX)
        self._asked: deque[str] = deque(maxlen=_QUESTIONS)

    def request(self, operation: str) -> Request:
        """The next request of a kind; without a memory to read, change or delete it remembers one.

        Raises:
            KeyError: there is no such operation.
        """
        if operation == "search":
            return Request("search", "POST", "/v1/search", {"user_id": self.user_id, "query": self._question()})
        if operation not in OPERATIONS:
            raise KeyError(operation)
        if operation == "remember" or not self._ids:
            return Request("remember", "POST", "/v1/memories", {"user_id": self.user_id, "text": self._text()})
        memory_id = self._take()
        path = f"/v1/memories/{memory_id}?user_id={self.user_id}"
        if operation == "update":
            return Request("update", "PATCH", path, {"text": self._text()}, memory_id)
        return Request(operation, {"get": "GET", "delete": "DELETE"}[operation], path, None, memory_id)

    def first(self, count: int) -> Request:
        """A request that remembers `count` memories at once, for a start with something to find."""
        memories = [{"text": self._text()} for _ in range(count)]
        return Request("batch", "POST", "/v1/memories/batch", {"user_id": self.user_id, "memories": memories})

    def answered(self, request: Request, status: int, body: bytes) -> None:
        """Take note of an answer; status 0 is none."""
        if request.operation == "batch" and status == 200:
            self._ids.extend(result["id"] for result in msgspec.json.decode(body)["results"])
        elif request.operation == "remember" and status == 201:
            self._ids.append(msgspec.json.decode(body)["id"])
        elif request.memory_id and request.operation != "delete":
            self._ids.append(request.memory_id)

    def _take(self) -> str:
        self._ids.rotate(-int(self._rng.integers(len(self._ids))))
        return self._ids.popleft()

    def _question(self) -> str:
        if self._asked and self._rng.random() < REPEATED:
            return self._asked[int(self._rng.integers(len(self._asked)))]
        self._asked.append(self._text())
        return self._asked[-1]

    def _text(self) -> str:
        return sentences(self._rng, 1)[0]
