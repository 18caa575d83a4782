"""The one way of changes: a task of its own, and a bump for every scope before anybody is told."""

import asyncio
from uuid import UUID

import pytest
from worlds import DIMENSIONS, EPOCH, memory, scope, vector

from memfast.errors import NotFound, OutcomeUnknown, StoreUnavailable
from memfast.model import Create, Delete, ForgetReceipt, Outcome, Patch
from memfast.service.writer import Writer

ADA, BOB = scope(1), scope(2)


class Commits:
    """A store whose commits wait for `gate` and then do what they were told."""

    def __init__(self, outcomes=()):
        self.outcomes = list(outcomes)
        self.error = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def apply(self, changes, *, now):
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.outcomes

    async def forget(self, scope, *, now):
        await self.apply([], now=now)
        return ForgetReceipt(memories=1, version=9)


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
def commits():
    """The store."""
    return Commits()


@pytest.fixture
def warm():
    """The shards."""
    return Shards()


@pytest.fixture
def writer(world, commits, warm):
    """The writer under test; one write at a time."""
    return Writer(commits, world.coherence, warm, DIMENSIONS, pending_max=1)


def create(owner, number):
    """A create."""
    return Create(scope=owner, memory=memory(number, 0), vector=vector(number))


def outcome(number, version, status="created", scope_version=None, **fields):
    """What became of a change."""
    made = memory(number, version) if status in {"created", "updated", "duplicate"} else None
    named = {"version": version, "scope_version": scope_version or version, "memory": made} | fields
    return Outcome(id=UUID(int=number), status=status, **named)


def bumps(world, owner):
    """How often a scope was bumped."""
    return world.coherence.epochs(owner.id).scope


async def test_every_scope_of_a_write_is_bumped_once(world, writer, commits, warm):
    """And its shard hears what happened to it, and nothing of the others."""
    commits.outcomes = [outcome(1, 5, scope_version=6), outcome(2, 1), outcome(3, 6)]
    await writer.commit([create(ADA, 1), create(BOB, 2), create(ADA, 3)], now=EPOCH)
    assert (bumps(world, ADA), bumps(world, BOB)) == (1, 1)
    delta = warm.deltas[ADA.id]
    assert (delta.since, delta.version) == (4, 6)
    assert [each.id.int for each in delta.memories] == [1, 3]
    assert (delta.vectors == [vector(1), vector(3)]).all()


async def test_the_last_change_of_a_memory_counts(writer, commits, warm):
    """Created, deleted and created again; deleted after a change."""
    again = [create(ADA, 1), Delete(scope=ADA, id=UUID(int=1)), create(ADA, 1), create(ADA, 2)]
    again.append(Delete(scope=ADA, id=UUID(int=2)))
    states = ["created", "deleted", "created", "created", "deleted"]
    numbers = [1, 1, 1, 2, 2]
    commits.outcomes = [
        outcome(number, row, state, scope_version=5)
        for row, (number, state) in enumerate(zip(numbers, states, strict=True), 1)
    ]
    await writer.commit(again, now=EPOCH)
    delta = warm.deltas[ADA.id]
    assert [(each.id.int, each.version) for each in delta.memories] == [(1, 3)]
    assert delta.deleted == [(UUID(int=2), 5)]


@pytest.mark.parametrize("why", ["a row without its vector", "nothing changed"])
async def test_what_is_not_known_in_full_is_no_delta(world, writer, commits, warm, why):
    """The scope is bumped all the same."""
    if why == "nothing changed":
        change, made = create(ADA, 1), outcome(1, 3, "duplicate")
    else:
        change, made = Patch(scope=ADA, id=UUID(int=1), kind="habit"), outcome(1, 3, "updated")
    commits.outcomes = [made]
    await writer.commit([change], now=EPOCH)
    assert warm.deltas == {ADA.id: None}
    assert bumps(world, ADA) == 1


async def test_a_refused_write_is_bumped_too(world, writer, commits):
    """It took a version."""
    commits.outcomes = [outcome(1, 3, None, refused=NotFound("no"))]
    await writer.commit([Delete(scope=ADA, id=UUID(int=1))], now=EPOCH)
    assert bumps(world, ADA) == 1


@pytest.mark.parametrize("error", [StoreUnavailable("away"), OutcomeUnknown("who knows")])
async def test_a_failed_write_is_bumped_too(world, writer, commits, error):
    """It may have been committed."""
    commits.error = error
    with pytest.raises(type(error)):
        await writer.commit([create(ADA, 1), create(BOB, 2)], now=EPOCH)
    with pytest.raises(type(error)):
        await writer.forget(ADA, now=EPOCH)
    assert (bumps(world, ADA), bumps(world, BOB)) == (2, 1)


async def test_no_bump_waits_for_what_may_fail(world, writer, commits, warm):
    """A snapshot that cannot be removed costs none of the scopes its bump."""
    warm.error = RuntimeError("the executor has ended")
    commits.outcomes = [outcome(1, 3, "deleted"), outcome(2, 4, "deleted")]
    changes = [Delete(scope=owner, id=UUID(int=number)) for number, owner in ((1, ADA), (2, BOB))]
    with pytest.raises(RuntimeError):
        await writer.commit(changes, now=EPOCH)
    assert (bumps(world, ADA), bumps(world, BOB)) == (1, 1)
    assert warm.erased == [ADA.id]


async def test_a_forgotten_scope_is_held_no_longer(world, writer, warm):
    """Its shard and what was saved of it go."""
    assert (await writer.forget(ADA, now=EPOCH)).version == 9
    assert (warm.dropped, warm.erased, bumps(world, ADA)) == ([ADA.id], [ADA.id], 1)


async def test_a_caller_that_leaves_does_not_stop_a_write(world, writer, commits):
    """Whoever is cancelled learns that the outcome is not known; the write goes on and is bumped."""
    commits.gate.clear()
    commits.outcomes = [outcome(1, 3)]
    writing = asyncio.create_task(writer.commit([create(ADA, 1)], now=EPOCH))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(OutcomeUnknown):
        await writing
    assert bumps(world, ADA) == 0
    commits.gate.set()
    await writer.drain(10)
    assert bumps(world, ADA) == 1


async def test_a_cancelled_write_is_a_cancellation(writer, commits):
    """The loop that ends takes the write itself with it: that is not an unknown outcome of ours."""
    commits.gate.clear()
    writing = asyncio.create_task(writer.commit([create(ADA, 1)], now=EPOCH))
    await asyncio.sleep(0)
    next(iter(writer._pending)).cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_writes_are_bounded_and_end(writer, commits):
    """One too many is refused, and after the end every one; nothing of them was written."""
    commits.gate.clear()
    commits.outcomes = [outcome(1, 3)]
    writing = asyncio.create_task(writer.commit([create(ADA, 1)], now=EPOCH))
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailable, match="too many"):
        await writer.commit([create(ADA, 2)], now=EPOCH)
    draining = asyncio.create_task(writer.drain(10))
    await asyncio.sleep(0)
    commits.gate.set()
    await draining
    assert (await writing)[0].version == 3
    with pytest.raises(StoreUnavailable, match="stopping"):
        await writer.commit([create(ADA, 2)], now=EPOCH)
    await writer.drain(10)
