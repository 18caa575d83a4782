"""Hybrid search of a warm user beside search by vector alone, both by text.

    python -m bench.hybrid [--quick] [--planted] [--json FILE]

10,000 memories of 256 numbers and a sentence each; no question comes twice, and every answer but one in a hundred must
say that it was warm. Then hybrid searches alone, at half of the rate that the service reached (open loop): latency as
a client sees it, beside the 50 ms that are promised.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from typing import Any

import numpy as np

from bench.harness.corpus import fill, sentences
from bench.harness.load import Connection, connections, encode, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Planted, Service, scratch_dir
from bench.harness.turns import Turn, ask, open_loop, take_turn

__all__ = ["measure"]

ROWS = 10_000
CPU_GATE = 2.0
PROMISED_P99_MS = 50
PLANTED = Planted(request_s=2e-3)
CLIENTS = 4
MODES = ("hybrid", "vector")
_USER = "hybrid"


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure on a service of its own."""
    report = Report([])
    with scratch_dir() as root, Service(root / "data", planted=PLANTED if planted else None) as service:
        run(_measure(service, report, pairs=9 if quick else 25, requests=80))
    return report


def _question(text: str, mode: str) -> bytes:
    return encode("POST", "/v1/search", {"user_id": _USER, "query": text, "limit": 10, "mode": mode})


async def _measure(service: Service, report: Report, *, pairs: int, requests: int) -> None:
    rng = np.random.default_rng(31)
    async with connections(service.address, CLIENTS) as opened:
        await fill(opened[0], _USER, ROWS, rng)
        await _until_warm(opened[0], rng)

        def turn(mode: str) -> Any:
            async def taken(_pair: int) -> Turn:
                work = [_question(text, mode) for text in sentences(rng, requests)]
                return await take_turn(service, opened, work, b"warm", strays=0.01)

            return taken

        turns = (await interleaved(turn("hybrid"), turn("vector"), pairs + 1))[1:]
        _add(report, turns)
        rate = statistics.median(hybrid.run.per_second for hybrid, _ in turns) / 2
        async with connections(service.address, 32) as wide:
            work = [_question(text, "hybrid") for text in sentences(rng, int(rate * (3 if pairs < 20 else 10)))]
            paced = await open_loop(wide, work, rate)
    percentiles = [paced.percentile_ms(percent) for percent in (50, 95, 99)]
    report.details["open loop"] = {"requests/s": rate, "p50, p95, p99 ms": percentiles}
    print(
        f"hybrid search, open loop at {rate:,.0f} requests/s: p50, p95, p99 "
        f"{', '.join(map(number, percentiles))} ms; promised are {PROMISED_P99_MS} ms at p99\n"
    )


async def _until_warm(connection: Connection, rng: np.random.Generator) -> None:
    for _ in range(1_000):
        await ask(connection, _question(sentences(rng, 1)[0], "hybrid"))
        if b"memfast-tier: warm" in connection.head:
            return
        await asyncio.sleep(0.01)
    raise RuntimeError("the user did not become warm")


def _add(report: Report, turns: list[tuple[Turn, Turn]]) -> None:
    sides = {mode: [pair[place] for pair in turns] for place, mode in enumerate(MODES)}
    ratio = median_ratio(*([turn.cpu_us for turn in sides[mode]] for mode in MODES))
    report.figures.append(Figure(f"hybrid ÷ vector, warm searches of {ROWS:,}, CPU", ratio, at_most=CPU_GATE))
    table = [
        (
            mode,
            number(statistics.median(turn.cpu_us for turn in side)),
            number(statistics.median(turn.run.per_second for turn in side)),
        )
        for mode, side in sides.items()
    ]
    print_table(("warm search by text", "CPU us", "requests/s"), table)
    report.details["turns"] = {mode: [turn.cpu_us for turn in side] for mode, side in sides.items()}


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
