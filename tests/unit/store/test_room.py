"""The bound on the disk: what it is measured by, and what a write is told."""

import asyncio
import shutil

import pytest

from memfast.errors import StoreFull
from memfast.store.room import Room

EVERYTHING = 2**62


async def test_writes_are_taken_until_the_first_look(tmp_path):
    """Nothing is refused for what nobody measured."""
    room = Room((tmp_path,), EVERYTHING)
    room.require()
    await room.look()
    with pytest.raises(StoreFull):
        room.require()


async def test_a_refusal_names_what_is_left_and_the_setting(tmp_path):
    """The detail says how much is free, which setting keeps it, and that nothing was begun."""
    room = Room((tmp_path,), EVERYTHING)
    await room.look()
    free_mb = shutil.disk_usage(tmp_path).free // 2**20
    with pytest.raises(StoreFull, match=r"postgres\.disk_reserve_mb") as refused:
        room.require()
    told_mb = int(str(refused.value).split(" MiB")[0].rpartition(" ")[2])
    assert abs(told_mb - free_mb) < 1024
    assert (refused.value.status, refused.value.retry_after_s, refused.value.begun) == (507, 30, False)


async def test_no_reserve_refuses_nothing(tmp_path):
    """Zero switches the bound off."""
    room = Room((tmp_path,), 0)
    await room.look()
    room.require()


async def test_the_fullest_disk_counts(tmp_path):
    """Tables and log may lie on different disks: one of them without room is enough."""
    room = Room((tmp_path, "/proc"), 1)  # a file system without any space at all
    await room.look()
    with pytest.raises(StoreFull):
        room.require()


async def test_a_disk_that_cannot_be_asked_is_as_it_was(tmp_path):
    """A folder that is gone changes nothing."""
    folder = tmp_path / "gone"
    folder.mkdir()
    room = Room((folder,), EVERYTHING)
    await room.look()
    folder.rmdir()
    await room.look()
    with pytest.raises(StoreFull):
        room.require()


async def test_the_watch_notices_room(tmp_path, monkeypatch, caplog):
    """What changes is noticed by itself, in both directions, and logged once each."""
    free = [10]
    monkeypatch.setattr("memfast.store.room._LOOK_S", 0.0)
    monkeypatch.setattr("memfast.store.room._free_bytes", lambda _folders: free[0])
    room = Room((tmp_path,), 5)
    watch = asyncio.create_task(room.watch())

    def refuses():
        try:
            room.require()
        except StoreFull:
            return True
        return False

    try:
        for free[0], expected in ((4, True), (5, False)):
            async with asyncio.timeout(10):
                while refuses() is not expected:
                    await asyncio.sleep(0)
        assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["refused", "taken"]
    finally:
        watch.cancel()


async def test_the_watch_outlives_what_it_meets(tmp_path, monkeypatch, caplog):
    """Whatever goes wrong in a look, the next one follows."""
    looks = []

    def broken(_folders):
        looks.append(1)
        raise ValueError("unexpected")

    monkeypatch.setattr("memfast.store.room._LOOK_S", 0.0)
    monkeypatch.setattr("memfast.store.room._free_bytes", broken)
    watch = asyncio.create_task(Room((tmp_path,), 1).watch())
    try:
        async with asyncio.timeout(10):
            while len(looks) < 3:
                await asyncio.sleep(0)
    finally:
        watch.cancel()
    assert "the watch over the disk failed" in caplog.text


@pytest.mark.parametrize(
    ("reserves", "pause_s"), [(0.5, 0.25), (1, 0.25), (2.5, 0.25), (3, 0.5), (6.9, 1.25), (9, 2.0), (1000, 2.0)]
)
async def test_the_more_is_free_the_seldomer_it_is_looked(tmp_path, monkeypatch, reserves, pause_s):
    """At a reserve in a quarter of a second the reserve itself is never begun before the next look."""
    monkeypatch.setattr("memfast.store.room._free_bytes", lambda _folders: int(reserves * 1000))
    room = Room((tmp_path,), 1000)
    assert room.pause_s == 0.25
    await room.look()
    assert room.pause_s == pause_s
    assert pause_s == 0.25 or reserves - pause_s / 0.25 >= 1
