"""Finished answers: kept while they are true, computed once."""

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest
from worlds import EPOCH, LINEAGE, scope

from memfast.errors import Overloaded
from memfast.service import answers as module
from memfast.service.answers import KEY_BYTES, Answer, Target, derive_key
from memfast.service.tokens import Token, write_token

ADA = scope(1).id
KEY = derive_key(ADA, b"a question")


class Computer:
    """Computes answers, and waits until it may end."""

    def __init__(self, *, free=True):
        self.epochs = []
        self.go = asyncio.Event()
        if free:
            self.go.set()
        self.error = None

    async def __call__(self, epochs):
        self.epochs.append(epochs)
        number = len(self.epochs)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Answer(b"answer %d" % number, number, "cold")


async def ask(world, compute):
    """The one question."""
    return await world.answers.answer("search", KEY, ADA, compute)


async def begun(count=20):
    """Let other tasks come as far as they can."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_keys_tell_every_part_apart():
    """Neither the border between parts nor the scope is lost in a key."""
    keys = {
        derive_key(ADA, b"a", b"bc"),
        derive_key(ADA, b"ab", b"c"),
        derive_key(ADA, b"abc"),
        derive_key(ADA, b"abc", b""),
        derive_key(scope(2).id, b"abc"),
    }
    assert len(keys) == 5
    assert {len(key) for key in keys} == {KEY_BYTES}


async def test_an_answer_is_computed_once_and_then_hot(world):
    """The second asker gets the bytes and the version of the first."""
    compute = Computer()
    assert await ask(world, compute) == Answer(b"answer 1", 1, "cold")
    assert await ask(world, compute) == Answer(b"answer 1", 1, "hot")
    assert compute.epochs == [world.coherence.epochs(ADA)]


async def test_a_thousand_equal_misses_are_one_computation(world):
    """All of them get its answer."""
    compute = Computer(free=False)
    askers = [asyncio.create_task(ask(world, compute)) for _ in range(1000)]
    await begun()
    compute.go.set()
    assert {answer.body for answer in await asyncio.gather(*askers)} == {b"answer 1"}
    assert len(compute.epochs) == 1


@pytest.mark.parametrize("bump", ["scope", "everything"])
async def test_nobody_joins_a_flight_of_an_older_epoch(world, bump):
    """Who asks after a write is answered by a computation that began after it, and keeps that answer."""
    compute = Computer(free=False)
    first = asyncio.create_task(ask(world, compute))
    await begun()
    if bump == "scope":
        world.coherence.wrote(ADA, 1)
    else:
        world.coherence.drop_everything()
    second = asyncio.create_task(ask(world, compute))
    await begun()
    assert len(compute.epochs) == 2
    compute.go.set()
    assert [(await first).body, (await second).body] == [b"answer 1", b"answer 2"]
    assert (await ask(world, compute)).body == b"answer 2"


async def test_an_answer_of_an_older_epoch_is_not_given(world):
    """A write between snapshot and keep: the kept bytes are void from the start."""
    compute = Computer(free=False)
    asker = asyncio.create_task(ask(world, compute))
    await begun()
    world.coherence.wrote(ADA, 1)
    compute.go.set()
    await asker
    assert world.answers.look("search", KEY, ADA, world.coherence.epochs(ADA).slot) is None


async def test_a_cancelled_asker_does_not_cancel_the_others(world):
    """The first asker may leave: the computation is not his."""
    compute = Computer(free=False)
    first = asyncio.create_task(ask(world, compute))
    await begun()
    second = asyncio.create_task(ask(world, compute))
    await begun()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    compute.go.set()
    assert (await second).body == b"answer 1"
    assert len(compute.epochs) == 1


async def test_a_failure_reaches_every_asker_and_is_not_kept(world):
    """The next asker computes again."""
    compute = Computer(free=False)
    compute.error = ValueError("no")
    askers = [asyncio.create_task(ask(world, compute)) for _ in range(3)]
    await begun()
    compute.go.set()
    assert [str(each) for each in await asyncio.gather(*askers, return_exceptions=True)] == ["no"] * 3
    compute.error = None
    assert (await ask(world, compute)).body == b"answer 2"


async def test_a_failure_that_nobody_waits_for_is_quiet(world, caplog):
    """All askers may have gone when a computation fails."""
    compute = Computer(free=False)
    compute.error = ValueError("no")
    asker = asyncio.create_task(ask(world, compute))
    await begun()
    asker.cancel()
    await asyncio.gather(asker, return_exceptions=True)
    compute.go.set()
    await begun()
    assert not caplog.records


async def test_flights_are_bounded(world, monkeypatch):
    """Beyond the bound equal questions are computed one by one."""
    monkeypatch.setattr(module, "_FLIGHTS_MAX", 0)
    compute = Computer(free=False)
    askers = [asyncio.create_task(ask(world, compute)) for _ in range(2)]
    await begun()
    assert len(compute.epochs) == 2
    compute.go.set()
    await asyncio.gather(*askers)


def keep(world, **fields):
    """Keep an answer."""
    epochs = world.coherence.epochs(ADA)
    world.answers.keep("search", KEY, ADA, epochs, Answer(b"body", 3, "cold", **fields))
    return lambda: world.answers.look("search", KEY, ADA, epochs.slot)


def test_an_answer_ends_when_a_hit_expires(world):
    """To the microsecond, by the wall clock that the memory's end is told in."""
    look = keep(world, expires_at=EPOCH + timedelta(seconds=130))
    world.clock.seconds = 129.999999
    assert look() == Answer(b"body", 3, "hot")
    world.clock.seconds = 130.0
    assert look() is None


def test_an_answer_that_has_ended_is_not_kept(world):
    """Nor is it counted among the copies."""
    assert keep(world, expires_at=EPOCH + timedelta(seconds=100))() is None
    assert not world.coherence._copied


def test_an_end_in_a_thousand_years_is_no_end(world):
    """Its nanoseconds are more than 64 bits hold."""
    assert keep(world, expires_at=EPOCH.replace(year=9999))() is not None


def test_a_memorys_version_is_not_its_scopes(world):
    """The header's version is the memory's, the copy's age the scope's."""
    keep(world, scope_version=8)
    assert world.coherence._copied[ADA][1] == 8


def test_a_request_is_recognised_by_its_digest(world):
    """The same request gets the kept bytes; another, or one whose answer is void, nothing."""
    keep(world)
    slot = world.coherence.epochs(ADA).slot
    ours, theirs = b"o" * KEY_BYTES, b"t" * KEY_BYTES
    world.answers.note(ours, Target("search", KEY, ADA, slot))
    assert world.answers.recognise(ours) == (b"body", 3, "search")
    assert world.answers.recognise(theirs) is None
    world.coherence.wrote(ADA, 4)
    assert world.answers.recognise(ours) is None


@pytest.mark.parametrize("kind", ["search", "list", "get"])
async def test_a_recognised_request_is_checked_like_any_other(world, kind):
    """It is answered from the cache of its kind, and the next check covers its scope."""
    owner = scope(2**127 + 5).id
    epochs = world.coherence.epochs(owner)
    world.answers.keep(kind, KEY, owner, epochs, Answer(b"body", 3, "cold"))
    world.answers.note(b"r" * KEY_BYTES, Target(kind, KEY, owner, epochs.slot))
    world.ledger.versions_of = {owner: 4}
    assert world.answers.recognise(b"r" * KEY_BYTES) == (b"body", 3, kind)
    await world.coherence.check()
    assert world.ledger.asked == [[owner]]
    assert world.answers.recognise(b"r" * KEY_BYTES) is None


@pytest.mark.parametrize("kind", ["search", "get"])
async def test_a_recognised_request_must_be_new_enough(world, kind):
    """A token that the copies do not meet, or that is none, and trust that has ended, lead past what is kept."""
    epochs = world.coherence.epochs(ADA)
    world.answers.keep(kind, KEY, ADA, epochs, Answer(b"body", 3, "cold", scope_version=7 if kind == "get" else None))
    world.answers.note(b"r" * KEY_BYTES, Target(kind, KEY, ADA, epochs.slot))
    version = world.answers.look(kind, KEY, ADA, epochs.slot).state
    assert version == (7 if kind == "get" else 3)
    met, ahead = (write_token(Token(LINEAGE, each)) for each in (version, version + 1))
    elsewhere = write_token(Token(UUID(int=5), version))
    found = [world.answers.recognise(b"r" * KEY_BYTES, token) for token in (met, ahead, elsewhere, b"none")]
    assert found == [(b"body", 3, kind), None, None, None]
    world.coherence.cluster = True
    assert world.answers.recognise(b"r" * KEY_BYTES) is None
    world.ledger.versions_of[ADA] = version
    await world.coherence.confirm(ADA)
    assert world.answers.recognise(b"r" * KEY_BYTES) == (b"body", 3, kind)


def test_the_caches_can_be_emptied_and_shrunk(world):
    """What they hold can be read, released in part, swept and cleared."""
    look = keep(world, expires_at=EPOCH + timedelta(seconds=110))
    held = world.answers.nbytes
    assert held == sum(stats.bytes for stats in world.answers.stats().values()) > 0
    assert world.answers.release(1) == held
    assert look() is None
    look = keep(world)
    world.answers.sweep()
    assert look() is not None
    world.answers.clear()
    assert look() is None
    assert world.answers.nbytes == 0


async def test_what_would_be_refused_is_not_begun(world):
    """A question that nobody computes yet is refused before anything is spent on it; one under way may be joined."""
    gate, full = asyncio.Event(), False

    def require_room():
        if full:
            raise Overloaded("full", begun=False)

    world.answers._require_room = require_room

    async def compute(_epochs):
        await gate.wait()
        return Answer(b"body", 1, "cold")

    first = asyncio.create_task(world.answers.answer("search", KEY, ADA, compute))
    await asyncio.sleep(0)
    full = True
    second = asyncio.create_task(world.answers.answer("search", KEY, ADA, compute))
    with pytest.raises(Overloaded):
        await world.answers.answer("search", derive_key(ADA, b"another"), ADA, compute)
    gate.set()
    assert [answer.body for answer in await asyncio.gather(first, second)] == [b"body", b"body"]


async def test_a_search_that_was_left_by_all_is_not_joined(world):
    """Who comes after the last has left begins anew."""
    started = 0
    gate = asyncio.Event()

    async def compute(_epochs):
        nonlocal started
        started += 1
        await gate.wait()
        return Answer(b"body", 1, "cold")

    first = asyncio.create_task(world.answers.answer("search", KEY, ADA, compute))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    second = asyncio.create_task(world.answers.answer("search", KEY, ADA, compute))
    await asyncio.wait([first])
    gate.set()
    assert (await second).body == b"body"
    assert started == 2
