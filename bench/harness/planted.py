"""The service with a planted slow-down, to show that a gate catches one.

    python -m bench.harness.planted <seconds at start> <seconds a request> <of so many requests, one> serve …

Both are lost as CPU time: once in the parent, and in the worker with every request, or with every hundredth, say.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import Any

from memfast.cli import main
from memfast.http.edge import Edge

__all__: list[str] = []


def _burn(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def _plant(seconds: float, every: int) -> None:
    """Workers are forked from this process, and inherit the wrapped class."""
    serve, numbers = Edge.__call__, itertools.count(1)

    async def slow(self: Edge, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and next(numbers) % every == 0:
            _burn(seconds)
        await serve(self, scope, receive, send)

    Edge.__call__ = slow  # type: ignore[method-assign]


if __name__ == "__main__":
    _burn(float(sys.argv[1]))
    _plant(float(sys.argv[2]), int(sys.argv[3]))
    sys.exit(main(sys.argv[4:]))
