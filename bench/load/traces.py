"""When who does what: traces of arrivals as files, and made-up ones.

    python -m bench.load.traces poisson --rate 200 --seconds 30 > trace.ndjson
    python -m bench.load.traces bursty --rate 200 --seconds 30 --times 10 --format csv > trace.csv

A trace is lines of JSON, or CSV with a first line `offset_s,operation,user`:

    {"offset_s": 0.0132, "operation": "search", "user": "user-3"}

`offset_s` are seconds from the begin and never go back; the operations are those of `bench.load.mix`. Bursty arrivals are
a Poisson process of two rates that take turns (for exponential times of `--burst-s` and `--calm-s` on average), of which
one is so many times the other; `--rate` is the mean. A few users come often and most of them seldom: the n-th is drawn
with a weight of 1/n.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import msgspec
import numpy as np

from bench.load.mix import OPERATIONS

__all__ = ["Arrival", "bursty", "poisson", "read", "write"]

_FIELDS = ("offset_s", "operation", "user")


class Arrival(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request that is due so many seconds after the begin."""

    offset_s: float
    operation: str
    user: str


@dataclass(frozen=True)
class Bursts:
    """How arrivals bunch: bursts of `times` the rate between them, and how long both last on average."""

    times: float = 8.0
    burst_s: float = 0.5
    calm_s: float = 2.0


def poisson(rate: float, seconds: float, users: int, seed: int) -> Iterator[Arrival]:
    """Arrivals that know nothing of each other, `rate` a second on average."""
    rng = np.random.default_rng(seed)
    yield from _drawn(rng, _within(rng, rate, 0.0, seconds), users)


def bursty(rate: float, seconds: float, users: int, seed: int, bursts: Bursts | None = None) -> Iterator[Arrival]:
    """Arrivals in bursts, `rate` a second on average over a long time."""
    rng = np.random.default_rng(seed)
    yield from _drawn(rng, _in_turns(rng, rate, seconds, bursts or Bursts()), users)


def _in_turns(rng: np.random.Generator, rate: float, seconds: float, bursts: Bursts) -> Iterator[float]:
    calm = rate * (bursts.calm_s + bursts.burst_s) / (bursts.calm_s + bursts.times * bursts.burst_s)
    start, burst = 0.0, False
    while start < seconds:
        end = min(seconds, start + rng.exponential(bursts.burst_s if burst else bursts.calm_s))
        yield from _within(rng, calm * bursts.times if burst else calm, start, end)
        start, burst = end, not burst


def _within(rng: np.random.Generator, rate: float, start: float, end: float) -> Iterator[float]:
    while (start := start + rng.exponential(1 / rate)) < end:
        yield start


def _drawn(rng: np.random.Generator, offsets: Iterable[float], users: int) -> Iterator[Arrival]:
    """Say who does what at each moment."""
    names = list(OPERATIONS)
    shares = np.cumsum(list(OPERATIONS.values())) / sum(OPERATIONS.values())
    weights = np.cumsum(1 / np.arange(1, users + 1))
    for offset in offsets:
        operation = names[int(np.searchsorted(shares, rng.random(), side="right"))]
        user = int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))
        yield Arrival(round(offset, 6), operation, f"user-{user}")


def read(path: Path) -> list[Arrival]:
    """A trace from a file; `.csv` is CSV, anything else lines of JSON.

    Raises:
        ValueError: a line is not an arrival, or goes back in time; it says which line and why.
    """
    arrivals: list[Arrival] = []
    before = 0.0
    with path.open(newline="") as file:
        for number, arrival in _parsed(file, path):
            where = f"{path}:{number}"
            if arrival.operation not in OPERATIONS:
                raise ValueError(f"{where}: operation must be one of {', '.join(OPERATIONS)}, is {arrival.operation!r}")
            if not (math.isfinite(arrival.offset_s) and arrival.offset_s >= before):
                raise ValueError(
                    f"{where}: offset_s must be at least {before:g}, is {arrival.offset_s}; sort the trace"
                )
            before = arrival.offset_s
            arrivals.append(arrival)
    return arrivals


def _parsed(file: TextIO, path: Path) -> Iterator[tuple[int, Arrival]]:
    rows = csv.DictReader(file) if path.suffix == ".csv" else (line for line in file if line.strip())
    decode = msgspec.json.Decoder(Arrival).decode
    first = 2 if path.suffix == ".csv" else 1
    for number, row in enumerate(rows, first):
        try:
            yield number, decode(row) if isinstance(row, str) else msgspec.convert(row, Arrival, strict=False)
        except msgspec.DecodeError as error:
            raise ValueError(f"{path}:{number}: {error}") from error


def write(arrivals: Iterable[Arrival], file: TextIO, form: str = "ndjson") -> None:
    """Write a trace as `ndjson` or `csv`."""
    if form == "csv":
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_FIELDS)
        rows.writerows(msgspec.structs.astuple(arrival) for arrival in arrivals)
        return
    file.writelines(msgspec.json.encode(arrival).decode() + "\n" for arrival in arrivals)


def main() -> int:
    """Make a trace and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["poisson", "bursty"])
    parser.add_argument("--rate", type=float, default=100.0, help="arrivals a second on average (100)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--users", type=int, default=50, help="how many users (50)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same trace (1)")
    parser.add_argument("--times", type=float, default=Bursts.times, help="a burst's rate by that between bursts (8)")
    parser.add_argument("--burst-s", type=float, default=Bursts.burst_s, help="how long a burst lasts (0.5)")
    parser.add_argument("--calm-s", type=float, default=Bursts.calm_s, help="how long it is calm between them (2)")
    parser.add_argument("--format", choices=["ndjson", "csv"], default="ndjson")
    chosen = parser.parse_args()
    if chosen.kind == "poisson":
        arrivals = poisson(chosen.rate, chosen.seconds, chosen.users, chosen.seed)
    else:
        bursts = Bursts(chosen.times, chosen.burst_s, chosen.calm_s)
        arrivals = bursty(chosen.rate, chosen.seconds, chosen.users, chosen.seed, bursts)
    write(arrivals, sys.stdout, chosen.format)
    return 0


if __name__ == "__main__":
    sys.exit(main())
