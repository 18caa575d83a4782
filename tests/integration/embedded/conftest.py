"""Data directories outside pytest's own (closed to other users when root), and processes as another user."""

import asyncio
import codecs
import contextlib
import os
import pickle
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from pathlib import Path

import asyncpg
import pytest

from memfast.store.embedded import Cluster
from memfast.store.embedded.process import read_postmaster


def _poll(condition, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)
    return result


def _gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z"
    except OSError:
        return True


def _clean(base):
    """End the servers that work below a directory, and remove it."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (entry / "comm").read_bytes() == b"postgres\n" and (entry / "cwd").readlink().is_relative_to(base):
                os.kill(int(entry.name), signal.SIGKILL)
                _poll(lambda pid=entry.name: _gone(pid))
    shutil.rmtree(base, ignore_errors=True)


def _new_base():
    base = Path(tempfile.mkdtemp(dir="/tmp", prefix="mf-"))
    base.chmod(0o755)
    return base


@pytest.fixture
def base():
    """A directory that every user may pass through."""
    folder = _new_base()
    yield folder
    _clean(folder)


@pytest.fixture(scope="session")
def originals():
    """One stopped data directory per major version, made once: a copy is faster than initdb."""
    folder, made = _new_base(), {}

    def original(major):
        if major not in made:
            cluster = Cluster(folder / str(major), major=major)
            cluster.start()
            cluster.stop()
            made[major] = folder / str(major)
        return made[major]

    yield original
    _clean(folder)


@pytest.fixture
def data_dir(base, originals):
    """Function: a stopped data directory of a major version, below `base`."""

    def copied(major=18, name="data"):
        subprocess.run(["cp", "-a", originals(major), base / name], check=True)
        return base / name

    return copied


@pytest.fixture
def clusters():
    """Function: a Cluster that is stopped at the end of the test."""
    made = []

    def cluster(data_dir, **arguments):
        made.append(Cluster(data_dir, **arguments))
        return made[-1]

    yield cluster
    for each in made:
        if each._child is not None:  # collected here; _clean ends what a test left to nobody
            with contextlib.suppress(ProcessLookupError):
                each._child.kill()
            each._child.wait(30)
        if each._layout.socket_dir().parent == Path("/tmp"):
            shutil.rmtree(each._layout.socket_dir(), ignore_errors=True)


@pytest.fixture
def fetch():
    """Function: run statements on a new connection, return the rows of the last one as tuples."""

    def fetch(endpoint, *statements):
        async def work():
            connection = await asyncpg.connect(**endpoint.connect_arguments(), timeout=30)
            try:
                rows = [await connection.fetch(statement) for statement in statements]
                return [tuple(row) for row in rows[-1]]
            finally:
                await connection.close()

        return asyncio.run(work())

    return fetch


@pytest.fixture
def pid_of():
    """Function: the process id in a data directory's pid file."""
    return lambda data_dir: read_postmaster(data_dir / "postgres").pid


@pytest.fixture
def poll():
    """Function: wait until a condition holds, at most 30 s."""
    return _poll


@pytest.fixture
def gone():
    """Function: whether a process has ended."""
    return _gone


# The interpreter may lie in a folder that is closed to the other user: what is imported late comes early.
for _codec in ("ascii", "idna", "latin-1", "utf-8"):
    codecs.lookup(_codec)


class Child:
    """A forked process that runs a function; its answer comes through a pipe."""

    def __init__(self, function, uid=None):
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.close(self._read)
                answer = self._run(function, uid)
                with os.fdopen(write, "wb") as pipe:
                    pickle.dump(answer, pipe)
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        self._ended = False

    @staticmethod
    def _run(function, uid):
        try:
            if uid is not None:
                os.setgroups([])
                os.setgid(pwd.getpwuid(uid).pw_gid)
                os.setuid(uid)
            return function(), None
        except BaseException as error:  # noqa: BLE001  the other process raises it
            return error, traceback.format_exc()

    def result(self):
        """What the function returned; raises what it raised."""
        with os.fdopen(self._read, "rb") as pipe:
            data = pipe.read()
        self._read = -1
        self.collect()
        answer, trace = pickle.loads(data)
        if trace is not None:
            print(trace)
            raise answer
        return answer

    def kill(self):
        """End it as the kernel does when memory runs out."""
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            self.collect()

    def collect(self):
        if not self._ended:
            os.waitpid(self.pid, 0)
            self._ended = True
        if self._read >= 0:
            os.close(self._read)
            self._read = -1


@pytest.fixture
def child():
    """Function: run something in a forked process, as user id `uid` if given; killed at the end of the test."""
    made = []

    def start(function, uid=None):
        made.append(Child(function, uid))
        return made[-1]

    yield start
    for each in made:
        each.kill()


@pytest.fixture
def plain_user(base):
    """(uid or None, directory): an unprivileged user with a directory of its own; None is the present user."""
    folder = base / "home"
    folder.mkdir()
    if os.geteuid() != 0:
        return None, folder
    entry = pwd.getpwnam("nobody")
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return entry.pw_uid, folder
