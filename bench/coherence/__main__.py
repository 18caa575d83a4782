"""No answer older than the last acknowledged write: a real service with two workers against a model.

    python -m bench.coherence [--reads N] [--owners N] [--seed N] [--kills N] [--json FILE]

Every owner writes to users of its own, one after another, through a worker drawn at random, and after each
acknowledgement asks both workers everything that can be asked, several times over, while the other owners write. Some
writes are plain SQL that no worker is told of, and workers are killed. Then several writers and readers share one user.
A failure names its seed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from typing import Any

from bench.coherence.driver import PATIENCE_S, Asked, Checker, Tally, drive
from bench.coherence.fleet import Fleet
from bench.coherence.harm import harm
from bench.coherence.history import History
from bench.coherence.plan import DIMENSIONS, LEG_TIMEOUT_MS
from bench.coherence.planted import OfYesterday
from bench.coherence.truth import open_database
from bench.harness.load import run
from bench.harness.report import Figure, Report, finish, options
from bench.harness.service import Service, scratch_dir

__all__ = ["measure"]

WORKERS = 2
TIER_SHARE = 0.02
"""The least share of the reads that every tier must have answered: else it was not tested."""

SETTINGS = (
    "--set",
    f"server.workers={WORKERS}",
    "--set",
    "embedding.provider=none",
    "--set",
    f"embedding.dimensions={DIMENSIONS}",
    "--set",
    f"search.leg_timeout_ms={LEG_TIMEOUT_MS}",
    "--set",
    "history.expiry_interval_s=86400",  # the model knows every version: none may come by itself
    "--set",
    "links.similar=0",
    "--set",
    "links.entities=0",
)


def measure(*, reads: int, owners: int = 8, seed: int = 1, kills: int = 3, planted: bool = False) -> Report:
    """Run against a service of its own; with `planted` one worker repeats itself, and this raises `Stale`."""
    with scratch_dir() as root, Service(root / "data", settings=SETTINGS) as service:
        return run(_measure(service, reads, owners, seed, kills, planted=planted))


async def _measure(service: Service, reads: int, owners: int, seed: int, kills: int, *, planted: bool) -> Report:
    fleet, tally = Fleet(service.address, service.pid), Tally()
    workers: list[Asked] = list(fleet.workers)
    if planted:
        workers[-1] = OfYesterday(workers[-1])
    checker = Checker(workers, tally)
    try:
        async with open_database(service.database()) as database:
            await drive(
                checker,
                database,
                seed=seed,
                owners=owners,
                reads=reads,
                sql_share=0.02,
                disturb=lambda: harm(fleet, database, tally, seed=seed, kills=kills, every=reads // (kills + 1)),
            )
            judged = await History(checker, seed).run(writers=3, readers=3, writes=100)
    finally:
        fleet.close()
    return _report(tally, judged, reads, kills)


def _report(tally: Tally, judged: int, reads: int, kills: int) -> Report:
    total = tally.checked
    late = max(tally.late_s, default=0.0)
    figures = [
        Figure("reads compared with the model", total, at_least=reads),
        Figure("stale or wrong answers", 0, at_most=0),
        *(Figure(f"reads answered {tier}", tally.reads[tier], at_least=TIER_SHARE * total) for tier in _TIERS),
        *_by_tier("searches", tally.searches),
        *_by_tier("searches by words", tally.by_words),
        Figure("writes acknowledged", tally.writes.total()),
        Figure("reads of one user under 6 writers", judged, at_least=1000),
        Figure("workers killed", tally.kills, at_least=min(1, kills)),
        Figure("writes that lost their worker", tally.lost),
        Figure("plain SQL: times", len(tally.late_s), at_least=1),
        Figure("plain SQL: seen everywhere after at most", late, "s", at_most=PATIENCE_S),
    ]
    details: dict[str, Any] = {"writes": dict(tally.writes), "reads": dict(tally.reads), "sql_s": tally.late_s}
    return Report(figures, details)


def _by_tier(name: str, counts: Counter[str]) -> list[Figure]:
    total = counts.total()
    return [Figure(f"{name} answered {tier}", counts[tier], at_least=_LEAST[tier] * total) for tier in _TIERS]


_TIERS = ("hot", "warm", "cold")
_LEAST = {"hot": 0.02, "warm": 0.02, "cold": 0.002}
"""Searches are cold only until a user's shard is loaded."""


def main() -> int:
    """Run from the command line; 1 when a gate is missed. A stale answer ends it with a trace."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--reads", type=int, default=100_000, help="comparisons with the model")
        parser.add_argument("--owners", type=int, default=8, help="users that are written and read at once")
        parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
        parser.add_argument("--kills", type=int, default=3, help="workers that are killed")

    chosen = options(__doc__ or "", more)
    reads = chosen.reads // 10 if chosen.quick else chosen.reads
    return finish(
        measure(reads=reads, owners=chosen.owners, seed=chosen.seed, kills=chosen.kills, planted=chosen.planted),
        chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
