"""What the pool of shards holds, and what it does not try again."""

from pathlib import Path
from uuid import UUID

import pytest
from index_world import DIMENSIONS, IDENTITY, VECTORS, at

from memfast.index.pool import ShardPool, unsave_all
from memfast.model import Scope, Snapshot
from memory_world import memory_of

SCOPE = Scope(UUID(int=1), "default", "ada")
WINDOW_S = 600.0


@pytest.fixture
def snapshot():
    """One memory."""
    memory = memory_of(at(0), id=UUID(int=7), user_id="ada", text="peanuts", version=1)
    return Snapshot(memories=[memory], vectors=VECTORS[:1], version=1, purged_to=0)


def make_pool(capacity_bytes, **options):
    """Build an empty pool."""
    return ShardPool(
        capacity_bytes,
        snapshots=Path("/nonexistent"),
        life=lambda: IDENTITY.lineage,
        generation=IDENTITY.generation,
        dimensions=DIMENSIONS,
        admit_window_s=WINDOW_S,
        **options,
    )


def test_a_scope_that_fits_is_loaded_at_its_second_miss(snapshot):
    """Two misses within the window are worth a load, and the loaded shard is held."""
    pool = make_pool(1 << 20)
    assert [pool.note_miss(SCOPE.id, 1000.0), pool.note_miss(SCOPE.id, 1001.0)] == [False, True]
    shard = pool.build(SCOPE, snapshot)
    assert pool.put(SCOPE.id, shard)
    assert pool.get(SCOPE.id) is shard


def test_a_scope_larger_than_all_room_is_not_loaded_at_every_search(snapshot):
    """After a load that did not fit, misses ask for none before the window is over."""
    pool = make_pool(0)
    pool.note_miss(SCOPE.id, 1000.0)
    assert pool.note_miss(SCOPE.id, 1001.0)
    assert not pool.put(SCOPE.id, pool.build(SCOPE, snapshot))
    later = [1001.0 + seconds for seconds in (1, 2, 300, WINDOW_S)]
    assert [pool.note_miss(SCOPE.id, moment) for moment in later] == [False] * 4
    after = 1001.0 + WINDOW_S + 1
    assert [pool.note_miss(SCOPE.id, after), pool.note_miss(SCOPE.id, after + 1)] == [False, True]


def test_a_warm_up_without_room_leaves_the_scope_to_its_searches(snapshot):
    """A shard that only found no free room is loaded when searches ask for it."""
    pool = make_pool(pool_bytes := make_pool(0).build(SCOPE, snapshot).nbytes)
    other = UUID(int=2)
    assert pool.put(other, pool.build(SCOPE, snapshot))
    assert pool.nbytes == pool_bytes
    assert not pool.put(SCOPE.id, pool.build(SCOPE, snapshot), evict=False)
    assert [pool.note_miss(SCOPE.id, 1000.0), pool.note_miss(SCOPE.id, 1001.0)] == [False, True]
    assert pool.put(SCOPE.id, pool.build(SCOPE, snapshot))
    assert pool.get(other) is None


def test_a_scope_is_as_old_as_it_has_been_held(snapshot):
    """A write replaces its shard and makes it no younger; who leaves and comes back begins anew."""
    now = iter([100.0, 110.0, 130.0, 140.0, 160.0])
    pool = make_pool(1 << 20, monotonic=lambda: next(now))
    for scope_id in (SCOPE.id, UUID(int=2), SCOPE.id):
        pool.put(scope_id, pool.build(SCOPE, snapshot))
    stats = pool.stats()
    assert (stats.age_s, stats.oldest_s) == (30 + 20, 30)
    pool.drop(SCOPE.id)
    pool.put(SCOPE.id, pool.build(SCOPE, snapshot))
    stats = pool.stats()
    assert (stats.age_s, stats.oldest_s) == (20 + 50, 50)


def test_everything_saved_is_removed_and_nothing_else(tmp_path, caplog):
    """Saved shards, and those half written; one that cannot be removed is said."""
    for name in ("a.shard", "b.shard.1.tmp", "notes"):
        (tmp_path / name).touch()
    unsave_all(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
    assert not caplog.records
    (tmp_path / "c.shard").mkdir()
    unsave_all(tmp_path)
    assert "could not be removed" in caplog.text
