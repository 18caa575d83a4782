"""The lock on a data directory."""

import os
import threading
from pathlib import Path

import pytest

from memfast.errors import DatabaseRefused, DataDirBusy
from memfast.store.embedded import DataDirLock, holder_pids


def test_a_second_holder_is_refused_and_told_who_holds(base):
    """A held data directory names its holder and the way out."""
    with DataDirLock.acquire(base / "data", 0):
        with pytest.raises(DataDirBusy, match=rf"{base}/data.*\b{os.getpid()}\b.*--data-dir") as caught:
            DataDirLock.acquire(base / "data", 0.1)
        assert caught.value.exit_code == 4
        assert holder_pids(base / "data") == [os.getpid()]
    assert holder_pids(base / "data") == []
    DataDirLock.acquire(base / "data", 0).release()


def test_the_lock_is_free_only_when_parent_and_worker_are_gone(base, child):
    """A forked worker keeps the lock after its parent was killed, and is the one that is named."""
    ready_read, ready_write = os.pipe()

    def parent():
        DataDirLock.acquire(base / "data", 0)
        worker = os.fork()
        if worker == 0:
            threading.Event().wait()
        os.write(ready_write, worker.to_bytes(4, "big"))
        threading.Event().wait()

    started = child(parent)
    worker = int.from_bytes(os.read(ready_read, 4), "big")
    os.close(ready_read)
    os.close(ready_write)
    try:
        assert holder_pids(base / "data") == [started.pid, worker]
        started.kill()
        assert holder_pids(base / "data") == [worker]
        with pytest.raises(DataDirBusy, match=rf"\b{worker}\b"):
            DataDirLock.acquire(base / "data", 0)
    finally:
        os.kill(worker, 9)
    DataDirLock.acquire(base / "data", 30).release()


def test_releasing_leaves_the_lock_to_living_workers(base, child):
    """A parent that ends in order does not take the lock away from its worker."""
    lock = DataDirLock.acquire(base / "data", 0)
    worker = child(threading.Event().wait)
    lock.release()
    lock.release()
    assert holder_pids(base / "data") == [worker.pid]
    worker.kill()
    assert holder_pids(base / "data") == []


def test_a_waiting_service_gets_the_lock_and_is_never_named_as_holder(base, child, poll):
    """Who waits has the file open too, but holds nothing; and its wait ends when the holder does."""
    lock = DataDirLock.acquire(base / "data", 0)
    descriptor = lock.fileno()

    def wait():
        os.close(descriptor)  # not a worker: a service of its own
        DataDirLock.acquire(base / "data", 30).release()
        return "got it"

    waiting = child(wait)
    path = os.fspath(base / "data" / "lock")
    poll(lambda: path in {os.path.realpath(entry) for entry in Path(f"/proc/{waiting.pid}/fd").iterdir()})
    poll(lambda: holder_pids(base / "data") == [os.getpid()])
    lock.release()
    assert waiting.result() == "got it"


def test_another_program_inherits_the_lock_only_on_purpose(base):
    """The descriptor is inheritable, so a spawned worker can be given it."""
    with DataDirLock.acquire(base / "data", 0) as lock:
        assert os.get_inheritable(lock.fileno())


def test_a_file_in_place_of_the_data_directory_is_refused(base):
    """The message names the path."""
    (base / "data").write_text("")
    with pytest.raises(DatabaseRefused, match=f"{base}/data"):
        DataDirLock.acquire(base / "data", 0)
