"""Two services over one PostgreSQL that share no memory: what tokens promise, and how late writes are seen without.

    python -m bench.hosts [--reads N] [--seed N] [--json FILE]

With tokens every read through either service is compared with the model, and then 8 writers and 32 readers share one
user. Without tokens one service writes and the other, which holds everything finished, is asked until it shows the write.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from statistics import median
from typing import Any
from urllib.parse import quote
from uuid import UUID

from bench.coherence.driver import Checker, Tally, drive
from bench.coherence.fleet import Fleet, Worker
from bench.coherence.history import History
from bench.coherence.model import Item, Operation, Put, State
from bench.coherence.plan import DIMENSIONS, LEG_TIMEOUT_MS, VECTORS, Plan
from bench.coherence.tokens import TokenClient, Tokens
from bench.harness.load import run
from bench.harness.report import Figure, Report, finish, options
from bench.harness.service import Service, scratch_dir

__all__ = ["measure"]

TRUST_S = 1.0
"""What another host wrote is seen after this time and one query."""

QUERY_S = 0.5
"""For the query, and for a machine that does other things."""

ROUNDS = 20
SETTINGS = {"coherence.mode": "cluster", "embedding.provider": "none", "embedding.dimensions": DIMENSIONS}
SETTINGS["search.leg_timeout_ms"] = LEG_TIMEOUT_MS
SETTINGS |= {"links.similar": 0, "links.entities": 0}  # the model knows every version


class _Nobody:
    """Nobody changes the database by hand."""


def measure(*, reads: int, seed: int = 1) -> Report:
    """Start both and measure."""
    with ExitStack() as stack:
        root = stack.enter_context(scratch_dir())
        first = stack.enter_context(Service(root / "a", settings=_words(SETTINGS)))
        address = first.database()
        dsn = (
            f"postgresql://{address['user']}:{quote(address['password'])}@/{address['database']}"
            f"?host={quote(str(address['host']), safe='')}&port={address['port']}"
        )
        own = {"postgres.dsn": dsn, "postgres.pool_min": 2, "postgres.pool_max": 4}
        second = stack.enter_context(Service(root / "b", settings=_words(SETTINGS | own)))
        return run(_measure([first, second], reads, seed))


def _words(settings: dict[str, Any]) -> tuple[str, ...]:
    return tuple(word for name, value in settings.items() for word in ("--set", f"{name}={value}"))


async def _measure(services: list[Service], reads: int, seed: int) -> Report:
    with ExitStack() as stack:
        fleets = [stack.enter_context(closing(Fleet(each.address, each.pid))) for each in services]
        workers = [fleet.workers[0] for fleet in fleets]
        tokens: Tokens = {}
        checker = Checker([TokenClient(each, tokens) for each in workers], Tally())
        nobody: Any = _Nobody()
        await drive(checker, nobody, seed=seed, owners=8, reads=reads, sql_share=0.0)
        judged = await History(checker, seed).run(writers=4, readers=16, writes=25)
        late = [await _late(workers, f"{seed}/{number}") for number in range(ROUNDS)]
    tiers = checker.tally.reads
    return Report(
        [
            Figure("with tokens: reads compared with the model", checker.tally.checked, at_least=reads),
            Figure("with tokens: stale or wrong answers", 0, at_most=0),
            *(Figure(f"reads answered {tier}", tiers[tier], at_least=1) for tier in ("hot", "warm", "cold")),
            Figure("reads of one user under 8 writers", judged, at_least=100),
            Figure("without tokens: seen after, median", median(late), "s"),
            Figure("without tokens: seen after at most", max(late), "s", at_most=TRUST_S + QUERY_S),
        ],
        {"late_s": late},
    )


async def _late(workers: list[Worker], name: str) -> float:
    """Seconds from an acknowledgement by the first service until the second, which was hot, shows the write."""
    here, far = workers[0], Checker(workers[1:], Tally())
    plan = Plan(name, f"late-{name}", short_lived=False)
    state = plan.begin()
    for _ in range(3):
        state = await _write(here, plan.write(state, datetime.now(UTC)), state)
    asks = plan.asks(state)
    await far.everywhere(state, asks, 2)
    item = Item(str(UUID(int=7)), "from another host", VECTORS[0], datetime.now(UTC))
    after = await _write(here, Put(state.user_id, item), state)
    took_s = await far.becomes(state, after, asks)
    await far.everywhere(after, asks, 2)
    return took_s


async def _write(worker: Worker, operation: Operation, state: State) -> State:
    after, status = operation.applied(state, datetime.now(UTC))
    answer = await worker.ask(*operation.request())
    assert answer.status == status, answer
    return after


def main() -> int:
    """Run from the command line; 1 when a gate is missed. A stale answer ends it with a trace."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--reads", type=int, default=50_000, help="comparisons with the model")
        parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")

    chosen = options(__doc__ or "", more, timed=False)
    return finish(measure(reads=chosen.reads, seed=chosen.seed), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
