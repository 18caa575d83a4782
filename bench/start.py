"""How long a start takes, beside PostgreSQL and an empty application alone.

    python -m bench.start [--quick] [--planted] [--json FILE]

The floor starts the same PostgreSQL with the same launcher and then an empty Litestar application on Granian. Both
are started as programs and asked until they answer: on a directory that does not exist yet, where both make the
database first, and on one with 100,000 memories, which they share in turns.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.harness.corpus import fill
from bench.harness.load import connections, encode, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import READY, Planted, Program, Service, free_port, scratch_dir

__all__ = ["measure"]

GATE = 2.0
"""How many times the floor's time the service may take until it is ready."""

MEMORIES = 100_000
PLANTED = Planted(start_s=10.0)
_SEARCH = encode("POST", "/v1/search", {"user_id": "start-0", "query": "Who painted the blue kitchen?"})
_USERS = 10


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure on new and on full data directories."""
    report = Report([])
    slow = PLANTED if planted else None
    with scratch_dir() as root:
        fresh = (root / f"data-{place}" for place in itertools.count())
        _measure(report, "an empty directory", lambda: next(fresh), pairs=3 if quick else 7, planted=slow)
    with scratch_dir() as root:
        full = root / "data"
        memories = MEMORIES // 10 if quick else MEMORIES
        with Service(full) as service:
            run(_fill(service, memories))
        name = f"a directory with {memories:,} memories"
        _measure(report, name, lambda: full, pairs=3 if quick else 7, planted=slow)
    return report


def _measure(report: Report, name: str, directory: Callable[[], Path], *, pairs: int, planted: Planted | None) -> None:
    async def subject(_number: int) -> tuple[float, float]:
        with Service(directory(), planted=planted, wait=False) as service:
            return service.wait_for(READY), service.wait_for(_SEARCH)

    async def floor(_number: int) -> float:
        data_dir, port = directory(), free_port()
        command = [sys.executable, "-m", "bench.harness.bare", str(data_dir), str(port)]
        with Program(command, port, data_dir.with_suffix(".log")) as program:
            return program.wait_for(READY)

    run(interleaved(subject, floor, 1))
    measured = run(interleaved(subject, floor, pairs))
    floors_s = [pair[1] for pair in measured]
    columns = {
        "ready": [pair[0][0] for pair in measured],
        "first search by text": [pair[0][1] for pair in measured],
        "floor": floors_s,
    }
    print(f"start on {name}, seconds")
    rows = [
        (label, *map(number, (statistics.median(values), min(values), max(values))))
        for label, values in columns.items()
    ]
    print_table(("", "median", "least", "most"), rows)
    report.details[name] = columns
    for label, gate in (("ready", GATE), ("first search by text", None)):
        ratio = median_ratio(columns[label], floors_s)
        report.figures.append(Figure(f"start on {name}: {label} ÷ bare start", ratio, at_most=gate))


async def _fill(service: Service, memories: int) -> None:
    rng = np.random.default_rng(14)
    async with connections(service.address, 1) as (connection,):
        for user in range(_USERS):
            await fill(connection, f"start-{user}", memories // _USERS, rng)


def main() -> int:
    """Run from the command line; 1 when the gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
