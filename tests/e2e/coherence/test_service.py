"""A real service with two workers: what it answers after each acknowledgement, whatever happens to it."""

import asyncio
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from bench.coherence.driver import Checker, Stale, Tally, drive, timed
from bench.coherence.fleet import Fleet
from bench.coherence.harm import harm
from bench.coherence.history import History
from bench.coherence.model import Batch, Delete, Get, GetMany, Item, List, Put, Search, State
from bench.coherence.plan import DIMENSIONS, LEG_TIMEOUT_MS, VECTORS
from bench.coherence.planted import OfYesterday
from bench.coherence.truth import open_database
from bench.coherence.words import Words

from memfast.store.embedded import Cluster

READS = int(os.environ.get("COHERENCE_READS", "10000"))
"""Reads that are compared with the model. `python -m bench.coherence` does the same, longer and with figures."""

SEED = int(os.environ.get("COHERENCE_SEED", "7"))
WAIT_S = 30.0
TOUCH = "UPDATE database SET singleton = singleton"


@pytest.fixture
def start(serve, data_dir):
    """Function: a service whose clients bring their vectors."""

    def started(folder=None):
        settings = {"workers": 2, "embedding_provider": "none", "embedding_dimensions": DIMENSIONS}
        settings["search_leg_timeout_ms"] = LEG_TIMEOUT_MS
        settings["history_expiry_interval_s"] = 86_400  # the model knows every version: none may come by itself
        return serve(folder or data_dir(), **settings).wait_until_ready()

    return started


@asynccontextmanager
async def beside(service):
    """The service's workers and its database."""
    fleet = Fleet(("127.0.0.1", service.port), service.pid)
    try:
        async with open_database(Cluster(service.data_dir).running().connect_arguments()) as database:
            yield fleet, database
    finally:
        fleet.close()


async def until(condition):
    """Wait for a coroutine function to give something true; gives it."""
    async with asyncio.timeout(WAIT_S):
        while not (result := await condition()):
            await asyncio.sleep(0.02)
    return result


async def test_every_worker_shows_every_acknowledged_write(start):
    """Random writes of every kind by many clients, plain SQL and a killed worker in between; no answer is stale."""
    tally = Tally()
    async with beside(start()) as (fleet, database):
        await drive(
            Checker(fleet.workers, tally),
            database,
            seed=SEED,
            owners=6,
            reads=READS,
            sql_share=0.03,
            lifetime=40,
            disturb=lambda: harm(fleet, database, tally, seed=SEED, kills=1, every=READS // 2),
        )
    assert tally.checked >= READS
    assert tally.kills == 1
    assert tally.late_s
    assert all(tally.reads[tier] > READS // 50 for tier in ("hot", "warm", "cold")), tally.reads
    assert all(tally.searches[tier] > 10 for tier in ("hot", "warm", "cold")), tally.searches
    assert all(tally.by_words[tier] > 5 for tier in ("hot", "warm", "cold")), tally.by_words


async def test_one_user_under_many_hands(start):
    """Each read shows one state, not older than what was acknowledged before it, nor newer than what had begun."""
    async with beside(start()) as (fleet, _):
        judged = await History(Checker(fleet.workers, Tally()), SEED).run(writers=3, readers=3, writes=40)
    assert judged > 200


@pytest.mark.parametrize("field", ["embedding", "query"])
async def test_the_checkers_notice_a_worker_that_repeats_itself(start, field):
    """Both checkers, each with one worker of two that answers a question as it did the first time."""
    async with beside(start()) as (fleet, database):
        checker = Checker((fleet.workers[0], OfYesterday(fleet.workers[1], field)), Tally())
        with pytest.raises(Stale):
            await drive(checker, database, seed=SEED, owners=2, reads=2000)
        with pytest.raises(Stale):
            await History(checker, SEED).run(writers=1, readers=2, writes=20)


class User:
    """Six memories, and everything that can be asked of them."""

    def __init__(self, name):
        created_at = datetime.now(UTC) - timedelta(hours=1)
        self.ids = [str(UUID(int=number + 1)) for number in range(6)]
        items = [Item(target, f"text {row}", VECTORS[row], created_at) for row, target in enumerate(self.ids)]
        self.creation = Batch(name, tuple(Put(name, item) for item in items))
        self.empty = State(name)
        self.state, _ = self.creation.applied(self.empty, created_at)
        vectors = [tuple(VECTORS[row].astype(float)) for row in (0, 18)]
        words = [Words(name, "text 2"), Words(name, "text 3", vectors[1])]
        self.asks = [*(Search(name, vector) for vector in vectors), *words, List(name), GetMany(name, tuple(self.ids))]
        self.asks += [Get(name, target) for target in self.ids]

    async def keep(self, checker):
        """Create them, and make every worker keep what it can."""
        await checker.workers[0].ask(*self.creation.request())
        await checker.everywhere(self.state, self.asks, 4)
        for worker in checker.workers:
            await until(lambda worker=worker: self._hot(worker))

    async def _hot(self, worker):
        return all([(await timed(worker, ask))[1].tier == "hot" for ask in self.asks[:6]])


async def test_a_commit_that_comes_after_its_worker_died_is_seen(start):
    """PostgreSQL holds a COMMIT until long after the worker was killed; no bump follows it, the watch finds it.

    Waiting for a standby that does not exist is such a hold: the transaction is on disk and not visible yet.
    """
    async with beside(start()) as (fleet, database):
        checker, user = Checker(fleet.workers, Tally()), User("late")
        await user.keep(checker)
        victim, other = fleet.workers
        delete = Delete("late", user.ids[2])
        after, _ = delete.applied(user.state, datetime.now(UTC))
        async with held_commits(database) as waiting:
            write = asyncio.create_task(victim.ask(*delete.request()))
            await until(lambda: waiting("memfast"))
            await fleet.kill(victim)
            with pytest.raises(ConnectionError):
                await write
            await Checker((other,), checker.tally).everywhere(user.state, user.asks, 2)
        await until(lambda: _is(database, "late", after.version))
        assert await checker.becomes(user.state, after, user.asks) < WAIT_S
        await checker.everywhere(after, user.asks, 2)


async def _is(database, user_id, version):
    return await database.settle(user_id) == version


@asynccontextmanager
async def held_commits(database):
    """No COMMIT ends in the block. Gives a function: whether one of a kind of client waits."""

    async def waiting(client):
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = $1"
        return await database._pool.fetchval(query, client)

    await database._pool.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await database._pool.execute("SELECT pg_reload_conf()")
    probes = []

    async def effective():
        if not probes or probes[-1].done():
            probes.append(asyncio.create_task(database._pool.execute(TOUCH)))
        return await waiting("coherence")

    try:
        await until(effective)
        yield waiting
    finally:
        await database._pool.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await database._pool.execute("SELECT pg_reload_conf()")
        await asyncio.gather(*probes)


async def _page(service, cursor=None):
    parameters = {"user_id": "ada", "limit": 2} | ({} if cursor is None else {"cursor": cursor})
    return service.client.get("/v1/memories", params=parameters)


async def test_a_copied_back_data_directory_begins_a_new_life(start, data_dir):
    """An older copy of PostgreSQL's files: what it holds is served, and cursors of what came after it are refused."""
    folder = data_dir()
    service = start(folder)
    user = User("ada")
    assert service.client.request(*user.creation.request()[:2], json=_plain(user.creation)).status_code == 200
    service.stop()
    subprocess.run(["cp", "-a", folder / "postgres", folder / "older"], check=True)
    service = start(folder)
    lineage = service.client.get("/v1/health").json()["lineage"]
    assert service.client.delete(f"/v1/memories/{user.ids[0]}", params={"user_id": "ada"}).status_code == 204
    cursor = (await _page(service)).json()["next_cursor"]
    assert (await _page(service, cursor)).status_code == 200
    service.stop()
    shutil.rmtree(folder / "postgres")
    (folder / "older").rename(folder / "postgres")
    service = start(folder)
    assert service.client.get("/v1/health").json()["lineage"] != lineage
    assert (await _page(service, cursor)).status_code == 400
    async with beside(service) as (fleet, _):
        await Checker(fleet.workers, Tally()).everywhere(user.state, user.asks, 3)
    service.stop()


def _plain(operation):
    """A request's body as plain JSON."""
    return msgspec.to_builtins(operation.request()[2])
