"""The latency budget: how long each operation takes, by what answers it and by how many ask.

    python -m bench.budget [--requests 2000] [--memories 10000] [--page docs/latency.md] [--json FILE]

Writes the page and its drawing. Some six minutes with the defaults.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.budget.drawing import draw
from bench.budget.measure import Effort, measure
from bench.budget.page import Machine, page, write
from bench.harness.load import run

__all__ = ["PAGE", "main"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "latency.md"


def main(words: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=Effort.requests, help="of a quick operation (2000)")
    parser.add_argument("--memories", type=int, default=Effort.memories, help="of the user who is searched (10000)")
    parser.add_argument("--page", type=Path, default=PAGE, help="where it is written (docs/latency.md)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    chosen = parser.parse_args(words)
    effort = Effort(chosen.requests, chosen.memories)
    machine = Machine.here()
    found = run(measure(effort))
    write(chosen.page, page(found, machine, effort), draw(found.rows))
    if chosen.json:
        chosen.json.write_bytes(msgspec.json.encode({"machine": machine, "effort": effort, "found": found}))
    print(f"{chosen.page}, load average before: {machine.load:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
