"""Shards of users that are asked often: kept at the database's state, never behind it."""

import asyncio
import importlib
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import msgspec
import numpy as np
import pytest
from worlds import DIMENSIONS, Rows, memory, scope, shards, vector, vectors

from memfast.errors import StoreUnavailable
from memfast.model import Delta
from memfast.service import warm as module
from memfast.service.warm import Warm

ADA = scope(1)


@pytest.fixture
def rows():
    """Three memories."""
    made = Rows()
    for number in (1, 2, 3):
        made.put(number)
    return made


@pytest.fixture
def pool(tmp_path):
    """The shards that are held."""
    return shards(tmp_path)


@pytest.fixture
def warming(world, rows, pool):
    """Function: the warm tier of a worker."""
    with ThreadPoolExecutor(1) as executor:
        yield lambda held=pool: Warm(held, rows, world.coherence, executor, executor, DIMENSIONS, 20_000, world.clock)


@pytest.fixture
async def warm(warming):
    """The same, with the user loaded."""
    made = warming()
    assert await made.load(ADA)
    return made


def epochs(world):
    """The user's epochs now."""
    return world.coherence.epochs(ADA.id)


def delta(*memories, since, version, deleted=()):
    """What a write of this worker did."""
    return Delta(
        since=since,
        version=version,
        purged_to=0,
        memories=list(memories),
        vectors=vectors(memories),
        deleted=[(UUID(int=number), own) for number, own in deleted],
    )


def ids(shard):
    """Who is found in a shard."""
    hits = shard.search(vector(0), 100, now_us=0)
    return sorted(UUID(bytes=shard.id_bytes(row)).int for row in hits.rows)


async def begun(condition):
    """Let other tasks come as far as a condition."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_a_loaded_shard_is_current_until_a_write(world, warm):
    """Then it is behind, and nobody is given it."""
    before = epochs(world)
    assert ids(warm.current(ADA.id, before)) == [1, 2, 3]
    world.coherence.wrote(ADA.id, 4)
    assert warm.current(ADA.id, before) is not None
    assert warm.current(ADA.id, epochs(world)) is None


async def test_a_current_shard_is_checked_with_the_served(world, warm, rows):
    """It is a copy like any other."""
    warm.current(ADA.id, epochs(world))
    world.ledger.versions_of = {ADA.id: rows.version + 1}
    await world.coherence.check()
    assert warm.current(ADA.id, epochs(world)) is None


async def test_a_users_second_miss_loads_it(world, warming, rows, pool):
    """The first does nothing; one that comes while the load runs begins no other."""
    warm = warming()
    assert await warm.shard(ADA, epochs(world)) is None
    warm.missed(ADA)
    assert rows.loads == 0
    rows.gate.clear()
    warm.missed(ADA)
    warm.missed(ADA)
    await begun(lambda: rows.loads)
    rows.gate.set()
    assert await warm.load(ADA)
    assert rows.loads == 1
    assert ids(warm.current(ADA.id, epochs(world))) == [1, 2, 3]


async def test_a_search_waits_for_a_load_that_is_under_way(world, warming, rows, monkeypatch):
    """As long as it comes soon; without a load nobody waits."""
    warm, before = warming(), epochs(world)
    assert await warm.arriving(ADA.id, before) is None
    rows.gate.clear()
    load = warm.load(ADA)
    monkeypatch.setattr(module, "ARRIVES_S", 0.01)
    assert await warm.arriving(ADA.id, before) is None
    assert not load.done(), "a search that waits no longer takes the load with it"
    monkeypatch.setattr(module, "ARRIVES_S", 30.0)
    waiting = asyncio.create_task(warm.arriving(ADA.id, before))
    await begun(lambda: rows.loads)
    rows.gate.set()
    assert ids(await waiting) == [1, 2, 3]
    late = asyncio.create_task(warm.arriving(ADA.id, before))
    assert await late is None, "the load is over: `current` has it"
    world.coherence.wrote(ADA.id, 4)
    rows.gate.clear()
    again = warm.load(ADA)
    waiting = asyncio.create_task(warm.arriving(ADA.id, epochs(world)))
    await begun(lambda: rows.loads == 2)
    world.coherence.wrote(ADA.id, 5)
    rows.gate.set()
    assert await again
    await waiting
    assert await warm.arriving(ADA.id, epochs(world)) is None
    assert warm.current(ADA.id, epochs(world)) is None, "what was written meanwhile is not in it"


async def test_misses_long_apart_load_nothing(world, warming, rows):
    """Within the window, or not at all."""
    warm = warming()
    warm.missed(ADA)
    world.clock.seconds += 601
    warm.missed(ADA)
    await asyncio.sleep(0)
    assert rows.loads == 0


async def test_waiting_loads_are_bounded(warming, monkeypatch):
    """One too many is given up at once."""
    monkeypatch.setattr(module, "WAITING_LOADS_MAX", 1)
    warm = warming()
    first, second = warm.load(ADA), warm.load(scope(2))
    assert warm.load(ADA) is first
    assert await first
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_a_load_that_fails_is_no_load(world, warming, rows):
    """The database is away: the user stays cold."""
    rows.away = True
    warm = warming()
    assert not await warm.load(ADA)
    assert await warm.shard(ADA, epochs(world)) is None


async def test_a_write_during_a_load_leaves_it_behind(world, warming, rows):
    """The shard is complete for the epochs from before its snapshot; the next search brings it up."""
    warm = warming()
    rows.gate.clear()
    loading = warm.load(ADA)
    await begun(lambda: rows.loads)
    rows.delete(1)
    world.coherence.wrote(ADA.id, rows.version)
    rows.gate.set()
    assert await loading
    assert warm.current(ADA.id, epochs(world)) is None
    assert ids(await warm.shard(ADA, epochs(world))) == [2, 3]


async def test_own_writes_are_followed_without_a_query(world, warm, rows):
    """Creates, changes and deletes of this worker are known here."""
    rows.put(4)
    warm.wrote(ADA.id, delta(rows.live[4], since=3, version=4), world.coherence.wrote(ADA.id, 4))
    assert ids(warm.current(ADA.id, epochs(world))) == [1, 2, 3, 4]
    rows.delete(2)
    warm.wrote(ADA.id, delta(since=4, version=5, deleted=[(2, 5)]), world.coherence.wrote(ADA.id, 5))
    assert ids(await warm.shard(ADA, epochs(world))) == [1, 3, 4]
    assert rows.deltas == 0


@pytest.mark.parametrize("why", ["unknown rows", "other's write between", "other's version between", "not held"])
async def test_what_does_not_follow_on_is_not_applied(world, warm, rows, pool, why):
    """The shard waits for a query where this worker cannot know all that happened."""
    rows.put(4)
    own = delta(rows.live[4], since=3, version=4)
    if why == "other's write between":
        world.coherence.wrote(ADA.id, 0)
    if why == "other's version between":
        rows.version = 5
        own = delta(memory(4, 5), since=4, version=5)
    if why == "not held":
        warm.drop(ADA.id)
    warm.wrote(ADA.id, None if why == "unknown rows" else own, world.coherence.wrote(ADA.id, rows.version))
    assert warm.current(ADA.id, epochs(world)) is None
    assert await warm.shard(ADA, epochs(world)) is None if why == "not held" else rows.deltas == 0


async def test_a_shard_that_cannot_follow_goes(world, warm, caplog):
    """The write is committed whatever the copy does: no error comes out, and the copy is dropped."""
    broken = delta(memory(4, 4), since=3, version=4)
    broken = msgspec.structs.replace(broken, vectors=np.zeros((1, DIMENSIONS + 1), np.float32))
    warm.wrote(ADA.id, broken, world.coherence.wrote(ADA.id, 4))
    assert "could not follow" in caplog.text
    assert await warm.shard(ADA, epochs(world)) is None


async def test_anothers_write_costs_one_query_however_many_wait(world, warm, rows):
    """A hundred searches that find the shard behind share one delta."""
    rows.put(4)
    rows.delete(1)
    world.coherence.wrote(ADA.id, 5)
    rows.gate.clear()
    now = epochs(world)
    searches = [asyncio.create_task(warm.shard(ADA, now)) for _ in range(100)]
    await begun(lambda: rows.deltas)
    searches.pop().cancel()
    rows.gate.set()
    found = await asyncio.gather(*searches)
    assert rows.deltas == 1
    assert {tuple(ids(shard)) for shard in found} == {(2, 3, 4)}
    assert warm.current(ADA.id, now) is found[0]


async def test_a_catch_up_that_fails_is_tried_again(world, warm, rows):
    """The error reaches who waits, also nobody; the shard stays where it was."""
    world.coherence.wrote(ADA.id, 4)
    rows.away = True
    with pytest.raises(StoreUnavailable):
        await warm.shard(ADA, epochs(world))
    rows.away = False
    assert await warm.shard(ADA, epochs(world)) is not None


async def test_a_catch_up_of_what_was_dropped_gives_nothing(world, warm):
    """The shard may go between a search and its delta."""
    world.coherence.wrote(ADA.id, 4)
    waiting = asyncio.create_task(warm.shard(ADA, epochs(world)))
    await asyncio.sleep(0)
    warm.drop(ADA.id)
    assert await waiting is None


@pytest.mark.parametrize("why", ["no row", "purged", "went back"])
async def test_what_no_delta_reaches_is_loaded_anew(world, warm, rows, why):
    """The user has no row, its tombstones are gone, or the database is older than the shard."""
    if why == "no row":
        rows.empty = True
    if why == "purged":
        rows.version = rows.purged_to = 4
        rows.live.clear()
    if why == "went back":
        rows.version, rows.live = 1, {1: rows.live[1]}
    world.coherence.wrote(ADA.id, 4)
    assert await warm.shard(ADA, epochs(world)) is None
    assert await warm.load(ADA)
    wanted = {"no row": [1, 2, 3], "purged": [], "went back": [1]}[why]
    assert ids(warm.current(ADA.id, epochs(world))) == wanted


async def test_no_delta_leads_into_another_life(world, warm, rows):
    """After everything was voided a shard is loaded anew, whatever its version."""
    rows.live = {7: memory(7, 2)}
    world.coherence.drop_everything()
    assert await warm.shard(ADA, epochs(world)) is None
    assert await warm.load(ADA)
    assert rows.deltas == 0
    assert ids(await warm.shard(ADA, epochs(world))) == [7]


async def test_an_older_shard_never_replaces_a_newer_one(world, warm, rows):
    """A slow delta of older epochs ends after a fast one of newer epochs."""
    slow = Rows()
    slow.__dict__.update(rows.__dict__ | {"gate": asyncio.Event()})
    first = world.coherence.wrote(ADA.id, 4)
    warm._store = slow
    waiting = asyncio.create_task(warm.shard(ADA, first))
    await begun(lambda: slow.deltas == 1)
    warm._store = rows
    rows.put(4)
    second = world.coherence.wrote(ADA.id, 5)
    newer = await warm.shard(ADA, second)
    slow.gate.set()
    assert ids(await waiting) == [1, 2, 3]
    assert warm.current(ADA.id, second) is newer
    assert ids(newer) == [1, 2, 3, 4]


async def test_of_equal_epochs_the_newer_version_stays(world, warm):
    """A load that began before an unannounced commit and one that began after it are of one epoch."""
    now = epochs(world)
    held = warm.current(ADA.id, now)
    newer = held.apply(delta(memory(4, 4), since=3, version=4))
    assert warm._hold(ADA.id, newer, now)
    assert warm._hold(ADA.id, held, now)
    assert warm.current(ADA.id, now) is newer


async def test_a_shard_that_finds_no_room_is_not_held(world, warming, rows, tmp_path):
    """It is larger than all there is; nothing of it stays behind."""
    warm = warming(shards(tmp_path, capacity_bytes=10))
    assert not await warm.load(ADA)
    assert warm.current(ADA.id, epochs(world)) is None


async def test_a_shard_that_cannot_be_made_is_not_held(warm, world):
    """What is held goes with it."""
    assert not warm._hold(ADA.id, None, epochs(world))
    assert warm.current(ADA.id, epochs(world)) is None


async def test_remembered_epochs_are_bounded(world, warming, rows, monkeypatch):
    """A shard whose epochs are forgotten is loaded anew: it may be of another life."""
    monkeypatch.setattr(module, "COMPLETE_MAX", 1)
    warm = warming()
    assert await warm.load(ADA)
    assert await warm.load(scope(2))
    assert await warm.shard(ADA, epochs(world)) is None
    assert await warm.load(ADA)
    assert rows.loads == 3


async def test_long_searches_take_a_thread(world, warm, monkeypatch):
    """Short ones may run on the event loop."""
    threads = []
    shard = warm.current(ADA.id, epochs(world))

    def work():
        import threading

        threads.append(threading.current_thread() is threading.main_thread())
        return 7

    assert warm.is_short(shard)
    monkeypatch.setattr(module, "INLINE_CELLS", 0)
    assert not warm.is_short(shard)
    assert await warm.run(work) == 7
    assert threads == [False]


async def test_a_saved_shard_is_brought_up_and_not_loaded(world, warm, warming, rows, pool):
    """A new worker maps what was saved, and asks for what came since."""
    assert pool.save(ADA, warm.current(ADA.id, epochs(world))) > 0
    pool.drop(ADA.id)
    rows.delete(1)
    rows.put(4)
    world.coherence.wrote(ADA.id, rows.version)
    started = warming()
    assert await started.load(ADA)
    assert ids(started.current(ADA.id, epochs(world))) == [2, 3, 4]
    assert (rows.loads, rows.deltas) == (1, 1)


@pytest.mark.parametrize("why", ["no row", "went back"])
async def test_a_saved_shard_that_no_delta_continues_is_left(world, warm, warming, rows, pool, why):
    """The database is asked for everything instead."""
    pool.save(ADA, warm.current(ADA.id, epochs(world)))
    pool.drop(ADA.id)
    rows.empty = why == "no row"
    rows.version, rows.live = 1, {1: rows.live[1]}
    started = warming()
    assert await started.load(ADA)
    assert ids(started.current(ADA.id, epochs(world))) == [1]
    assert rows.loads == 2


async def test_what_was_saved_of_an_erased_memory_goes(world, warm, pool, tmp_path, caplog):
    """A file that cannot be removed is told of and costs nothing else."""
    pool.save(ADA, warm.current(ADA.id, epochs(world)))
    await warm.erase(ADA.id)
    assert not list(tmp_path.iterdir())
    await warm.erase(ADA.id)
    assert not caplog.records
    (tmp_path / f"{ADA.id.hex}.shard").mkdir()
    await warm.erase(ADA.id)
    assert "could not be removed" in caplog.text


@pytest.fixture
def worn(monkeypatch):
    """A shard is worn after one change."""
    monkeypatch.setattr(importlib.import_module("memfast.index.shard"), "WORN_ROWS_MIN", 1)


async def behind(world, warm, rows):
    """Let another worker write twice, and a search find it."""
    rows.put(4)
    rows.delete(1)
    world.coherence.wrote(ADA.id, rows.version)
    return await warm.shard(ADA, epochs(world))


async def test_a_worn_shard_is_rebuilt_in_the_background(world, warm, rows, worn):
    """Once, with what was written meanwhile, while searches go on."""
    rows.gate.clear()
    searching = asyncio.create_task(behind(world, warm, rows))
    await begun(lambda: rows.deltas == 1)
    rows.gate.set()
    found = await searching
    assert found.needs_rebuild(20_000)
    rows.put(5)
    await begun(lambda: not warm._rebuilds)
    shard = warm.current(ADA.id, epochs(world))
    assert not shard.needs_rebuild(20_000)
    assert ids(shard) == [2, 3, 4, 5]


async def test_a_rebuild_that_fails_leaves_the_shard(world, warm, rows, worn, caplog):
    """The database went away while it ran: what is held goes on."""
    found = await behind(world, warm, rows)
    rows.away = True
    await begun(lambda: not warm._rebuilds)
    assert "could not be rebuilt" in caplog.text
    assert warm.current(ADA.id, epochs(world)) is found


async def test_a_rebuild_stays_in_its_life(world, warm, rows, worn):
    """When everything was voided meanwhile, no delta may lead it on."""
    await behind(world, warm, rows)
    world.coherence.drop_everything()
    await begun(lambda: not warm._rebuilds)
    assert warm.current(ADA.id, epochs(world)) is None


async def test_a_shard_for_one_answer_is_shared_by_those_who_ask_at_once(world, warming, rows):
    """One query for all of them, and nothing is held afterwards."""
    warm = warming()
    rows.gate.clear()
    asked = [asyncio.create_task(warm.transient(ADA)) for _ in range(20)]
    await begun(lambda: rows.loads)
    asked.pop().cancel()
    rows.gate.set()
    found = await asyncio.gather(*asked)
    assert rows.loads == 1
    assert {id(shard) for shard in found} == {id(found[0])}
    assert ids(found[0]) == [1, 2, 3]
    assert warm.current(ADA.id, epochs(world)) is None


async def test_a_write_parts_those_who_ask_before_it_from_those_after(world, warming, rows):
    """Who asks after an acknowledged write never gets a shard that was begun before it."""
    warm = warming()
    rows.gate.clear()
    before = asyncio.create_task(warm.transient(ADA))
    await begun(lambda: rows.loads)
    rows.put(4)
    world.coherence.wrote(ADA.id, rows.version)
    after = asyncio.create_task(warm.transient(ADA))
    await begun(lambda: rows.loads == 2)
    rows.gate.set()
    assert ids(await before) == [1, 2, 3]
    assert ids(await after) == [1, 2, 3, 4]


@pytest.mark.parametrize("written", [False, True])
async def test_a_load_under_way_serves_a_cold_answer_too(world, warming, rows, written):
    """It is waited for instead of a second query, unless a write made it old meanwhile."""
    warm = warming()
    rows.gate.clear()
    loading = warm.load(ADA)
    await begun(lambda: rows.loads)
    if written:
        rows.put(4)
        world.coherence.wrote(ADA.id, rows.version)
    asked = asyncio.create_task(warm.transient(ADA))
    await asyncio.sleep(0)
    rows.gate.set()
    assert ids(await asked) == ([1, 2, 3, 4] if written else [1, 2, 3])
    assert await loading
    assert rows.loads == 1 + written


async def test_a_shard_for_one_answer_that_fails_reaches_who_waits(warming, rows):
    """The database is away: the error is theirs, and the next one tries again."""
    warm = warming()
    rows.away = True
    with pytest.raises(StoreUnavailable):
        await warm.transient(ADA)
    rows.away = False
    assert ids(await warm.transient(ADA)) == [1, 2, 3]


async def test_a_filter_that_reads_json_makes_a_search_long(warm, pool, monkeypatch):
    """A short search is long when it reads the JSON of more rows than the event loop can wait for."""
    monkeypatch.setattr(module, "INLINE_DECODED_ROWS", 2)
    shard = pool.get(ADA.id)
    assert warm.is_short(shard)
    assert not warm.is_short(shard, decodes=True)
