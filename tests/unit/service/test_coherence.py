"""Epochs, and the watch over what they cannot see."""

import asyncio
from uuid import UUID

import msgspec
import pytest
from worlds import LINEAGE, Counters, scope

from memfast.errors import StoreUnavailable
from memfast.service import coherence as module
from memfast.service.coherence import SILENT_CHECKS, TRUST_S
from memfast.service.tokens import Token

ADA, BOB = scope(1).id, scope(2).id


async def test_epochs_hold_until_a_write_to_the_scope(world):
    """Another scope's write changes nothing, one's own does, and so does the end of everything."""
    epochs = world.coherence.epochs(ADA)
    world.coherence.wrote(BOB, 1)
    assert world.coherence.holds(epochs)
    assert world.coherence.wrote(ADA, 1) == epochs._replace(scope=epochs.scope + 1)
    assert not world.coherence.holds(epochs)
    epochs = world.coherence.epochs(ADA)
    world.coherence.drop_everything()
    assert not world.coherence.holds(epochs)
    assert world.coherence.current(epochs.slot) == (epochs.scope, epochs.every + 1)


async def test_a_new_era_voids_every_copy_everywhere(world):
    """Here at once, in other hosts with their next check and once; where the database is away nothing happens."""
    slots, heard = Counters(), []
    far = module.Coherence(slots, world.ledger, world.ledger.facts, world.clock, heard.append, cluster=True)
    here, there = world.coherence.epochs(ADA), far.epochs(ADA)
    world.ledger.away = True
    with pytest.raises(StoreUnavailable):
        await world.coherence.begin_era()
    assert world.coherence.holds(here)
    world.ledger.away = False
    await world.coherence.begin_era()
    assert not world.coherence.holds(here)
    assert (world.coherence.facts.era, world.heard[-1].era) == (1, 1)
    assert far.holds(there)
    await far.check()
    assert not far.holds(there)
    assert (far.facts.era, heard[-1].era) == (1, 1)
    again = [world.coherence.epochs(ADA), far.epochs(ADA)]
    await far.check()
    await world.coherence.check()
    assert [world.coherence.holds(again[0]), far.holds(again[1])] == [True, True]


async def test_raising_a_version_voids_the_copies_of_one_scope(world):
    """As a write does; where the database may have been asked they are void too, else they stay."""
    ada, bob = world.coherence.epochs(ADA), world.coherence.epochs(BOB)
    world.ledger.away, world.ledger.asks = True, False
    with pytest.raises(StoreUnavailable):
        await world.coherence.raise_version(ADA)
    assert world.coherence.holds(ada)
    world.ledger.asks = True
    with pytest.raises(StoreUnavailable):
        await world.coherence.raise_version(ADA)
    assert not world.coherence.holds(ada)
    ada, world.ledger.away = world.coherence.epochs(ADA), False
    await world.coherence.raise_version(ADA)
    assert not world.coherence.holds(ada)
    assert world.coherence.holds(bob)


async def test_a_check_reads_what_was_served_once(world):
    """Each check covers what was served since the one before."""
    world.coherence.served(ADA)
    world.coherence.served(ADA)
    await world.coherence.check()
    await world.coherence.check()
    assert world.ledger.asked == [[ADA], []]


async def test_a_check_voids_copies_older_than_the_database(world):
    """One that is as new as the database stays."""
    for scope_id, version in ((ADA, 5), (BOB, 6)):
        world.coherence.copied(scope_id, world.coherence.epochs(scope_id), version)
        world.coherence.served(scope_id)
    world.ledger.versions_of = {ADA: 6, BOB: 6}
    ada, bob = world.coherence.epochs(ADA), world.coherence.epochs(BOB)
    await world.coherence.check()
    assert not world.coherence.holds(ada)
    assert world.coherence.holds(bob)


async def test_the_oldest_copy_counts(world):
    """That a newer version was seen says nothing about a copy that was kept before, or comes later."""
    world.ledger.versions_of = {ADA: 6}
    for versions in ((5, 6), (6, 5)):
        epochs = world.coherence.epochs(ADA)
        for version in versions:
            world.coherence.copied(ADA, epochs, version)
        world.coherence.served(ADA)
        await world.coherence.check()
        assert not world.coherence.holds(epochs)


async def test_copies_of_older_epochs_count_no_more(world):
    """What a write has voided is not voided again, in whatever order copies arrive."""
    old = world.coherence.epochs(ADA)
    world.coherence.copied(ADA, old, 5)
    new = world.coherence.wrote(ADA, 6)
    world.ledger.versions_of = {ADA: 6}
    world.coherence.served(ADA)
    await world.coherence.check()
    assert world.coherence.holds(new)
    world.coherence.copied(ADA, new, 6)
    world.coherence.copied(ADA, old, 5)
    world.coherence.served(ADA)
    await world.coherence.check()
    assert world.coherence.holds(new)


async def test_idle_copies_take_turns(world, monkeypatch):
    """Copies that nobody asks for are checked too, those first that waited longest; void ones are not."""
    monkeypatch.setattr(module, "IDLE_MAX", 2)
    ids = [scope(number).id for number in range(1, 5)]
    for scope_id in ids:
        world.coherence.copied(scope_id, world.coherence.epochs(scope_id), 1)
        world.ledger.versions_of[scope_id] = 1
    world.coherence.wrote(ids[2], 2)
    world.ledger.versions_of[ids[2]] = 2
    world.coherence.served(ids[0])
    for _ in range(4):
        await world.coherence.check()
    assert world.ledger.asked == [[ids[0], ids[1]], [ids[3]], [ids[0], ids[1]], [ids[3], ids[0]]]


async def test_what_is_beyond_a_check_is_void(world, monkeypatch):
    """Of more scopes than one statement covers the rest loses its copies unasked."""
    monkeypatch.setattr(module, "SERVED_MAX", 1)
    before = {scope_id: world.coherence.epochs(scope_id) for scope_id in (ADA, BOB)}
    for scope_id, epochs in before.items():
        world.coherence.copied(scope_id, epochs, 1)
        world.coherence.served(scope_id)
    world.ledger.versions_of = {ADA: 1, BOB: 1}
    await world.coherence.check()
    assert sum(world.coherence.holds(epochs) for epochs in before.values()) == 1


async def test_what_is_not_remembered_is_void(world, monkeypatch):
    """Of more copies than are remembered the oldest could not be compared any more: they are void at once."""
    monkeypatch.setattr(module, "KNOWN_MAX", 1)
    epochs = world.coherence.epochs(ADA)
    world.coherence.copied(ADA, epochs, 1)
    world.coherence.copied(BOB, world.coherence.epochs(BOB), 1)
    assert not world.coherence.holds(epochs)


async def test_scopes_of_one_slot_are_told_apart(world):
    """Versions belong to scopes: a busy neighbour in the slot costs misses, and hides nothing."""
    world.slots = Counters(2)
    coherence = world.another()
    epochs = coherence.epochs(ADA)
    coherence.copied(BOB, epochs, 9)
    coherence.copied(ADA, epochs, 5)
    world.ledger.versions_of = {ADA: 6, BOB: 9}
    coherence.served(ADA)
    await coherence.check()
    assert not coherence.holds(epochs)


async def test_trust_ends_when_the_database_is_silent(world):
    """A check that fails renews nothing and forgets nothing; the next that works does both."""
    assert world.coherence.stale_for_s() == 0.0
    world.coherence.served(ADA)
    world.clock.seconds += TRUST_S + 3
    await world.fall_silent()
    assert world.coherence.stale_for_s() == 3.0
    world.ledger.away = False
    await world.coherence.check()
    assert world.coherence.stale_for_s() == 0.0
    assert world.ledger.asked == [[ADA]] * (SILENT_CHECKS + 1)


async def test_a_pause_of_the_machine_is_not_the_databases_silence(world):
    """However long nobody came to ask, and where it was late once: only checks in a row that it did not answer are."""
    world.clock.seconds += 1000
    for _ in range(5):
        world.ledger.away = True
        for _ in range(SILENT_CHECKS - 1):
            with pytest.raises(StoreUnavailable):
                await world.coherence.check()
        assert world.coherence.stale_for_s() == 0.0
        world.ledger.away = False
        await world.coherence.check()
        world.clock.seconds += 1000


async def test_whatever_a_check_fails_with_it_confirms_nothing(world, monkeypatch):
    """Also errors that nobody foresaw."""

    async def broken(_ids):
        raise ValueError("unforeseen")

    monkeypatch.setattr(world.ledger, "versions", broken)
    world.clock.seconds += TRUST_S + 1
    for _ in range(SILENT_CHECKS):
        with pytest.raises(ValueError, match="unforeseen"):
            await world.coherence.check()
    assert world.coherence.stale_for_s() == 1.0


async def test_trust_counts_from_the_start_of_the_check(world):
    """What happens while the query runs is not confirmed by it."""
    checking = asyncio.create_task(world.coherence.check())
    await asyncio.sleep(0)
    world.clock.seconds += 5
    await checking
    await world.fall_silent()
    assert world.coherence.stale_for_s() == 5 - TRUST_S


async def test_a_check_that_took_long_is_followed_by_the_next_at_once(world, monkeypatch):
    """From one to the next it is the interval, unless the database takes longer than that."""
    took, pauses = iter([0.1, 0.5, 3.0]), []

    async def check():
        world.clock.seconds += next(took)

    async def sleep(seconds):
        pauses.append(round(seconds, 6))
        if len(pauses) == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr(world.coherence, "check", check)
    monkeypatch.setattr("memfast.service.coherence.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await world.coherence.watch(0.5)
    assert pauses == [0.5, 0.4, 0.0, 0.0]


async def test_a_new_life_voids_everything(world):
    """Another lineage means another database: all copies go, and the listener hears of it."""
    epochs = world.coherence.epochs(ADA)
    world.ledger.facts = msgspec.structs.replace(world.ledger.facts, lineage=UUID(int=5))
    await world.coherence.check()
    assert not world.coherence.holds(epochs)
    assert world.heard == [world.ledger.facts]
    assert world.coherence.facts == world.ledger.facts


@pytest.mark.parametrize("sign", ["wal", "version", "row"])
async def test_a_database_that_went_back_begins_a_new_life(world, sign):
    """An older log, an older version than was seen, or no row where there was one: all copies go."""
    epochs = world.coherence.epochs(ADA)
    world.coherence.copied(ADA, epochs, 5)
    world.coherence.served(ADA)
    world.ledger.versions_of = {} if sign == "row" else {ADA: 4 if sign == "version" else 5}
    if sign == "wal":
        world.ledger.facts = msgspec.structs.replace(world.ledger.facts, wal=999)
    await world.coherence.check()
    assert not world.coherence.holds(epochs)
    assert world.ledger.lives == 1
    assert world.coherence.facts.lineage != LINEAGE
    await world.coherence.check()
    assert world.ledger.lives == 1


async def test_the_watch_goes_on_whatever_it_meets(world, caplog):
    """A silent database and a fault of our own end one check, not the watch."""
    seen = asyncio.Event()
    answers = iter([StoreUnavailable("away"), ValueError("a fault")])

    async def versions(scope_ids, real=world.ledger.versions):
        error = next(answers, None)
        if error is not None:
            raise error
        seen.set()
        return await real(scope_ids)

    world.ledger.versions = versions
    watch = asyncio.create_task(world.coherence.watch(0.001))
    await asyncio.wait_for(seen.wait(), 10)
    watch.cancel()
    assert "a fault" in caplog.text
    await asyncio.gather(watch, return_exceptions=True)


async def test_copies_have_a_floor(world):
    """The lowest version of the copies that are good for the epochs; none without copies, or after a write."""
    epochs = world.coherence.epochs(ADA)
    assert world.coherence.floor(ADA, epochs) == -1
    world.coherence.copied(ADA, epochs, 6)
    world.coherence.copied(ADA, epochs, 5)
    assert world.coherence.floor(ADA, epochs) == 5
    assert world.coherence.floor(ADA, world.coherence.wrote(ADA, 7)) == -1


async def test_a_confirmation_reads_after_it_was_asked_for(world):
    """Who asks while a statement is under way shares the next one with all others who do."""
    world.ledger.versions_of = {ADA: 5}
    first = asyncio.create_task(world.coherence.confirm(ADA))
    while not world.ledger.asked:
        await asyncio.sleep(0)
    world.ledger.versions_of = {ADA: 6, BOB: 7}
    later = [asyncio.create_task(world.coherence.confirm(scope_id)) for scope_id in (ADA, BOB, ADA, scope(3).id)]
    await first
    assert [await each for each in later] == [6, 7, 6, 0]
    assert [set(asked) for asked in world.ledger.asked] == [{ADA}, {ADA, BOB, scope(3).id}]


async def test_a_confirmation_voids_what_is_older(world):
    """Copies in the database's version stay."""
    for scope_id, version in ((ADA, 5), (BOB, 6)):
        world.coherence.copied(scope_id, world.coherence.epochs(scope_id), version)
        world.ledger.versions_of[scope_id] = 6
    before = [world.coherence.epochs(scope_id) for scope_id in (ADA, BOB)]
    await asyncio.gather(*map(world.coherence.confirm, (ADA, BOB)))
    assert [world.coherence.holds(epochs) for epochs in before] == [False, True]


async def test_a_failed_confirmation_is_everybodys_and_the_next_is_new(world):
    """All who share it hear of it, also where somebody of them has gone."""
    world.ledger.away = True
    asking = [asyncio.create_task(world.coherence.confirm(ADA)) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in results] == [asyncio.CancelledError, StoreUnavailable, StoreUnavailable]
    world.ledger.away = False
    assert await world.coherence.confirm(ADA) == 0


async def test_a_check_and_a_confirmation_do_not_cross(world):
    """A statement that began later is not followed by the result of one that began before."""
    go = asyncio.Event()

    async def slow(scope_ids, real=world.ledger.versions):
        result = await real(scope_ids)
        world.ledger.versions = real
        await go.wait()
        return result

    world.ledger.versions = slow
    checking = asyncio.create_task(world.coherence.check())
    while not world.ledger.asked:
        await asyncio.sleep(0)
    world.ledger.facts = msgspec.structs.replace(world.ledger.facts, wal=2000)
    confirming = asyncio.create_task(world.coherence.confirm(ADA))
    for _ in range(10):
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(checking, confirming)
    assert (world.coherence.facts.wal, world.ledger.lives) == (2000, 0)


async def test_trust_in_a_scope_is_bounded(world, monkeypatch):
    """On one host it has no end; on several it has, and of more scopes than are remembered the oldest lose it first."""
    assert world.coherence.trusts(ADA.bytes)
    world.coherence.cluster = True
    monkeypatch.setattr(module, "KNOWN_MAX", 1)
    assert not world.coherence.trusts(ADA.bytes)
    for scope_id, other in ((ADA, BOB), (BOB, ADA)):
        await world.coherence.confirm(scope_id)
        assert world.coherence.trusts(scope_id.bytes)
        assert not world.coherence.trusts(other.bytes)
    world.clock.seconds += 3
    assert world.coherence.unconfirmed_s(BOB.bytes) == 3
    assert not world.coherence.trusts(BOB.bytes)


async def test_what_may_be_used_as_it_is(world):
    """Trusted, and not older than the token, which is of this life."""
    epochs = world.coherence.epochs(ADA)
    world.coherence.copied(ADA, epochs, 5)
    assert world.coherence.allows(ADA.bytes, epochs, None)
    assert world.coherence.allows(ADA.bytes, epochs, Token(LINEAGE, 5))
    assert not world.coherence.allows(ADA.bytes, epochs, Token(LINEAGE, 6))
    assert not world.coherence.allows(ADA.bytes, epochs, Token(UUID(int=5), 5))
    world.coherence.cluster = True
    assert not world.coherence.allows(ADA.bytes, epochs, None)
