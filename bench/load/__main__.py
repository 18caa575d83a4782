"""Load in an open loop, by a trace of arrivals: what users feel who come whether the service keeps up or not.

    python -m bench.load [TRACE] [--url http://127.0.0.1:8077] [--in-flight 256] [--memories 20] [--json FILE]

Without a trace 100 arrivals a second for ten seconds, a Poisson process; `bench.load.traces` makes others. Without --url a
service of its own, on a directory that is gone afterwards. Latency counts from the moment at which a request was due,
not from when it was sent. Printed by operation and by time; the exit code is 1 when a request failed or was dropped.
MEMFAST_API_KEY holds a key, where the service wants one.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import numpy as np

from bench.harness.load import run
from bench.harness.report import number, print_table
from bench.harness.service import Service, scratch_dir
from bench.load import traces
from bench.load.driver import DROPPED, Driver, Result

__all__ = ["chart", "main", "table"]

COLUMNS = 60
"""Parts of the time that the chart shows."""

_TICK_S = 0.001
_SHADES = "▁▂▃▄▅▆▇█"
_HEAD = ("operation", "arrived", "p50 ms", "p95 ms", "p99 ms", "max ms", "failed", "dropped")


def table(result: Result) -> list[tuple[str, ...]]:
    """A row for each operation and one for all; no percentiles where nothing was answered."""
    rows = []
    for operation in [*sorted({each.operation for each in result.outcomes}), ""]:
        times = result.latencies_ms(operation)
        of_it = [each for each in result.outcomes if operation in {"", each.operation}]
        dropped = sum(each.status == DROPPED for each in of_it)
        failed = sum(not each.good for each in of_it) - dropped
        told = [number(float(np.percentile(times, p))) for p in (50, 95, 99, 100)] if len(times) else ["-"] * 4
        rows.append((operation or "all", number(len(of_it)), *told, number(failed), number(dropped)))
    return rows


def chart(result: Result) -> list[str]:
    """Arrivals and latency over time, a character for each part of it; where nothing was answered there is a gap."""
    last_s = max(each.due_s for each in result.outcomes)
    width_s = (last_s + _TICK_S) / COLUMNS
    parts: list[list[Any]] = [[] for _ in range(COLUMNS)]
    for each in result.outcomes:
        parts[int(each.due_s / width_s)].append(each)
    answered = [[each.latency_ms for each in part if each.good] for part in parts]
    lines: dict[str, Sequence[float | None]] = {
        "arrivals/s": [len(part) / width_s for part in parts],
        "p50 ms": [float(np.percentile(times, 50)) if times else None for times in answered],
        "max ms": [max(times) if times else None for times in answered],
    }
    drawn = [f"{name:>10}  {_shaded(values)}  up to {number(_highest(values))}" for name, values in lines.items()]
    return [*drawn, f"{'':>10}  each character is {number(width_s)} s"]


def _shaded(values: Sequence[float | None]) -> str:
    top = _highest(values) or 1.0
    return "".join(" " if v is None else _SHADES[min(len(_SHADES) - 1, int(v / top * len(_SHADES)))] for v in values)


def _highest(values: Sequence[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)


async def _drive(address: tuple[str, int], arrivals: list[traces.Arrival], chosen: argparse.Namespace) -> Result:
    key = os.environ.get("MEMFAST_API_KEY", "")
    driver = Driver(address, in_flight=chosen.in_flight, key=key, seed=chosen.seed)
    if chosen.memories:
        await driver.prepare((each.user for each in arrivals), chosen.memories)
    return await driver.run(arrivals)


def _print(result: Result, arrivals: list[traces.Arrival]) -> None:
    print_table(_HEAD, table(result))
    lag_ms = float(np.percentile([each.lag_ms for each in result.outcomes], 99))
    good = result.count(lambda each: each.good)
    rows = [
        ("arrivals/s", number(len(arrivals) / max(arrivals[-1].offset_s, 1e-9))),
        ("answered/s", number(good / result.seconds)),
        ("the client itself late, p99 ms", number(lag_ms)),
    ]
    print_table(("", ""), rows)
    print("\n".join(chart(result)), flush=True)
    for text, count in sorted(result.errors.items(), key=lambda each: -each[1]):
        print(f"{count} times {text}")


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", type=Path, help="lines of JSON, or .csv; see bench.load.traces")
    parser.add_argument("--url", help="a running service; without it one is started")
    parser.add_argument("--in-flight", type=int, default=256, help="requests under way at most (256)")
    parser.add_argument(
        "--memories", type=int, default=20, help="each user has so many before it begins (20, up to 1000)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what users say (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run from the command line; 1 when a request failed or was dropped, 2 for a trace that cannot be read."""
    chosen = _arguments(words)
    try:
        arrivals = traces.read(chosen.trace) if chosen.trace else list(traces.poisson(100.0, 10.0, 50, chosen.seed))
    except (OSError, ValueError) as error:
        print(f"bench.load: {error}", file=sys.stderr)
        return 2
    if not arrivals:
        print(f"bench.load: {chosen.trace} has no arrivals", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        if chosen.url:
            parts = urlsplit(chosen.url)
            address = (parts.hostname or "127.0.0.1", parts.port or 80)
        else:
            address = stack.enter_context(Service(stack.enter_context(scratch_dir()) / "data")).address
        result = run(_drive(address, arrivals, chosen))
    _print(result, arrivals)
    if chosen.json:
        chosen.json.write_bytes(msgspec.json.encode(result))
    return int(result.count(lambda each: not each.good) > 0)


if __name__ == "__main__":
    sys.exit(main())
