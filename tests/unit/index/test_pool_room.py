"""How shards share their room."""

import errno
from uuid import UUID

import pytest
from index_world import DIMENSIONS, IDENTITY, VECTORS

from memfast.errors import CommandFailed
from memfast.index import pool as module
from memfast.index.pool import ShardPool
from memfast.model import Scope, Snapshot

IDS = [UUID(int=number + 1) for number in range(4)]
ADA = Scope(IDS[0], "default", "ada")


@pytest.fixture
def made(tmp_path):
    """Function: a pool for so many empty shards."""

    def build(count, folder=tmp_path):
        measure = _pool(0, folder)
        return _pool(count * _shard(measure).nbytes, folder)

    return build


def _pool(capacity_bytes, folder, **options):
    return ShardPool(
        capacity_bytes,
        snapshots=folder,
        life=lambda: IDENTITY.lineage,
        generation=IDENTITY.generation,
        dimensions=DIMENSIONS,
        admit_window_s=600.0,
        **options,
    )


def _shard(pool, owner=ADA):
    return pool.build(owner, Snapshot(memories=[], vectors=VECTORS[:0], version=1, purged_to=0))


def test_the_coldest_shards_leave_first(made):
    """Asking for a shard warms it; what is held is counted."""
    pool = made(3)
    for scope_id in IDS[:3]:
        assert pool.put(scope_id, _shard(pool))
    pool.get(IDS[0])
    assert pool.put(IDS[3], _shard(pool))
    assert [pool.get(scope_id) is not None for scope_id in IDS] == [True, False, True, True]
    stats = pool.stats()
    assert (stats.shards, stats.rows, stats.evictions, stats.bytes) == (3, 0, 1, pool.nbytes)


def test_a_dropped_shard_gives_its_room_back(made):
    """Dropping twice is dropping once."""
    pool = made(1)
    pool.put(IDS[0], _shard(pool))
    pool.drop(IDS[0])
    pool.drop(IDS[0])
    assert pool.nbytes == 0
    assert pool.put(IDS[1], _shard(pool), evict=False)


def test_room_is_released_in_whole_shards(made):
    """As many as the wanted bytes need."""
    pool = made(3)
    for scope_id in IDS[:3]:
        pool.put(scope_id, _shard(pool))
    one = pool.nbytes // 3
    pool.sweep()
    assert pool.release(1) == one
    assert pool.release(10 * one) == 2 * one
    assert pool.release(1) == 0


def test_remembered_misses_are_bounded(made, monkeypatch):
    """The oldest is forgotten first, and begins anew."""
    monkeypatch.setattr(module, "ADMISSIONS_MAX", 2)
    pool = made(1)
    assert [pool.note_miss(scope_id, 1.0) for scope_id in IDS[:3]] == [False] * 3
    assert [pool.note_miss(scope_id, 2.0) for scope_id in (IDS[2], IDS[0])] == [True, False]


def test_a_shard_is_saved_and_restored(made, tmp_path):
    """In the folder of snapshots, which is made when it is needed."""
    pool = made(1, tmp_path / "new")
    assert pool.restore(ADA) is None
    assert pool.save(ADA, _shard(pool)) == next((tmp_path / "new").iterdir()).stat().st_size
    assert pool.restore(ADA).version == 1
    (tmp_path / "new" / f"{ADA.id.hex}.shard.1.tmp").touch()
    pool.unsave(ADA.id)
    assert not list((tmp_path / "new").iterdir())


def test_what_cannot_be_saved_says_so(made, tmp_path):
    """A shard of another kind, or a folder that cannot be written."""
    pool = made(1)
    with pytest.raises(TypeError, match="object is not a shard"):
        pool.save(ADA, object())
    (tmp_path / "file").touch()
    with pytest.raises(CommandFailed, match="cannot be written"):
        made(1, tmp_path / "file").save(ADA, _shard(pool))


def test_saving_leaves_the_reserve_of_the_disk(tmp_path):
    """A snapshot that would take from it is not begun, and nothing of it is on the disk."""
    pool = _pool(2**20, tmp_path, disk_reserve_bytes=2**62)
    with pytest.raises(CommandFailed, match=r"postgres\.disk_reserve_mb"):
        pool.save(ADA, _shard(pool))
    assert list(tmp_path.iterdir()) == []
    assert pool.restore(ADA) is None


def test_a_disk_that_is_full_while_saving_leaves_the_snapshot_before(tmp_path, monkeypatch):
    """The old file stands as it was, and no draft is left."""
    pool = _pool(2**20, tmp_path)
    pool.save(ADA, _shard(pool))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("memfast.index.snapshot.os.fsync", full)
    with pytest.raises(CommandFailed, match="No space left"):
        pool.save(ADA, _shard(pool))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
