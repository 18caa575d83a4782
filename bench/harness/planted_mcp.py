"""The service with a planted slow-down of its MCP face alone, to show that a gate catches one.

python -m bench.harness.planted_mcp <seconds a message> serve …
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from memfast.cli import main
from memfast.mcp import face

__all__ = ["PlantedMcp"]


@dataclass(frozen=True)
class PlantedMcp:
    """CPU time that a worker is made to lose with every message, in seconds."""

    message_s: float

    def program(self) -> list[str]:
        """The module that runs such a service, and its first argument."""
        return ["bench.harness.planted_mcp", str(self.message_s)]


def _plant(seconds: float) -> None:
    """Workers are forked from this process, and inherit the wrapped class."""
    serve = face._Endpoint.answer

    async def slow(self: Any, exchange: Any, services: Any) -> Any:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        return await serve(self, exchange, services)

    face._Endpoint.answer = slow  # type: ignore[method-assign]


if __name__ == "__main__":
    _plant(float(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
