"""A fault that the checkers must find."""

from __future__ import annotations

from typing import Any

from bench.coherence.driver import Asked
from bench.coherence.fleet import Answer

__all__ = ["OfYesterday"]


class OfYesterday:
    """A worker that answers a search as it did the first time.

    Args:
        worker: the real one.
        field: only searches that have this field are repeated.
    """

    def __init__(self, worker: Asked, field: str = "user_id") -> None:
        self._worker = worker
        self._field = field
        self._given: dict[str, Answer] = {}

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """See `driver.Asked.ask`."""
        answer = await self._worker.ask(method, path, body)
        repeats = path == "/v1/search" and self._field in body
        return self._given.setdefault(repr(body), answer) if repeats else answer
