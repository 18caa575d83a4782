"""How new an answer must be, and what is done until it is."""

import asyncio
from uuid import UUID

import msgspec
import pytest
from worlds import LINEAGE, scope

from memfast.errors import NotFound, OtherLineage, StoreUnavailable, VersionAhead
from memfast.service import freshness as module
from memfast.service.answers import Answer, Target
from memfast.service.coherence import TRUST_S
from memfast.service.freshness import Demand, Freshness
from memfast.service.tokens import Token

ADA = scope(1).id
TARGET = Target("search", b"k" * 24, ADA, 1)


class Reader:
    """Answers with the versions of a list, one after another; 0 stands for a memory that is not there."""

    def __init__(self, *versions):
        self.versions = list(versions)
        self.reads = 0
        self.meanwhile = lambda: None

    async def __call__(self):
        self.reads += 1
        self.meanwhile()
        version = self.versions.pop(0)
        if version == 0:
            raise NotFound("no such memory")
        return Answer(b"", version, "warm"), TARGET


def at_least(version, *, strong=False, lineage=LINEAGE):
    """A demand."""
    return Demand(Token(lineage, version), strong)


def holding(world, version):
    """A copy of Ada's memories is held in this version; gives its epochs."""
    epochs = world.coherence.epochs(ADA)
    world.coherence.copied(ADA, epochs, version)
    return epochs


@pytest.fixture
def fresh(world):
    """Freshness over a world in which Ada's memories are at version 5."""
    world.ledger.versions_of[ADA] = 5
    return Freshness(world.coherence)


async def test_a_read_without_a_demand_asks_nothing(world, fresh):
    """On one host the slots say everything."""
    holding(world, 4)
    assert (await fresh.read(ADA, None, Reader(4)))[0].version == 4
    assert world.ledger.asked == []


@pytest.mark.parametrize("held", [5, 6])
async def test_copies_that_are_new_enough_answer_at_once(world, fresh, held):
    """The token's version, or a newer one."""
    holding(world, held)
    assert (await fresh.read(ADA, at_least(5), Reader(held)))[0].version == held
    assert world.ledger.asked == []


async def test_copies_that_are_too_old_are_void_before_the_read(world, fresh):
    """One statement, and then the read is made of the new state."""
    epochs = holding(world, 4)
    reader = Reader(5)
    reader.meanwhile = lambda: world.coherence.holds(epochs) and pytest.fail("the old copy could answer")
    await fresh.read(ADA, at_least(5), reader)
    assert (world.ledger.asked, reader.reads) == ([[ADA]], 1)


async def test_without_copies_the_read_itself_shows_the_version(world, fresh):
    """Nothing is asked beforehand where only the database can answer."""
    assert (await fresh.read(ADA, at_least(5), Reader(5)))[0].version == 5
    assert world.ledger.asked == []


@pytest.mark.parametrize("old", [4, 0])
async def test_an_answer_that_began_too_early_is_made_again(world, fresh, old):
    """A read may join a computation from before the write, which the slots do not tell of; also one that found nothing."""
    epochs = world.coherence.epochs(ADA)
    reader = Reader(old, 5)
    assert (await fresh.read(ADA, at_least(5), reader))[0].version == 5
    assert not world.coherence.holds(epochs)
    assert (world.ledger.asked, reader.reads) == ([[ADA]], 2)


async def test_a_memory_that_is_not_there_is_not_there(world, fresh):
    """Said of the state that was asked for; without a demand at once."""
    reader = Reader(0, 0)
    with pytest.raises(NotFound):
        await fresh.read(ADA, at_least(5), reader)
    assert reader.reads == 2
    with pytest.raises(NotFound):
        await fresh.read(ADA, None, Reader(0))
    world.ledger.versions_of.clear()
    with pytest.raises(NotFound):
        await fresh.read(ADA, Demand(None, strong=True), Reader(0))


async def test_who_raised_the_slot_meanwhile_has_done_it(world, fresh):
    """The slot is not raised again: copies made since are good."""
    reader = Reader(4, 5)
    reader.meanwhile = lambda: world.coherence.wrote(ADA, 5) if reader.reads == 1 else None
    before = world.coherence.epochs(ADA)
    await fresh.read(ADA, at_least(5), reader)
    assert world.coherence.epochs(ADA).scope == before.scope + 1


async def test_it_ends(world, fresh):
    """A reader that stays old whatever is done is an error, not a loop."""
    reader = Reader(*[4] * module.ATTEMPTS)
    with pytest.raises(StoreUnavailable):
        await fresh.read(ADA, at_least(5), reader)
    assert reader.reads == module.ATTEMPTS


@pytest.mark.parametrize("held", [None, 5])
async def test_a_version_that_does_not_exist_is_refused(world, fresh, held):
    """Whether or not there are copies."""
    if held is not None:
        holding(world, held)
    with pytest.raises(VersionAhead, match=r"6.*5"):
        await fresh.read(ADA, at_least(6), Reader(5))


async def test_strong_asks_the_database_each_time(world, fresh):
    """And answers from a state that is not older than that."""
    epochs = holding(world, 5)
    for _ in range(2):
        assert (await fresh.read(ADA, Demand(None, strong=True), Reader(5)))[0].version == 5
    assert world.ledger.asked == [[ADA], [ADA]]
    assert world.coherence.holds(epochs)
    world.ledger.versions_of[ADA] = 6
    await fresh.read(ADA, Demand(None, strong=True), Reader(6))
    assert not world.coherence.holds(epochs)
    with pytest.raises(VersionAhead):
        await fresh.read(ADA, at_least(7, strong=True), Reader(6))


async def test_without_the_database_only_copies_that_are_new_enough_answer(world, fresh):
    """The rest is refused, and so is strong."""
    holding(world, 5)
    world.ledger.away = True
    await fresh.read(ADA, at_least(5), Reader(5))
    for demand in (at_least(6), Demand(None, strong=True)):
        with pytest.raises(StoreUnavailable):
            await fresh.read(ADA, demand, Reader(5))


async def test_a_token_of_another_life_is_refused(world, fresh):
    """Also where the version would do."""
    holding(world, 5)
    with pytest.raises(OtherLineage):
        await fresh.read(ADA, at_least(1, lineage=UUID(int=5)), Reader(5))


async def test_a_new_life_may_be_heard_of_by_its_token(world, fresh):
    """Another host noticed the restore first: this one looks before it refuses."""
    old = holding(world, 5)
    new = world.ledger.facts = msgspec.structs.replace(world.ledger.facts, lineage=UUID(int=5))
    await fresh.read(ADA, at_least(5, lineage=new.lineage), Reader(5))
    assert not world.coherence.holds(old)
    with pytest.raises(OtherLineage):
        await fresh.read(ADA, at_least(5), Reader(5))


class TestCluster:
    """Several hosts write: nothing is believed for longer than `TRUST_S`."""

    @pytest.fixture
    def world(self, world):
        """A worker that knows of other hosts."""
        world.coherence.cluster = True
        return world

    @pytest.mark.parametrize("demand", [None, at_least(4)])
    async def test_expired_trust_is_checked_at_use(self, world, fresh, demand):
        """Once, and then not for a second."""
        epochs = holding(world, 4)
        reader = Reader(5, 5, 5)
        reader.meanwhile = lambda: world.coherence.holds(epochs) and pytest.fail("the old copy could answer")
        await fresh.read(ADA, demand, reader)
        world.clock.seconds += TRUST_S - 0.01
        await fresh.read(ADA, demand, reader)
        await world.coherence.check()
        assert world.ledger.asked == [[ADA], []]
        world.clock.seconds += 0.02
        await fresh.read(ADA, demand, reader)
        assert world.ledger.asked == [[ADA], [], [ADA]]

    async def test_a_silent_database_is_waited_for_shortly(self, world, fresh, monkeypatch):
        """What is held answers, and says for how long it was not confirmed."""
        monkeypatch.setattr(module, "CONFIRM_S", 0.01)
        await fresh.read(ADA, None, Reader(5))
        world.clock.seconds += TRUST_S + 2
        await world.coherence.check()
        world.clock.seconds += TRUST_S / 2
        go = asyncio.Event()

        async def silent(_ids, real=world.ledger.versions):
            await go.wait()
            return await real(_ids)

        monkeypatch.setattr(world.ledger, "versions", silent)
        answer, _ = await fresh.read(ADA, None, Reader(5))
        assert answer.unconfirmed_s == TRUST_S + 2 + TRUST_S / 2
        go.set()
        answer, _ = await fresh.read(ADA, None, Reader(5))
        assert answer.unconfirmed_s == 0.0

    async def test_a_database_that_is_known_to_be_away_is_not_asked(self, world, fresh):
        """The check that goes on finds it again; until then no read waits for it."""
        await world.fall_silent()
        asked = len(world.ledger.asked)
        world.clock.seconds += TRUST_S + 1
        answer, _ = await fresh.read(ADA, None, Reader(5))
        assert len(world.ledger.asked) == asked
        assert answer.unconfirmed_s == TRUST_S + 1
