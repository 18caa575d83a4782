"""Real services in processes of their own; whatever a test starts is gone when it ends."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import coverage
import httpx
import psutil
import pytest

READY_S = 90.0
STOP_S = 60.0
MEMFAST = (sys.executable, "-m", "memfast")

PATIENCE = {
    "read_timeout_s": 30,
    "write_timeout_s": 30,
    "postgres_acquire_timeout_s": 20,
    "postgres_command_timeout_s": 30,
    "search_leg_timeout_ms": 25_000,
    "resilience_slow_read_s": 25,
}
"""Settings of every service that a test does not give: a busy machine is no fault of the service's."""


def _poll(condition, timeout_s=READY_S):
    """What a condition gives once it is true, at most after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, f"the condition did not come true within {timeout_s:g} s"
        time.sleep(0.01)
    return result


def _gone(pid):
    """Whether a process has ended; one that only waits to be collected has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _new_base():
    # Not pytest's own directory, which is closed: as root, PostgreSQL runs as another user and must pass through.
    base = Path(tempfile.mkdtemp(dir="/tmp", prefix="mf-"))
    base.chmod(0o755)
    return base


def _servers_below(base):
    """The ids of PostgreSQL processes that work below a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if (entry / "comm").read_bytes() == b"postgres\n" and (entry / "cwd").readlink().is_relative_to(base):
                found.append(int(entry.name))
    return found


def _clean(base):
    for pid in _servers_below(base):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _poll(lambda pid=pid: _gone(pid))
    shutil.rmtree(base, ignore_errors=True)


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _environment(settings):
    """This process's environment without any setting of memfast but these, given as variables without prefix."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEMFAST_")}
    return kept | {f"MEMFAST_{name.upper()}": str(value) for name, value in settings.items()}


def _works(child):
    """Whether a child of a service is a worker of it, and lives."""
    try:
        return child.name() != "postgres" and child.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _as_user(uid):
    """The words that run a program as another user, who may read everything but write only what is its own.

    The right to read is for the interpreter, which may lie in a closed home.
    """
    ids = (f"--reuid={uid}", f"--regid={pwd.getpwuid(uid).pw_gid}", "--clear-groups")
    return ["setpriv", *ids, "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


class Service:
    """One `memfast serve` in its own process group. `settings` are variables, as in port=8077."""

    def __init__(self, data_dir, *options, uid=None, **settings):
        self.port = settings.setdefault("port", _free_port())
        for kind in ("links_similar", "links_entities"):  # versions that tests name do not rise by themselves
            settings.setdefault(kind, 0)
        settings = PATIENCE | settings
        self.data_dir = data_dir
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = data_dir.parent / f"service-{self.port}-{time.monotonic_ns()}.log"
        environment = _environment(settings | {"data_dir": data_dir})
        words = [*MEMFAST, "serve", *options]
        if uid is not None:
            words = _as_user(uid) + words
            environment |= {"HOME": str(data_dir.parent)}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        self.pid = self.process.pid
        self.client = httpx.Client(base_url=self.url, timeout=STOP_S, trust_env=False, verify=False)

    @property
    def output(self):
        """Everything that it has printed."""
        return self._log.read_text()

    def ready(self):
        """Whether it can commit a write now."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/v1/health/ready", timeout=5, trust_env=False, verify=False).status_code == 200
        return False

    def wait_until_ready(self):
        """Wait for the first answer; gives itself."""
        _poll(lambda: self.process.poll() is not None or self.ready())
        assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.output}"
        return self

    def workers(self):
        """The ids of its worker processes."""
        return [child.pid for child in psutil.Process(self.pid).children() if _works(child)]

    def servers(self):
        """The ids of the PostgreSQL processes of its data directory."""
        return _servers_below(self.data_dir)

    def remember(self, text, user_id="ada", **more):
        """Create a memory; gives the answer."""
        return self.client.post("/v1/memories", json={"user_id": user_id, "text": text}, **more)

    def search(self, query, user_id="ada", **more):
        """The texts of the hits."""
        answer = self.client.post("/v1/search", json={"user_id": user_id, "query": query}, **more)
        assert answer.status_code == 200, answer.text
        return [hit["text"] for hit in answer.json()["results"]]

    def send(self, number, *, group=False):
        """Send a signal, to the whole group as a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def wait(self, timeout_s=STOP_S):
        """Its exit code, within a bound."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still runs after {timeout_s:g} s:\n{self.output}")

    def stop(self, number=signal.SIGTERM, *, group=False):
        """Stop it; gives its exit code."""
        self.send(number, group=group)
        return self.wait()

    def discard(self):
        """End every process of it."""
        self.client.close()
        self.send(signal.SIGKILL, group=True)
        self.process.wait(STOP_S)


class Running:
    """A command that is under way: `python -m memfast` with some words. It ends with the block at the latest."""

    def __init__(self, words):
        self._words = [sys.executable, "-m", "memfast", *words]

    def __enter__(self):
        environment = _environment({}) | {"PYTHONFAULTHANDLER": "1"}
        self.process = subprocess.Popen(
            self._words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        return self

    def __exit__(self, *_details):
        self.process.kill()
        self.process.communicate(timeout=STOP_S)

    def interrupt(self, number=signal.SIGINT):
        """What Ctrl-C does, or another signal."""
        self.process.send_signal(number)

    def told(self, timeout_s=3 * STOP_S):
        """What it has told by its end, and its exit code; where it hangs, that is where."""
        try:
            _, told = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            _, told = self.process.communicate(timeout=STOP_S)
            pytest.fail(f"still ran after {timeout_s:g} s:\n{told.decode()}")
        return told, self.process.returncode


@pytest.fixture(scope="module", autouse=True)
def unmeasured():
    """No coverage of these tests, nor of the processes they start: the tests of the other folders are enough for it.

    It would make the processes a third slower; most of them are killed and could tell nothing of it; and where a
    signal's exception meets its lock, that stays locked for ever, or is unlocked twice.
    """
    measuring = coverage.Coverage.current()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
            patch.delenv(name)
        if measuring is not None:
            measuring.stop()
        yield
        if measuring is not None:
            measuring.start()


@pytest.fixture
def running():
    """Class: a command that is under way."""
    return Running


@pytest.fixture
def base():
    """A directory that every user may pass through."""
    folder = _new_base()
    yield folder
    _clean(folder)


@pytest.fixture(scope="session")
def original():
    """A stopped data directory with the schema in it, made once: a copy is faster than a new one."""
    folder = _new_base()
    _command("migrate", data_dir=folder / "data", expect=0)
    yield folder / "data"
    _clean(folder)


@pytest.fixture
def data_dir(base, original):
    """Function: a stopped data directory below `base`."""

    def copied(name="data"):
        subprocess.run(["cp", "-a", original, base / name], check=True)
        return base / name

    return copied


@pytest.fixture
def serve(base):
    """Function: start a service, which ends before `base` is removed."""
    started = []

    def start(*arguments, **settings):
        started.append(Service(*arguments, **settings))
        return started[-1]

    yield start
    for service in started:
        service.discard()


@pytest.fixture(scope="module")
def serve_module():
    """Function: start a service for all tests of a module, on a new data directory."""
    folder = _new_base()
    started = []

    def start(**settings):
        started.append(Service(folder / f"data-{len(started)}", **settings))
        return started[-1]

    yield start
    for service in started:
        service.discard()
    _clean(folder)


@pytest.fixture(scope="module")
def shared(original):
    """A running service for tests that change nothing but their own users."""
    folder = _new_base()
    subprocess.run(["cp", "-a", original, folder / "data"], check=True)
    service = Service(folder / "data", body_timeout_s=0.5, body_max_bytes=100_000)
    try:
        yield service.wait_until_ready()
    finally:
        service.discard()
        _clean(folder)


def _command(*words, expect, **settings):
    """Run a command to its end, check its exit code and that it shows no trace; gives its two outputs."""
    done = subprocess.run(
        [*MEMFAST, *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        env=_environment({"port": _free_port()} | settings),
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


@pytest.fixture(scope="session")
def command():
    """Function: run a command; `expect` is its exit code. Gives standard output and standard error."""
    return _command


@pytest.fixture(scope="session")
def free_port():
    """Function: a TCP port of loopback that nobody uses."""
    return _free_port


@pytest.fixture(scope="session")
def poll():
    """Function: wait until a condition holds; gives what it gave."""
    return _poll


@pytest.fixture(scope="session")
def gone():
    """Function: whether a process has ended."""
    return _gone


@pytest.fixture(scope="session")
def servers_below():
    """Function: the ids of PostgreSQL processes that work below a directory."""
    return _servers_below
