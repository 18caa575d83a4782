"""The modes as the document has them: every trigger, threshold and hold time of its table."""

import re
from pathlib import Path

import pytest
from worlds import SetClock, World

from memfast.config import Config
from memfast.resilience.breaker import Breaker
from memfast.resilience.retry import Retry
from memfast.service.coherence import SILENT_CHECKS, TRUST_S
from memfast.service.modes import HOLD_S, LAG_READINGS, LAG_S, Modes
from memfast.store.pool import PING_S

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "resilience.md").read_text()
STEP = 0.01


def rows(heading):
    """The rows of the first table below a heading, as lists of cells."""
    lines = DOCUMENT.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


class Worker:
    """The modes of a worker, and what they look at."""

    def __init__(self, order="auto"):
        self.world = World()
        self.clock = self.world.clock
        self.postgres = Breaker("postgresql", self.clock, failures=5, hold_s=30.0)
        self.redis = Breaker("redis", self.clock, failures=3, hold_s=5.0)
        self.embedder = Breaker("embedder", self.clock, failures=5, hold_s=10.0)
        self.neo4j = Breaker("neo4j", self.clock, failures=3, hold_s=45.0)
        optional = [self.redis, self.embedder, self.neo4j]
        self.modes = Modes(self.postgres, optional, self.world.coherence, self.clock, order)

    @property
    def mode(self):
        return self.modes.standing().mode

    def fail(self, breaker, times):
        for _ in range(times):
            breaker.settle(breaker.admit(), "failure", "TimeoutError")

    async def pass_time(self, seconds):
        """Time goes by, and PostgreSQL goes on confirming copies."""
        self.clock.seconds += seconds
        await self.world.coherence.check()


def optional_breaker(name):
    """Of a dependency that the service can do without."""

    async def trigger(worker, cell):
        """As many failures as the document says, and as is the default."""
        breaker = getattr(worker, name)
        failures = int(re.match(r"(\d+) failures within 10 s", cell)[1])
        config = {"redis": Config().redis, "embedder": Config().embedding, "neo4j": Config().graph}[name]
        assert failures == config.failures
        worker.fail(breaker, failures - 1)
        before = worker.mode
        worker.fail(breaker, 1)
        return before, worker.mode, lambda: breaker.pinged(answered=True)

    return trigger


async def postgres_breaker(worker, cell):
    """As many failures as the document says."""
    failures = int(re.match(r"(\d+) failures within 10 s", cell)[1])
    worker.fail(worker.postgres, failures - 1)
    before = worker.mode
    worker.fail(worker.postgres, 1)
    return before, worker.mode, lambda: worker.postgres.pinged(answered=True)


async def unconfirmed(worker, cell):
    """From the moment on when a confirmation is as old as the document says, and as many checks were not answered."""
    assert cell == f"{TRUST_S:g} s, and {SILENT_CHECKS} checks in a row that were not answered"
    worker.clock.seconds += 10 * TRUST_S
    assert worker.mode == "full", "nobody asked"
    await worker.world.coherence.check()
    worker.clock.seconds += TRUST_S
    await worker.world.fall_silent()
    before = worker.mode
    worker.clock.seconds += STEP
    after = worker.mode
    worker.world.ledger.away = False
    await worker.world.coherence.check()
    return before, after, lambda: None


async def late_loop(worker, cell):
    """Only so long a lag, and only so many in a row: neither a shorter one nor a single pause."""
    assert cell == f"{LAG_S:g} s in {LAG_READINGS} readings in a row"
    for seconds in [LAG_S] * (LAG_READINGS - 1) + [LAG_S - STEP] + [LAG_S] * (LAG_READINGS - 1):
        worker.modes.note_lag(seconds)
    before = worker.mode
    worker.modes.note_lag(LAG_S)
    return before, worker.mode, lambda: worker.modes.note_lag(0.0)


TRIGGERS = {
    "Redis' breaker is not closed": optional_breaker("redis"),
    "Neo4j's breaker is not closed": optional_breaker("neo4j"),
    "the embedding endpoint's breaker is not closed": optional_breaker("embedder"),
    "PostgreSQL's breaker is not closed": postgres_breaker,
    "copies are not confirmed": unconfirmed,
    "the event loop is late": late_loop,
}
TABLE = [row for row in rows("Modes") if row[2]]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[1])
async def test_a_mode_is_entered_and_left_as_documented(row):
    """Not below the threshold, at once at it, and left when the trigger has not shown for the hold time."""
    mode, trigger, threshold, hold = row[0].strip("`"), row[1], row[2], float(row[3].removesuffix(" s"))
    worker = Worker()
    before, after, end = await TRIGGERS[trigger](worker, threshold)
    assert (before, after) == ("full", mode)
    assert worker.modes.standing().reason
    end()
    await worker.pass_time(hold - STEP)
    assert worker.mode == mode
    await worker.pass_time(2 * STEP)
    assert worker.modes.standing() == ("full", "", 0)


def test_the_document_has_every_mode():
    """And each hold time that there is."""
    assert {row[0].strip("`") for row in rows("Modes")} == {"full", *HOLD_S}
    assert {(row[0].strip("`"), float(row[3].split()[0])) for row in TABLE} == set(HOLD_S.items())


def test_the_documents_figures_of_the_breaker_are_the_defaults():
    """Those that can be set, and those that cannot."""
    resilience, figures = Config().resilience, dict(rows("PostgreSQL away"))
    assert figures == {
        "failures within 10 s that open it": str(resilience.postgres_failures),
        "hold time until it lets a request try": f"{resilience.postgres_hold_s:g} s",
        "requests that may try then": str(resilience.postgres_probes),
        "time a check of the background may take": f"{PING_S:g} s",
        "tries to get a connection": str(Retry.__init__.__kwdefaults__["attempts"]),
    }


async def test_the_most_severe_mode_counts():
    """And the others show again when it is over."""
    worker = Worker()
    worker.fail(worker.redis, 3)
    worker.fail(worker.postgres, 5)
    assert worker.mode == "cache_only"
    for _ in range(LAG_READINGS):
        worker.modes.note_lag(LAG_S)
    assert worker.mode == "essential"
    worker.modes.note_lag(0.0)
    await worker.pass_time(HOLD_S["essential"] + STEP)
    assert worker.mode == "cache_only"
    worker.postgres.pinged(answered=True)
    await worker.pass_time(HOLD_S["cache_only"] + STEP)
    assert worker.mode == "reduced"


async def test_a_trigger_that_flickers_keeps_the_mode():
    """The hold time begins anew each time that it shows; also where nobody asks for the mode meanwhile."""
    worker = Worker()
    for _ in range(5):
        worker.fail(worker.redis, 3)
        assert worker.mode == "reduced"
        worker.redis.pinged(answered=True)
        await worker.pass_time(HOLD_S["reduced"] - STEP)
        assert worker.modes.standing() == ("reduced", "redis: TimeoutError", 0)
    await worker.pass_time(2 * STEP)
    assert worker.mode == "full"


async def test_the_age_is_that_of_the_copies():
    """Never less than it is."""
    worker = Worker()
    await worker.world.fall_silent()
    worker.clock.seconds += 4.5
    assert worker.modes.standing() == ("cache_only", "postgresql does not confirm copies", 4)
    worker.clock.seconds += 0.6
    assert worker.modes.standing().age_s == 5


@pytest.mark.parametrize("order", ["full", "reduced", "cache_only", "essential"])
async def test_an_ordered_mode_stays(order):
    """Whatever happens; only copies that cannot be confirmed are marked all the same."""
    worker = Worker(order)
    assert worker.mode == order
    worker.fail(worker.redis, 3) if order != "reduced" else None
    for _ in range(10):
        worker.modes.note_lag(2.0)
    await worker.pass_time(100)
    assert worker.mode == order
    assert (worker.postgres.admit() is None) == (order == "cache_only")
    assert (worker.redis.state == "isolated") == (order == "reduced")
    await worker.world.fall_silent()
    worker.clock.seconds += 10
    assert worker.mode == ("essential" if order == "essential" else "cache_only")
    assert worker.modes.standing().age_s > 9


async def test_every_change_is_logged_once(caplog):
    """With its reason."""
    worker = Worker()
    worker.fail(worker.postgres, 5)
    for _ in range(10):
        worker.modes.standing()
    worker.postgres.pinged(answered=True)
    await worker.pass_time(10)
    for _ in range(10):
        worker.modes.standing()
    told = [record.getMessage() for record in caplog.records if record.name == "memfast.modes"]
    assert told == [
        "mode cache_only, was full: postgresql: TimeoutError",
        "mode full, was cache_only: everything works",
    ]


async def test_the_lag_is_read_by_itself(monkeypatch):
    """From how late the watch wakes up."""
    import asyncio

    clock, readings = SetClock(), []
    worker = Worker()
    modes = Modes(worker.postgres, [], worker.world.coherence, clock)
    monkeypatch.setattr(modes, "note_lag", readings.append)
    monkeypatch.setattr("memfast.service.modes.SAMPLE_S", 0.001)
    watch = asyncio.create_task(modes.watch())
    await asyncio.sleep(0)
    clock.seconds += 2.001
    async with asyncio.timeout(10):
        while not readings:
            await asyncio.sleep(0.001)
    watch.cancel()
    await asyncio.wait([watch])
    assert readings[0] == pytest.approx(2.0)
