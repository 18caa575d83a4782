"""The relay over PostgreSQL and a copy in memory: what it does when either fails, and when others do the same."""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from uuid import UUID

import msgspec
import numpy as np
import pytest
from changes_world import NOW

from memfast.errors import CommandFailed, StoreUnavailable
from memfast.links import Link
from memfast.model import Create, Delete, PutLink, Scope
from memfast.projection import Mark
from memfast.resilience.clock import SystemClock
from memfast.service import relay as module
from memfast.service.relay import OutboxWatch, Relay, RelayLimits
from memfast.store import relaying
from memfast.store.ledger import PostgresLedger
from memfast.store.relaying import PostgresOutbox
from memory_world import memory_of
from projection_world import MemoryProjection, stored

VECTOR = np.eye(8, dtype=np.float32)[0]
LIMITS = RelayLimits(outbox_rows=1000, batch_steps=3, poll_s=0.02)
AWAY = StoreUnavailable("the graph is away")


class Killed(BaseException):
    """As a signal: nothing after this is done."""


@pytest.fixture
def new_scope(site):
    """Function: a scope that nobody has, by number."""
    base = random.getrandbits(96) << 32
    return lambda number: Scope(UUID(int=base + number), "default", f"user {base + number}")


@pytest.fixture
async def world(store, monkeypatch):
    """A database without a copy, and whoever looks into it."""
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    monkeypatch.setattr(module, "BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "BACKOFF_MAX_S", 0.02)
    outbox = PostgresOutbox(store._pool)
    async with store._pool.connection() as connection:
        await connection.execute("TRUNCATE scopes, memories, memory_vectors, links, outbox")
        await connection.execute("UPDATE projection SET state = 'off', building = false")
    return World(store, outbox)


class World:
    """Writes users with memories and links, runs relays, compares."""

    def __init__(self, store, outbox):
        self.store, self.outbox = store, outbox
        self.projection = MemoryProjection()

    def relay(self, projection=None, limits=LIMITS):
        return Relay(self.outbox, projection or self.projection, SystemClock(), random.random, limits)

    async def fill(self, scope, count, first=1):
        """Memories in a chain of links, in two transactions."""
        ids = [UUID(int=number) for number in range(first, first + count)]
        memories = [memory_of(NOW, id=each, user_id=scope.user_id, text="x") for each in ids]
        await self.store.apply([Create(scope=scope, memory=each, vector=VECTOR) for each in memories], now=NOW)
        await self.store.apply([self.link(scope, *pair) for pair in itertools.pairwise(ids)], now=NOW)

    def link(self, scope, a, b, weight=1.0):
        fields = {"weight": weight, "directed": False, "metadata": msgspec.Raw(b"{}")}
        return PutLink(scope=scope, link=Link(from_id=a, to_id=b, type="x", created_at=NOW, version=0, **fields))

    async def waiting(self):
        async with self.store._pool.connection() as connection:
            return await connection.fetchval("SELECT count(*) FROM outbox")

    async def mark(self):
        standing = await self.outbox.standing()
        return Mark(standing.lineage, standing.epoch)

    async def drain(self, relay):
        """Turns until nothing is left to do."""
        async with asyncio.timeout(20):
            while True:
                more = [await relay.relay(), await relay.load()]
                backlog = await self.outbox.backlog(1000)
                if not any(more) and not backlog.pending and not backlog.building:
                    return

    async def equal(self, *scopes):
        """Whether the copy has what the database has of some scopes."""
        async with self.store._pool.connection() as connection:
            for scope in scopes:
                assert self.projection.scopes[scope.id].content() == await stored(connection, scope.id), scope

    @contextlib.asynccontextmanager
    async def running(self, *relays):
        tasks = [asyncio.create_task(relay.run()) for relay in relays]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until_equal(self, *scopes):
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(AssertionError, KeyError):
                    await self.equal(*scopes)
                    if not await self.waiting():
                        return
                await asyncio.sleep(0.01)


async def test_everything_that_was_there_is_built_and_followed(world, new_scope, monkeypatch):
    """Users of before, in pages; then what is written; forgotten ones are not copied."""
    monkeypatch.setattr(module, "PAGE_SCOPES", 2)
    monkeypatch.setattr(relaying, "PAGE_ROWS", 3)
    scopes = [new_scope(number) for number in range(5)]
    for number, scope in enumerate(scopes):
        await world.fill(scope, 3 + number)
    await world.store.forget(scopes[4], now=NOW)
    relay = world.relay()
    await world.drain(relay)
    await world.equal(*scopes[:4])
    assert scopes[4].id not in world.projection.scopes
    assert (relay.stats().loaded, relay.stats().applied, relay.stats().begun) == (4, 0, 1)
    await world.store.apply([Delete(scope=scopes[0], id=UUID(int=1))], now=NOW)
    await world.fill(scopes[4], 3)
    await world.fill(new := new_scope(9), 3)
    await PostgresLedger(world.store._pool).raise_version(scopes[1].id)
    await world.drain(relay)
    await world.equal(*scopes, new)
    assert relay.stats().loaded == 5  # of the forgotten user the copy had nothing to begin from


async def test_a_second_start_builds_nothing(world, new_scope):
    """The copy bears the mark; it is only told what came since."""
    await world.fill(scope := new_scope(1), 3)
    await world.drain(world.relay())
    await world.fill(scope, 3, first=10)
    relay = world.relay()
    await world.drain(relay)
    await world.equal(scope)
    assert (relay.stats().begun, relay.stats().loaded, relay.stats().applied) == (0, 0, 2)


@pytest.mark.parametrize("lost", ["empty", "of another life", "replaced"])
async def test_a_copy_that_is_not_of_this_database_is_built_anew(world, new_scope, lost):
    """Its store was lost, the database was restored, or somebody else's copy is there."""
    await world.fill(scope := new_scope(1), 3)
    relay = world.relay()
    await world.drain(relay)
    if lost == "empty":
        world.projection.bears = None
        world.projection.scopes.clear()
        relay = world.relay()
    elif lost == "of another life":
        await PostgresLedger(world.store._pool).begin_life((await world.outbox.standing()).lineage)
        world.projection.scopes[scope.id].version = 99
    else:
        world.projection.bears = Mark(UUID(int=5), 5)
    async with world.running(relay):
        await world.fill(scope, 3, first=10)
        relay.tell()
        await world.until_equal(scope)
    assert relay.stats().begun >= 1
    assert world.projection.bears == await world.mark()


async def test_what_the_copy_does_not_follow_is_loaded(world, new_scope):
    """It lost one user, and another is behind by a step that nobody has any more."""
    scopes = [new_scope(number) for number in range(3)]
    for scope in scopes:
        await world.fill(scope, 3)
    relay = world.relay()
    await world.drain(relay)
    del world.projection.scopes[scopes[0].id]
    await world.fill(scopes[1], 2, first=20)
    async with world.store._pool.connection() as connection:
        await connection.execute("DELETE FROM outbox WHERE version = (SELECT min(version) FROM outbox)")
    for scope in scopes:
        await world.fill(scope, 2, first=30)
    await world.drain(relay)
    await world.equal(*scopes)
    assert relay.stats().loaded == 3 + 2


async def test_steps_of_a_scope_that_is_not_loaded_wait(world, new_scope):
    """Nothing is applied from the middle: the load comes first, and the steps after it."""
    await world.fill(scope := new_scope(1), 3)
    relay = world.relay()
    await relay.relay()  # begins, and nothing is loaded yet
    await world.fill(scope, 3, first=10)
    await relay.relay()
    await relay.relay()
    assert scope.id not in world.projection.scopes
    assert await world.waiting() == 3  # two steps, and the order to load
    await world.drain(relay)
    await world.equal(scope)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", ["apply", "load", "begin"])
async def test_who_dies_in_between_loses_nothing_and_doubles_nothing(world, new_scope, moment, call):
    """Before the copy has taken it, and after that but before the outbox knows; the next relay does the rest."""
    scopes = [new_scope(number) for number in range(4)]
    for scope in scopes:
        await world.fill(scope, 3)
    deaths = 0

    def die(name):
        nonlocal deaths
        if name == call and deaths < 6 and random.random() < 0.5:
            deaths += 1
            raise Killed

    setattr(world.projection, moment, die)
    written = 10
    async with asyncio.timeout(30):
        while True:
            try:
                await world.drain(world.relay())
            except Killed:
                continue
            if deaths == 6:
                break
            for scope in scopes:
                await world.fill(scope, 2, first=written)
            written += 10
            if call != "apply":
                world.projection.bears = None
    await world.equal(*scopes)


async def test_two_relays_do_not_work_on_one_scope_at_once(world, new_scope):
    """Three relays and writers beside them; the copy is what it should be."""
    scopes = [new_scope(number) for number in range(6)]
    working, most = Counter(), Counter()
    apply = world.projection.apply

    async def slow(mark, steps):
        for step in steps:
            working[step.scope_id] += 1
            most[step.scope_id] = max(
                most[step.scope_id],
                working[step.scope_id]
                - len([each for each in steps if each.scope_id == step.scope_id and each.version < step.version]),
            )
        await asyncio.sleep(0.005)
        working.subtract(step.scope_id for step in steps)
        return await apply(mark, steps)

    world.projection.apply = slow
    relays = [world.relay() for _ in range(3)]
    async with world.running(*relays):
        for turn in range(8):
            for scope in scopes:
                await world.fill(scope, 2, first=1 + 10 * turn)
                relays[turn % 3].tell()
        await world.until_equal(*scopes)
    assert max(most.values()) == 1


async def test_a_copy_that_is_away_is_waited_for(world, new_scope):
    """Nothing is lost meanwhile, tries are counted with their reason, and it goes on by itself."""
    await world.fill(scope := new_scope(1), 3)
    relay = world.relay()
    await world.drain(relay)

    def away(_name):
        raise AWAY

    async with world.running(relay):
        world.projection.before = away
        await world.fill(scope, 3, first=10)
        relay.tell()
        async with asyncio.timeout(30):  # what waits is counted now and then
            while (stats := relay.stats()).retried < 5 or stats.pending != 2:
                await asyncio.sleep(0.01)
        assert stats.problem == str(AWAY)
        world.projection.before = lambda _name: None
        await world.until_equal(scope)
        async with asyncio.timeout(10):
            while relay.stats().problem is not None:
                await asyncio.sleep(0.01)
    assert relay.stats().begun == 1


async def test_a_copy_that_was_never_there_makes_nobody_write_for_it(world, new_scope):
    """It is switched on when it answers for the first time, not when it is configured."""

    def away(_name):
        raise AWAY

    world.projection.before = away
    relay = world.relay()
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await relay.relay()
    await world.fill(scope := new_scope(1), 3)
    assert await world.waiting() == 0
    world.projection.before = lambda _name: None
    await world.drain(relay)
    await world.equal(scope)


async def test_too_much_that_waits_drops_the_copy_until_it_is_back(world, new_scope, caplog):
    """The outbox is bounded: it is emptied and written no more; the copy is built anew when it answers."""
    await world.fill(scope := new_scope(1), 3)
    limits = msgspec.structs.replace(LIMITS, outbox_rows=5)
    relay = world.relay(limits=limits)
    await world.drain(relay)

    def away(_name):
        raise AWAY

    world.projection.before = away
    for number in range(3):
        await world.fill(scope, 2, first=10 * number + 10)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await relay.relay()
    assert relay.stats().state == "dropped"
    assert "graph.outbox_rows" in caplog.text
    assert await world.waiting() == 0
    await world.fill(scope, 2, first=90)
    assert await world.waiting() == 0
    world.projection.before = lambda _name: None
    await world.drain(relay)
    await world.equal(scope)
    assert relay.stats().begun == 2


async def test_a_service_without_a_copy_keeps_the_outbox_bounded(world, new_scope):
    """Somebody switched it on and went away: whoever is left sees to the bound."""
    await world.outbox.switch_on()
    watch = OutboxWatch(world.outbox, 3)
    await world.fill(new_scope(1), 3)
    assert (await watch.look()).state == "on"
    await world.fill(new_scope(2), 3)
    assert (await watch.look()).state == "dropped"
    assert await world.waiting() == 0


async def test_switched_off_stays_off_until_the_next_start(world, new_scope):
    """A relay that runs does not switch it on again; the next one does, and builds."""
    await world.fill(scope := new_scope(1), 3)
    relay = world.relay()
    await world.drain(relay)
    await world.outbox.switch_off("off")
    await world.fill(scope, 3, first=10)
    for _ in range(3):
        assert not await relay.relay()
    assert (await world.outbox.standing()).state == "off"
    await world.drain(second := world.relay())
    await world.equal(scope)
    assert second.stats().begun == 1
    await world.fill(scope, 3, first=20)
    await world.drain(relay)
    await world.equal(scope)


async def test_a_forgotten_user_is_erased_from_the_copy(world, new_scope):
    """Nodes and links are gone, also where its steps had not been applied; what comes later is another user."""
    scopes = [new_scope(number) for number in range(2)]
    await world.fill(scopes[0], 3)
    relay = world.relay()
    await world.drain(relay)
    await world.fill(scopes[1], 3)
    for scope in scopes:
        await world.fill(scope, 2, first=10)
        await world.store.forget(scope, now=NOW)
    await world.drain(relay)
    assert [await world.projection.counts(scope.id) for scope in scopes] == [(0, 0), (0, 0)]
    await world.fill(scopes[0], 2)
    await world.drain(relay)
    await world.equal(scopes[0])


async def test_a_step_that_the_engine_does_not_take_holds_nobody_up(world, new_scope, caplog):
    """Its user is loaded instead; the steps of others are applied."""
    scopes = [new_scope(number) for number in range(3)]
    relay = world.relay()
    await world.drain(relay)
    for scope in scopes:
        await world.fill(scope, 3)
    apply = world.projection.apply

    async def picky(mark, steps):
        if any(step.scope_id == scopes[1].id for step in steps):
            raise ValueError("not this one")
        return await apply(mark, steps)

    world.projection.apply = picky
    await world.drain(relay)
    await world.equal(*scopes)
    assert "did not take" in caplog.text


async def test_rebuilding_by_command_beside_a_relay(world, new_scope):
    """It has an epoch of its own, both do the work, and it tells how far it is."""
    scopes = [new_scope(number) for number in range(8)]
    for scope in scopes:
        await world.fill(scope, 3)
    relay = world.relay()
    await world.drain(relay)
    epoch, told = (await world.mark()).epoch, []
    world.projection.scopes[scopes[3].id].nodes.clear()  # what only a rebuilding finds
    async with world.running(relay):
        assert await world.relay().rebuild(lambda done, total: told.append((done, total))) == 8
        assert told[-1] == (8, 8)
        await world.until_equal(*scopes)
    assert (await world.mark()).epoch == epoch + 1


async def test_a_rebuilding_that_cannot_go_on_says_so(world, new_scope, monkeypatch):
    """The copy goes away in the middle."""
    monkeypatch.setattr(module, "STUCK_S", 0.1)
    await world.fill(new_scope(1), 3)

    def away(name):
        if name == "load":
            raise AWAY

    world.projection.before = away
    with pytest.raises(CommandFailed, match="the graph is away"):
        await world.relay().rebuild(lambda _done, _total: None)
