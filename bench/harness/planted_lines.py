"""The service with a planted slow-down of imports, to show that a gate catches one.

    python -m bench.harness.planted_lines <seconds a line> serve …

They are lost as CPU time of the worker, with every line that it reads.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from memfast.cli import main
from memfast.service import imports

__all__ = ["PlantedLines"]


@dataclass(frozen=True)
class PlantedLines:
    """CPU time that a worker is made to lose with every line, in seconds."""

    line_s: float

    def program(self) -> list[str]:
        """The module that runs such a service, and its first argument."""
        return ["bench.harness.planted_lines", str(self.line_s)]


def _plant(seconds: float) -> None:
    """Workers are forked from this process, and inherit the wrapped function."""
    decode = imports.decode_line

    def slow(line: bytes) -> Any:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        return decode(line)

    imports.decode_line = slow


if __name__ == "__main__":
    _plant(float(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
