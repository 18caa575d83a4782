"""The service with a planted slow-down, to show that a gate catches one.

    python -m bench.harness.planted <seconds> serve …

The start loses that time once, and every request of the worker, as CPU time.
"""

from __future__ import annotations

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


def _plant(seconds: float) -> None:
    """Workers are forked from this process, and inherit the wrapped class."""
    serve = Edge.__call__

    async def slow(self: Edge, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            _burn(seconds)
        await serve(self, scope, receive, send)

    Edge.__call__ = slow  # type: ignore[method-assign]


if __name__ == "__main__":
    planted_s = float(sys.argv[1])
    _burn(planted_s)
    _plant(planted_s)
    sys.exit(main(sys.argv[2:]))
