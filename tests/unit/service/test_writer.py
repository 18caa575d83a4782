"""The one way of changes: shared transactions, and a bump for every scope before anybody is told."""

import asyncio
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import DIMENSIONS, World, memory, scope, vector

from memfast.errors import (
    DeadlineExceeded,
    MemfastError,
    NotFound,
    OutcomeUnknown,
    QueueFull,
    Stopping,
    StoreUnavailable,
)
from memfast.model import Create, Delete, ForgetReceipt, Outcome, Patch
from memfast.service.commits import Commits
from memfast.service.groups import GroupLimits
from memfast.service.writer import Writer

ADA, BOB = scope(1), scope(2)
LIMITS = {"flush_items": 4, "wait_s": 0.1, "flushes": 2, "queue_items": 8, "background_items": 20, "age_s": 0.5}
TURNS = 200
"""Turns of the event loop in which whatever can happen without a store has happened."""


class FailedError(Exception):
    """What the driver says of a statement that cannot be carried out."""


class Store:
    """A store in memory. Transactions wait for `gate` and then do what they were told.

    `outcomes` are the answers of one transaction; without them everything is created. A change of a memory whose text
    is "bad" fails its transaction. `fates` are those of the next transactions: an error to raise, after the commit when
    it is `OutcomeUnknown`, or a function that returns one.
    """

    def __init__(self):
        self.outcomes = None
        self.fates = []
        self.flushes = []
        self.committed = []
        self.versions = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def apply(self, changes, *, now):
        self.flushes.append(list(changes))
        await self.gate.wait()
        await asyncio.sleep(0)
        fate = self.fates.pop(0) if self.fates else None
        fate = fate() if callable(fate) else fate
        if fate is not None and not isinstance(fate, OutcomeUnknown):
            raise fate
        if any(isinstance(change, Create) and change.memory.text == "bad" for change in changes):
            raise FailedError
        self.committed += changes
        if fate is not None:
            raise fate
        return self.outcomes or [self._created(change) for change in changes]

    async def forget(self, scope, *, now, claim=None, copies=None):
        await self.apply([], now=now)
        return ForgetReceipt(memories=1, version=9, at=now, rows={}, copies={}, keys=0)

    def _created(self, change):
        version = self.versions[change.scope.id] = self.versions.get(change.scope.id, 0) + 1
        return Outcome(
            id=change.memory.id, status="created", version=version, scope_version=version, memory=change.memory
        )


class Shards:
    """The warm tier as a writer sees it."""

    def __init__(self):
        self.deltas = {}
        self.dropped = []
        self.erased = []
        self.error = None

    def wrote(self, scope_id, delta, epochs):
        self.deltas[scope_id] = delta

    def drop(self, scope_id):
        self.dropped.append(scope_id)

    async def erase(self, scope_id):
        self.erased.append(scope_id)
        if self.error is not None:
            raise self.error


@pytest.fixture
def store():
    """The store."""
    return Store()


@pytest.fixture
def warm():
    """The shards."""
    return Shards()


def writing(world, store, warm, **changed):
    """A writer with small bounds."""
    commits = Commits(store, world.coherence, warm, DIMENSIONS, world.clock)
    return Writer(commits, world.clock, GroupLimits(**LIMITS | changed), singly_timeout_s=20.0)


@pytest.fixture
def writer(world, store, warm):
    """The writer under test."""
    return writing(world, store, warm)


def create(owner, number, text="text"):
    """A create."""
    return Create(scope=owner, memory=memory(number, 0, text), vector=vector(number))


def outcome(number, version, status="created", scope_version=None, **fields):
    """What became of a change."""
    made = memory(number, version) if status in {"created", "updated", "duplicate"} else None
    named = {"version": version, "scope_version": scope_version or version, "memory": made} | fields
    return Outcome(id=UUID(int=number), status=status, **named)


def bumps(world, owner):
    """How often a scope was bumped."""
    return world.coherence.epochs(owner.id).scope


async def settled():
    """Let everything happen that waits for nothing."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def under_way(writer, *changes):
    """Tasks that commit a change each, of which the first is under way alone."""
    tasks = []
    for change in changes:
        tasks.append(asyncio.create_task(writer.commit([change])))
        await settled()
    return tasks


async def test_every_scope_of_a_write_is_bumped_once(world, writer, store, warm):
    """And its shard hears what happened to it, and nothing of the others."""
    store.outcomes = [outcome(1, 5, scope_version=6), outcome(2, 1), outcome(3, 6)]
    await writer.commit([create(ADA, 1), create(BOB, 2), create(ADA, 3)])
    assert (bumps(world, ADA), bumps(world, BOB)) == (1, 1)
    delta = warm.deltas[ADA.id]
    assert (delta.since, delta.version) == (4, 6)
    assert [each.id.int for each in delta.memories] == [1, 3]
    assert (delta.vectors == [vector(1), vector(3)]).all()


async def test_the_last_change_of_a_memory_counts(writer, store, warm):
    """Created, deleted and created again; deleted after a change."""
    again = [create(ADA, 1), Delete(scope=ADA, id=UUID(int=1)), create(ADA, 1), create(ADA, 2)]
    again.append(Delete(scope=ADA, id=UUID(int=2)))
    states = ["created", "deleted", "created", "created", "deleted"]
    numbers = [1, 1, 1, 2, 2]
    store.outcomes = [
        outcome(number, row, state, scope_version=5)
        for row, (number, state) in enumerate(zip(numbers, states, strict=True), 1)
    ]
    await writer.commit(again)
    delta = warm.deltas[ADA.id]
    assert [(each.id.int, each.version) for each in delta.memories] == [(1, 3)]
    assert delta.deleted == [(UUID(int=2), 5)]


@pytest.mark.parametrize("why", ["a row without its vector", "nothing changed"])
async def test_what_is_not_known_in_full_is_no_delta(world, writer, store, warm, why):
    """The scope is bumped all the same."""
    if why == "nothing changed":
        change, made = create(ADA, 1), outcome(1, 3, "duplicate")
    else:
        change, made = Patch(scope=ADA, id=UUID(int=1), kind="habit"), outcome(1, 3, "updated")
    store.outcomes = [made]
    await writer.commit([change])
    assert warm.deltas == {ADA.id: None}
    assert bumps(world, ADA) == 1


async def test_a_delete_beside_an_unknown_row_is_erased_too(writer, store, warm):
    """What was saved of the scope still says what was deleted, whether or not the shard can follow."""
    store.outcomes = [outcome(1, 3, "updated", scope_version=4), outcome(2, 4, "deleted")]
    await writer.commit([Patch(scope=ADA, id=UUID(int=1), kind="habit"), Delete(scope=ADA, id=UUID(int=2))])
    assert (warm.deltas, warm.erased) == ({ADA.id: None}, [ADA.id])


async def test_a_refused_write_is_bumped_too(world, writer, store):
    """It took a version."""
    store.outcomes = [outcome(1, 3, None, refused=NotFound("no"))]
    await writer.commit([Delete(scope=ADA, id=UUID(int=1))])
    assert bumps(world, ADA) == 1


@pytest.mark.parametrize("error", [StoreUnavailable("away"), OutcomeUnknown("who knows")])
async def test_a_failed_write_is_bumped_too(world, writer, store, error):
    """It may have been committed; and it is not tried again."""
    store.fates = [error, error]
    with pytest.raises(type(error)):
        await writer.commit([create(ADA, 1), create(BOB, 2)])
    with pytest.raises(type(error)):
        await writer.forget(ADA)
    assert (bumps(world, ADA), bumps(world, BOB)) == (2, 1)
    assert len(store.flushes) == 2


async def test_a_write_that_was_not_begun_voids_no_copy(world, writer, store, warm):
    """The store was not even asked: what is held is still true, and is what reads live on meanwhile."""
    store.fates = [StoreUnavailable("away", begun=False)] * 2
    with pytest.raises(StoreUnavailable):
        await writer.commit([create(ADA, 1)])
    with pytest.raises(StoreUnavailable):
        await writer.forget(ADA)
    assert (bumps(world, ADA), warm.dropped, warm.erased) == (0, [], [])


async def test_no_bump_waits_for_what_may_fail(world, writer, store, warm):
    """A snapshot that cannot be removed costs none of the scopes its bump, and the delete is not done twice."""
    warm.error = RuntimeError("the executor has ended")
    store.outcomes = [outcome(1, 3, "deleted"), outcome(2, 4, "deleted")]
    changes = [Delete(scope=owner, id=UUID(int=number)) for number, owner in ((1, ADA), (2, BOB))]
    with pytest.raises(RuntimeError):
        await writer.commit(changes)
    assert (bumps(world, ADA), bumps(world, BOB)) == (1, 1)
    assert len(warm.erased) == len(store.flushes) == 1


async def test_a_forgotten_scope_is_held_no_longer(world, writer, warm):
    """Its shard and what was saved of it go."""
    assert (await writer.forget(ADA)).version == 9
    assert (warm.dropped, warm.erased, bumps(world, ADA)) == ([ADA.id], [ADA.id], 1)


async def test_writes_that_come_together_share_a_transaction(world, writer, store):
    """Each caller has its own outcome, each scope its own bump, and all of them after the commit."""
    store.gate.clear()
    first, *rest = await under_way(writer, *(create(scope(number), number) for number in range(1, 5)))
    assert [len(flush) for flush in store.flushes] == [1]
    assert bumps(world, ADA) == 0
    store.gate.set()
    results = await asyncio.gather(first, *rest)
    assert [len(flush) for flush in store.flushes] == [1, 3]
    assert [result[0].id.int for result in results] == [1, 2, 3, 4]
    assert [bumps(world, scope(number)) for number in range(1, 5)] == [1] * 4


async def test_a_change_that_waits_long_enough_goes_beside_the_flush_before(writer, world, store):
    """By the timer, without anything else happening."""
    store.gate.clear()
    tasks = await under_way(writer, create(ADA, 1), create(BOB, 2))
    assert len(store.flushes) == 1
    world.clock.seconds += 0.1
    async with asyncio.timeout(10):
        while len(store.flushes) < 2:
            await asyncio.sleep(0.001)
    store.gate.set()
    await asyncio.gather(*tasks)


async def test_one_bad_change_fails_alone(writer, store, world):
    """The flush is rolled back and its changes are written one by one; the bad one is told its own error."""
    store.gate.clear()
    changes = [create(ADA, 1), create(ADA, 2), create(BOB, 3, "bad"), create(BOB, 4)]
    tasks = await under_way(writer, *changes)
    store.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [list, list, FailedError, list]
    assert [change.memory.id.int for change in store.committed] == [1, 2, 4]
    assert (bumps(world, ADA), bumps(world, BOB)) == (3, 3)


async def test_a_single_change_that_fails_is_not_tried_again(writer, store):
    """There is nothing to take apart."""
    with pytest.raises(FailedError):
        await writer.commit([create(ADA, 1, "bad")])
    assert len(store.flushes) == 1


async def test_a_batch_with_a_bad_change_is_taken_apart(writer, store):
    """Its outcome says so for that one."""
    results = await writer.commit([create(ADA, 1), create(ADA, 2, "bad"), create(BOB, 3)])
    assert [result.status for result in results] == ["created", None, "created"]
    assert (results[1].id.int, results[1].refused.status) == (2, 500)


async def test_a_batch_over_its_time_is_not_taken_apart(writer, store):
    """It was too slow as one transaction: a thousand would be slower."""
    store.fates = [DeadlineExceeded("slow")]
    with pytest.raises(DeadlineExceeded):
        await writer.commit([create(ADA, 1), create(BOB, 2)])
    assert len(store.flushes) == 1


async def test_a_group_over_its_time_is_taken_apart(writer, store):
    """Maybe somebody holds one user's lock: the others shall not fail for that."""
    store.gate.clear()
    tasks = await under_way(writer, create(ADA, 1), create(ADA, 2), create(BOB, 3))
    store.fates = [None, DeadlineExceeded("lock"), DeadlineExceeded("lock")]
    store.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [list, DeadlineExceeded, list]


async def test_what_is_taken_apart_stops_when_the_store_is_away(writer, store):
    """It is not asked again for each of the others; whoever's caller has gone is left out."""
    store.gate.clear()
    changes = [create(ADA, 1), create(ADA, 2, "bad"), create(ADA, 3), create(ADA, 4), create(ADA, 5)]
    tasks = await under_way(writer, *changes)
    store.fates = [None, None, None, StoreUnavailable("away")]
    store.gate.set()
    while len(store.flushes) < 2:
        await asyncio.sleep(0)
    tasks[1].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [list, OutcomeUnknown, list, StoreUnavailable, StoreUnavailable]
    assert [len(flush) for flush in store.flushes] == [1, 4, 1, 1]


async def test_a_batch_for_which_the_store_went_away_is_told_so(writer, store):
    """One error for all of it, so that it is asked for again."""
    store.fates = [None, StoreUnavailable("away")]
    with pytest.raises(StoreUnavailable):
        await writer.commit([create(ADA, 1, "bad"), create(ADA, 2)])
    assert len(store.flushes) == 2


async def test_what_is_taken_apart_ends_in_time(writer, store, world):
    """Changes whose turn has not come by then are told that nothing was written."""

    def late():
        world.clock.seconds += 30

    store.fates = [None, late]
    results = await writer.commit([create(ADA, 1, "bad"), create(ADA, 2), create(ADA, 3)])
    assert [result.refused.slug for result in results] == ["error", "deadline-exceeded", "deadline-exceeded"]
    assert len(store.flushes) == 2


async def test_a_caller_that_leaves_does_not_stop_a_write(world, writer, store):
    """Whoever is cancelled learns that the outcome is not known; the write goes on and is bumped."""
    store.gate.clear()
    (task,) = await under_way(writer, create(ADA, 1))
    task.cancel()
    with pytest.raises(OutcomeUnknown):
        await task
    assert bumps(world, ADA) == 0
    store.gate.set()
    await writer.drain(10)
    assert (bumps(world, ADA), len(store.committed)) == (1, 1)


async def test_a_caller_that_leaves_before_its_turn_takes_its_write_along(writer, store):
    """That is a plain cancellation: nothing was written, nor will be."""
    store.gate.clear()
    first, second, third = await under_way(writer, create(ADA, 1), create(BOB, 2), create(BOB, 3))
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    store.gate.set()
    await asyncio.gather(first, third)
    assert [change.memory.id.int for change in store.committed] == [1, 3]


async def test_a_flush_that_is_cancelled_is_of_unknown_outcome(writer, store):
    """Only the loop that ends does that; whoever waits is not told a lie, and the next flush goes."""
    store.gate.clear()
    first, second = await under_way(writer, create(ADA, 1), create(ADA, 2))
    next(iter(writer._flushes)).cancel()
    with pytest.raises(OutcomeUnknown):
        await first
    store.gate.set()
    assert (await second)[0].status == "created"


async def test_too_many_writes_are_refused(writer, store):
    """Nothing of them is written."""
    store.gate.clear()
    tasks = await under_way(writer, *(create(ADA, number) for number in range(1, 10)))
    with pytest.raises(QueueFull):
        await writer.commit([create(ADA, 10)])
    store.gate.set()
    await asyncio.gather(*tasks)
    assert len(store.committed) == 9


async def test_the_end_lets_everything_finish_that_was_taken_in(writer, store):
    """And takes nothing more."""
    store.gate.clear()
    tasks = await under_way(writer, create(ADA, 1), create(ADA, 2), create(BOB, 3))
    draining = asyncio.create_task(writer.drain(10))
    await settled()
    with pytest.raises(Stopping):
        await writer.commit([create(ADA, 4)])
    store.gate.set()
    await draining
    assert all(task.done() for task in tasks)
    assert len(store.committed) == 3
    await writer.drain(10)


async def test_the_end_does_not_wait_for_ever(writer, store):
    """What was not sent by then is told that nothing was written of it."""
    store.gate.clear()
    first, second = await under_way(writer, create(ADA, 1), create(ADA, 2))
    await writer.drain(0.01)
    with pytest.raises(Stopping):
        await second
    assert not first.done()
    store.gate.set()
    await first
    assert len(store.committed) == 1


_FATES = st.sampled_from([None, None, None, StoreUnavailable, OutcomeUnknown, DeadlineExceeded])
_STEPS = st.one_of(
    st.tuples(st.just("write"), st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=3)),
    st.tuples(st.just("write"), st.lists(st.tuples(st.integers(1, 3), st.just(False)), min_size=1, max_size=1)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("turns"), st.integers(0, 12)),
    st.tuples(st.just("late"), st.just(0)),
)


class Play:
    """Steps carried out on a writer, and what every caller was told."""

    def __init__(self, fates):
        self.world, self.store = World(), Store()
        self.store.fates = [fate and fate("so it goes") for fate in fates]
        self.writer = writing(self.world, self.store, Shards())
        self.callers = []
        self.told = {}
        self.single = {owner: set() for owner in (1, 2, 3)}

    async def run(self, steps):
        for number, (kind, value) in enumerate(steps):
            if kind == "write":
                self._write(number, value)
                await asyncio.sleep(0)
            elif kind == "cancel" and self.callers:
                self.callers[value % len(self.callers)].cancel()
            elif kind == "late":
                self.world.clock.seconds += 1
            else:
                for _ in range(value):
                    await asyncio.sleep(0)
        await settled()
        await self.writer.drain(10)
        await asyncio.gather(*self.callers, return_exceptions=True)

    def _write(self, number, items):
        changes = [
            create(scope(owner), number * 10 + row, "bad" if bad else "text") for row, (owner, bad) in enumerate(items)
        ]
        if len(items) == 1:
            self.single[items[0][0]].add(number * 10)
        self.callers.append(asyncio.create_task(self._call(changes)))

    async def _call(self, changes):
        owners = {change.scope for change in changes}
        before = {owner: bumps(self.world, owner) for owner in owners}
        try:
            outcomes = await self.writer.commit(changes)
            results = [result.refused or result for result in outcomes]
            if any(isinstance(result, Outcome) for result in results):
                assert all(
                    bumps(self.world, change.scope) > before[change.scope]
                    for change, result in zip(changes, results, strict=True)
                    if isinstance(result, Outcome)
                )
        except (MemfastError, FailedError, asyncio.CancelledError) as error:
            results = [error] * len(changes)
        for change, result in zip(changes, results, strict=True):
            self.told[change.memory.id.int] = result

    def check(self):
        written = [change.memory.id.int for change in self.store.committed]
        assert len(written) == len(set(written))
        for number, result in self.told.items():
            if isinstance(result, Outcome):
                assert number in written
            elif not isinstance(result, OutcomeUnknown):
                assert number not in written
        for owner in (1, 2, 3):
            single = [number for number in written if number in self.single[owner]]
            assert single == sorted(single)


@settings(max_examples=200, deadline=None)
@given(st.lists(_STEPS, max_size=40), st.lists(_FATES, max_size=10))
def test_whatever_happens_everybody_is_told_the_truth(steps, fates):
    """Acknowledged is written once, refused and taken back is not written, one user's changes stand in their order."""
    with asyncio.Runner() as runner:

        async def play():
            playing = Play(fates)
            await playing.run(steps)
            playing.check()

        runner.run(play())
