"""`memfast serve`: how it starts, serves with several workers, stops, and survives the death of its processes."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from memfast.store.embedded import Cluster, holder_pids

GREETED = "Stop it with Ctrl-C."
CREATED = 201


@pytest.fixture
async def blocked():
    """Function: keep every write of a service waiting, until the connection that it gives is closed."""
    opened = []

    async def block(service):
        connection = await asyncpg.connect(**Cluster(service.data_dir).running().connect_arguments())
        opened.append(connection)
        await connection.execute("BEGIN")
        await connection.execute("LOCK TABLE memories IN EXCLUSIVE MODE")
        return connection

    yield block
    for connection in opened:
        await connection.close(timeout=5)


def waiting_writes(connection):
    """How many sessions wait for a lock."""
    return connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")


def in_group(group):
    """The living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def assert_stopped(service):
    """Nothing of a service is left: no process, no holder of its data, no listener, a clean shutdown in the log."""
    assert in_group(service.pid) == []
    assert service.servers() == []
    assert holder_pids(service.data_dir) == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", service.port))
    log = service.data_dir / "log" / "postgres.log"
    assert not log.exists() or "database system is shut down" in log.read_text().splitlines()[-1]
    assert not (service.data_dir / "postgres" / "postmaster.pid").exists()


def test_the_printed_commands_work(shared):
    """The screen names the address, the data and its pages, and its curl commands work when pasted into a shell."""
    assert f"on {shared.url}" in shared.output
    pages = re.findall(r"^  (?:API|dashboard) +(\S+)$", shared.output, flags=re.MULTILINE)
    assert [httpx.get(page, timeout=20, trust_env=False).status_code for page in pages] == [200, 200]
    assert str(shared.data_dir) in shared.output
    commands = re.findall(r"^  (curl .*?)(?=^  curl|^\S)", shared.output, flags=re.MULTILINE | re.DOTALL)
    assert len(commands) == 2
    outputs = [
        subprocess.run(["sh", "-c", words], check=True, capture_output=True, text=True, timeout=20).stdout
        for words in commands
    ]
    assert "I am allergic to peanuts." in outputs[0]
    assert "I am allergic to peanuts." in outputs[1]
    assert '"score"' in outputs[1]
    assert shared.client.get("/v1/health/ready").json()["status"] == "ready"


def test_sigterm_ends_a_start_at_any_moment(serve, data_dir):
    """However early SIGTERM comes, the service ends soon, with 0, and leaves nothing behind."""
    folder = data_dir()
    for delay_s in (0.05, 0.15, 0.25, 0.35, 0.5, 0.65, 0.8, 1.0, 1.3, 2.0):
        service = serve(folder)
        time.sleep(delay_s)
        code = service.stop()
        # Before Python runs any of our code, the system ends it, and nothing has begun.
        assert code == 0 or (code == -signal.SIGTERM and not service.output), f"{delay_s}: {code}\n{service.output}"
        assert "Traceback" not in service.output
        assert "Killing" not in service.output
        assert_stopped(service)
    assert serve(folder).wait_until_ready().remember("after all that").status_code == CREATED


def test_sigterm_while_postgresql_is_started(serve, data_dir):
    """A stop in the milliseconds in which the process of PostgreSQL comes to be leaves it to nobody."""
    folder = data_dir()
    for _ in range(6):
        service = serve(folder)
        children = Path(f"/proc/{service.pid}/task/{service.pid}/children")
        while not any("postgres\0-D" in command_line(pid) for pid in children.read_text().split()):
            assert service.process.poll() is None
        assert service.stop() == 0, service.output
        assert_stopped(service)
    assert serve(folder).wait_until_ready().remember("after all that").status_code == CREATED


def command_line(pid):
    """The words of a process, or nothing when it has gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


@pytest.mark.parametrize("delay_s", [0.0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3])
def test_sigterm_reaches_workers_that_start(serve, data_dir, poll, delay_s):
    """A worker that is told to stop while it starts does so at once: it is not killed after a timeout."""
    service = serve(data_dir(), workers=2)
    poll(lambda: GREETED in service.output)
    time.sleep(delay_s)
    assert service.stop() == 0
    assert "Killing" not in service.output
    assert_stopped(service)


def test_further_signals_change_nothing(serve, data_dir, poll):
    """A supervisor that sends SIGTERM again and again, to every process, gets the same clean end."""
    service = serve(data_dir())
    poll(lambda: GREETED in service.output)
    for _ in range(200):
        service.send(signal.SIGTERM, group=True)
        if service.process.poll() is not None:
            break
        time.sleep(0.01)
    assert service.wait() == 0
    assert_stopped(service)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_stop_lets_a_request_finish(serve, data_dir, poll, blocked, number):
    """Ctrl-C, or SIGTERM to the whole group: a running request gets its answer, new ones are refused, code 0."""
    service = serve(data_dir()).wait_until_ready()
    lock = await blocked(service)
    with ThreadPoolExecutor(1) as executor:
        answer = executor.submit(service.remember, "written while the service stops")
        while not await waiting_writes(lock):
            assert not answer.done()
        service.send(number, group=True)
        with suppress(httpx.NetworkError, httpx.RemoteProtocolError):  # or closed before it was taken up
            while True:
                httpx.get(f"{service.url}/v1/health/live", timeout=5, trust_env=False, verify=False)
        assert not answer.done()
        await lock.close()
        assert answer.result(20).status_code == CREATED
    assert service.wait() == 0
    assert_stopped(service)
    again = serve(service.data_dir).wait_until_ready()
    assert again.search("what was written?") == ["written while the service stops"]


def test_what_was_acknowledged_during_a_stop_is_there(serve, data_dir, poll):
    """Eight clients write while SIGTERM comes: afterwards exactly the acknowledged memories are there."""
    service = serve(data_dir()).wait_until_ready()
    acknowledged, failures = [], []

    def write(number):
        count = 0
        while True:
            count += 1
            try:
                body = {"user_id": f"user-{number}", "text": f"text {count}"}
                answer = httpx.post(f"{service.url}/v1/memories", json=body, timeout=20, trust_env=False, verify=False)
            except httpx.TransportError as error:
                failures.append(error)
                return
            assert answer.status_code == CREATED, answer.text
            acknowledged.append((body["user_id"], answer.json()["id"]))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    poll(lambda: len(acknowledged) > 100)
    assert service.stop() == 0
    for thread in threads:
        thread.join(20)
    # One each, at the end: refused, or closed by the system or by the server before the request was taken up.
    assert len(failures) == len(threads)
    assert_stopped(service)
    again = serve(service.data_dir).wait_until_ready()
    for number in range(len(threads)):
        user_id = f"user-{number}"
        stored, page = set(), {"next_cursor": None, "has_more": True}
        while page["has_more"]:
            cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
            page = again.client.get("/v1/memories", params={"user_id": user_id, "limit": 500} | cursor).json()
            stored |= {memory["id"] for memory in page["memories"]}
        # Not only is nothing lost: what was taken up was also answered.
        assert stored == {memory_id for user, memory_id in acknowledged if user == user_id}


def test_a_killed_service_is_succeeded(serve, data_dir, poll, gone):
    """Kill -9 of the parent: its workers end by themselves, PostgreSQL goes on, and a new start takes over."""
    service = serve(data_dir(), workers=2).wait_until_ready()
    assert service.remember("survives").status_code == CREATED
    workers = service.workers()
    assert len(workers) == 2
    os.kill(service.pid, signal.SIGKILL)
    service.process.wait(10)
    again = serve(service.data_dir, port=service.port)
    poll(lambda: GREETED in again.output)  # until then, an old worker may answer at the port
    again.wait_until_ready()
    assert all(gone(pid) for pid in workers)
    assert "Found PostgreSQL running" in again.output
    assert again.search("what survives?") == ["survives"]
    assert again.stop() == 0
    assert_stopped(again)


async def test_a_successor_waits_for_the_workers_of_a_killed_service(serve, data_dir, poll, blocked, gone):
    """While a worker still finishes a request, its data directory is not given to another service."""
    service = serve(data_dir()).wait_until_ready()
    (worker,) = service.workers()
    lock = await blocked(service)
    with ThreadPoolExecutor(1) as executor:
        answer = executor.submit(service.remember, "the last words")
        while not await waiting_writes(lock):
            assert not answer.done()
        os.kill(service.pid, signal.SIGKILL)
        service.process.wait(10)
        again = serve(service.data_dir, port=service.port)
        # The new one has come past the port, which the worker let go of at once, and waits for the lock.
        poll(lambda: opens_lock(again))
        assert holder_pids(service.data_dir) == [worker]
        assert GREETED not in again.output
        await lock.close()
        assert answer.result(20).status_code == CREATED
    again.wait_until_ready()
    assert gone(worker)
    assert again.search("what were they?") == ["the last words"]


def opens_lock(service):
    """Whether the process has the lock file of its data directory open."""
    path = service.data_dir / "lock"
    with suppress(OSError):
        return any(entry.exists() and entry.samefile(path) for entry in Path(f"/proc/{service.pid}/fd").iterdir())
    return False


def test_a_killed_worker_is_replaced(serve, data_dir, poll):
    """Kill -9 of the only worker: requests wait for the next one instead of failing, and the stop is clean."""
    service = serve(data_dir()).wait_until_ready()
    assert service.remember("kept").status_code == CREATED
    (worker,) = service.workers()
    os.kill(worker, signal.SIGKILL)
    poll(lambda: service.workers() not in ([], [worker]))
    assert httpx.get(f"{service.url}/v1/health", timeout=20, trust_env=False, verify=False).json()["pid"] != worker
    assert service.search("what is kept?") == ["kept"]
    assert service.stop() == 0
    assert_stopped(service)


def test_two_workers_share_the_port_and_the_data(serve, data_dir, poll):
    """Both workers serve, and what is written through either is at once seen through both."""
    service = serve(data_dir(), workers=2).wait_until_ready()
    workers = sorted(service.workers())
    clients = {}
    while sorted(clients) != workers:
        assert len(clients) < 2
        batch = [httpx.Client(base_url=service.url, timeout=20, trust_env=False, verify=False) for _ in range(8)]
        for client in batch:
            pid = client.get("/v1/health").json()["pid"]
            if clients.setdefault(pid, client) is not client:
                client.close()
    try:
        for number, (writer, reader) in enumerate([workers, workers[::-1]] * 10):
            body = {"user_id": "ada", "text": f"fact number {number}"}
            assert clients[writer].post("/v1/memories", json=body).status_code == CREATED
            for pid in (reader, writer):
                page = clients[pid].get("/v1/memories", params={"user_id": "ada", "limit": 100}).json()
                assert len(page["memories"]) == number + 1
                hits = clients[pid].post("/v1/search", json={"user_id": "ada", "query": "fact", "limit": 100}).json()
                assert len(hits["results"]) == number + 1
    finally:
        for client in clients.values():
            client.close()
    assert service.stop() == 0


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_an_unprivileged_user_can_run_it(serve, base):
    """As a user without rights and with a directory of its own, it starts, keeps a memory and stops."""
    home = base / "home"
    home.mkdir()
    account = pwd.getpwnam("nobody")
    os.chown(home, account.pw_uid, account.pw_gid)
    service = serve(home / "data", uid=account.pw_uid).wait_until_ready()
    assert service.remember("kept").status_code == CREATED
    assert service.search("kept?") == ["kept"]
    assert {psutil.Process(pid).uids().real for pid in service.servers()} == {account.pw_uid}
    assert (home / "data").stat().st_mode & 0o777 == 0o700
    assert service.stop() == 0
    assert_stopped(service)
