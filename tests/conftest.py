"""What every test may ask for: PostgreSQL servers, one per major version for the whole session."""

import asyncio
import faulthandler
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from memfast import kernels
from memfast.bootstrap import ground
from memfast.config import load
from memfast.store.embedded import Cluster, available_majors

for _name in ("filter_world", "memory_world", "graph_world", "projection_world"):
    _spec = importlib.util.spec_from_file_location(_name, Path(__file__).with_name(f"{_name}.py"))
    _module = importlib.util.module_from_spec(_spec)
    sys.modules[_name] = _module
    _spec.loader.exec_module(_module)


def _harness(name):
    """A module of `bench.harness`, which is in no package that tests may import."""
    file = Path(__file__).parents[1] / "bench" / "harness" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_redis_server = _harness("redis_server")
_neo4j_server = _harness("neo4j_server")
_otlp_receiver = _harness("otlp_receiver")


def pytest_report_header():
    """Which kernels and which PostgreSQL the results speak of."""
    majors = ", ".join(str(major) for major in available_majors())
    return [f"memfast: {kernels.IMPL} kernels, PostgreSQL {majors}"]


PATIENCE = {
    "server.read_timeout_s": 30.0,
    "server.write_timeout_s": 30.0,
    "postgres.acquire_timeout_s": 20.0,
    "postgres.command_timeout_s": 30.0,
    "search.leg_timeout_ms": 25_000,
    "resilience.slow_read_s": 25.0,
}
"""Settings of every service that a test does not give: a busy machine is no fault of the service's."""


EXPECTED_SKIPS = {
    "only root runs PostgreSQL as another user",
    "this system gives no mount namespace",
    "this system lets nobody mount",
    "needs root and setpriv",
    "libfaketime is not installed",
    "the package wordnet-base is not installed",
    "a JDK or Maven is not installed",
    "npm is not installed",
    "needs Debian's package chromium",
    "needs promtool, of Debian's package prometheus",
    "needs prometheus, of Debian's package of that name",
}
"""Why a test may be left out on some machines; any other reason fails the run."""


LONGEST = ("e2e", "integration", "contract")
"""Folders with the files that take longest."""


def pytest_collection_modifyitems(items):
    """Those that take longest come first: a worker that runs the last file is alone, and that for a short time."""
    folders = {name: place for place, name in enumerate(LONGEST)}
    here = Path(__file__).parent
    items.sort(key=lambda item: folders.get(item.path.relative_to(here).parts[0], len(folders)))


STUCK_S = 240
"""How long a step of a test may take before its process is ended: more than the timeout of the test, which a step that
hangs in the system, or after that timeout, does not heed."""


def pytest_configure(config):
    """Keep the standard error that a process has before pytest captures it."""
    config.stash[_STDERR] = os.dup(sys.__stderr__.fileno())


def pytest_unconfigure(config):
    """Give it back."""
    faulthandler.cancel_dump_traceback_later()
    os.close(config.stash[_STDERR])


_STDERR = pytest.StashKey()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Each step has its own bound."""
    _bound(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    """Each step has its own bound."""
    _bound(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item):
    """Each step has its own bound."""
    _bound(item)


def _bound(item):
    """Print where all threads are and end the process after `STUCK_S`; the controller names the test then."""
    long = item.config.getvalue("timeout") or 0  # as `make soak` asks for
    faulthandler.dump_traceback_later(max(STUCK_S, 1.5 * long), exit=True, file=item.config.stash[_STDERR])


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    """Say at once what failed: a run that is ended from outside prints no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        sys.__stdout__.write(f"\nfailed in {report.when}: {report.nodeid}\n{report.longreprtext[-2000:]}\n")
        sys.__stdout__.flush()


def pytest_sessionfinish(session):
    """No test hides: a skip for a reason that is not expected fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = [] if reporter is None else reporter.stats.get("skipped", [])
    reasons = {report.longrepr[2].removeprefix("Skipped: ") for report in skipped if isinstance(report.longrepr, tuple)}
    if unexpected := reasons - EXPECTED_SKIPS:
        reporter.write_line(f"skipped for reasons that are not expected: {', '.join(sorted(unexpected))}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def in_thread(work, *arguments):
    """Run a function that starts an event loop of its own, away from the loop of the tests."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(work, *arguments).result()


class Server:
    """A running cluster, and new databases in it."""

    def __init__(self, cluster, endpoint):
        self.cluster = cluster
        self.endpoint = endpoint
        self._numbers = count(1)

    def new_database(self, name=None):
        """Create a database; returns its DSN."""
        name = name or f"test_{next(self._numbers)}"
        in_thread(asyncio.run, self._execute(f'CREATE DATABASE "{name}"'))
        return self.dsn(name)

    def dsn(self, name, host=None):
        """The address of a database of this server."""
        endpoint = self.endpoint
        host = quote(os.fspath(host or endpoint.socket_dir), safe="")
        return f"postgresql://{endpoint.user}:{quote(endpoint.password)}@/{name}?host={host}&port={endpoint.port}"

    async def _execute(self, statement):
        connection = await asyncpg.connect(**self.endpoint.connect_arguments())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@pytest.fixture(scope="session")
def session_base():
    """A directory that every user may pass through: as root, PostgreSQL runs as another user."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="mf-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_servers(session_base):
    """Function: the session's server of a major version, started when it is first asked for."""
    servers = {}

    def server(major):
        if major not in servers:
            cluster = Cluster(session_base / str(major), major=major)
            servers[major] = Server(cluster, cluster.start())
        return servers[major]

    yield server
    for each in servers.values():
        each.cluster.stop()


@pytest.fixture(scope="session")
def new_server():
    """Function: start a cluster of a test's own, which has to stop it."""
    return lambda cluster: Server(cluster, cluster.start())


@pytest.fixture(scope="session")
def mem0(tmp_path_factory):
    """mem0's package, which tells nobody of its use and keeps its files away from home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEM0_TELEMETRY", "False")
        patch.setenv("MEM0_DIR", os.fspath(tmp_path_factory.mktemp("mem0")))
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.delenv("MEM0_API_KEY", raising=False)
        with warnings.catch_warnings(action="ignore"):
            package = importlib.import_module("mem0")
        assert package.client.main.client_telemetry.posthog is None
        yield package


@pytest.fixture(autouse=True)
def own_logging():
    """What a command that runs in this process sets up of logging ends with its test."""
    root, memfast = logging.getLogger(), logging.getLogger("memfast")
    before = root.handlers[:], root.level, memfast.level
    yield
    if before != (root.handlers, root.level, memfast.level):
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        memfast.setLevel(before[2])
        logging.captureWarnings(capture=False)


@pytest.fixture
def redis(tmp_path):
    """A Redis of a test's own: `redis_server.RedisServer`."""
    server = _redis_server.RedisServer(tmp_path)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def receiver(monkeypatch):
    """A receiver of OTLP, as OpenTelemetry's own programs have one: `otlp_receiver.OtlpReceiver`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with _otlp_receiver.receiving() as running:
        yield running


@pytest.fixture(scope="session")
def make_graph_server(tmp_path_factory):
    """Function: a Neo4j of a test's own, which has to close it; skips where there is none."""

    def make(*, apoc=True):
        if reason := _neo4j_server.missing_reason():
            pytest.skip(reason)
        return _neo4j_server.Neo4jServer(tmp_path_factory.mktemp("neo4j"), apoc=apoc)

    return make


@pytest.fixture(scope="session")
def graph_server(make_graph_server):
    """The session's Neo4j with APOC: `neo4j_server.Neo4jServer`. A test begins by erasing it."""
    with make_graph_server() as server:
        yield server


@pytest.fixture(scope="module")
def major():
    """The PostgreSQL of a test module; a module that runs on several says so with its own fixture."""
    return 18


@pytest.fixture(scope="module")
def server(postgres_servers, major):
    """The server of this module's major version."""
    return postgres_servers(major)


@pytest.fixture(scope="session")
def make_site(session_base):
    """Function: make a database ready as `memfast serve` does; keywords are settings, `__` for the dot."""
    with ExitStack() as stack:

        def prepare(dsn, **settings):
            flags = {"postgres.dsn": dsn, "postgres.pool_min": 2, "postgres.pool_max": 6}
            flags["memory.budget_mb"] = 65_536  # what is resident in this process is the tests' own
            flags |= {"links.similar": 0, "links.entities": 0}  # versions that tests name do not rise by themselves
            flags |= PATIENCE
            flags["data_dir"] = tempfile.mkdtemp(dir=session_base, prefix="data-")
            flags |= {key.replace("__", "."): value for key, value in settings.items()}
            prepared = ground(load({}, flags=flags).config, lambda _line: None)
            return in_thread(stack.enter_context, prepared)

        yield prepare
