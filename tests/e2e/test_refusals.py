"""What `memfast serve` refuses: its exit codes, and messages that say what to do."""

import asyncio
import contextlib
import os
import signal
import subprocess
from types import SimpleNamespace
from urllib.parse import quote

import asyncpg
import httpx
import pytest

from memfast.errors import DatabaseRefused
from memfast.store.embedded import Cluster
from memfast.store.embedded.account import choose_account
from memfast.store.embedded.binaries import find_binaries
from memfast.store.embedded.initialise import DATABASE, USER
from memfast.store.embedded.process import read_postmaster
from memfast.store.embedded.program import environment
from memfast.store.server import inspect_server

CREATED = 201


def change_database(data_dir, statement):
    """Run a statement in a stopped data directory."""
    cluster = Cluster(data_dir)

    async def work():
        connection = await asyncpg.connect(**cluster.start().connect_arguments())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    try:
        asyncio.run(work())
    finally:
        cluster.stop()


@pytest.mark.parametrize(("first", "second"), [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1")])
def test_a_taken_port_is_refused(serve, data_dir, command, base, first, second):
    """A second service on the port of a running one ends with 3, makes no data directory and disturbs nobody."""
    service = serve(data_dir(), "--insecure", host=first).wait_until_ready()
    other = {"host": second, "port": service.port, "data_dir": base / "other"}
    _, message = command("serve", "--insecure", expect=3, **other)
    assert f"{second}:{service.port} cannot be used" in message
    assert "--port" in message
    assert not (base / "other").exists()
    assert service.ready()
    assert service.stop() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_of_two_that_start_at_once_one_gets_the_port(serve, data_dir, free_port, poll, workers):
    """Two services with one port and two data directories: exactly one serves, the other ends with 3."""
    port = free_port()
    pair = [serve(data_dir(name), port=port, workers=workers) for name in ("one", "two")]
    poll(lambda: any(service.process.poll() is not None for service in pair))
    codes = [service.process.poll() for service in pair]
    assert sorted(codes, key=str) == [3, None]
    winner, loser = pair[codes.index(None)], pair[codes.index(3)]
    winner.wait_until_ready()
    assert f"127.0.0.1:{port} cannot be used" in loser.output
    assert not loser.servers()
    answers = [httpx.get(f"{winner.url}/v1/health", trust_env=False, verify=False).json() for _ in range(20)]
    assert {answer["pid"] for answer in answers} <= set(winner.workers())
    assert winner.stop() == 0


def test_a_data_directory_in_use_is_refused(serve, data_dir):
    """A second service on one data directory ends with 4 and names the processes; a third waits for the first."""
    service = serve(data_dir()).wait_until_ready()
    second = serve(service.data_dir)
    assert second.wait() == 4
    assert str(service.data_dir) in second.output
    assert all(str(pid) in second.output for pid in (service.pid, *service.workers()))
    third = serve(service.data_dir)
    assert service.ready()
    assert service.stop() == 0
    assert third.wait_until_ready().stop() == 0


def test_an_open_door_is_refused_without_a_key(serve, data_dir, command):
    """Beyond loopback a key is needed: 2 without one, and with one every request must bring it."""
    folder = data_dir()
    refused = serve(folder, host="0.0.0.0")
    assert refused.wait() == 2
    assert "memfast keys create" in refused.output
    assert "--insecure" in refused.output
    assert not refused.servers()

    key = command("keys", "create", expect=0, data_dir=folder)[0].strip()
    service = serve(folder, host="0.0.0.0").wait_until_ready()
    assert service.remember("mine").status_code == 401
    assert service.remember("mine", headers={"Authorization": f"Bearer {key}"}).status_code == CREATED
    assert service.stop() == 0


def test_a_newer_schema_is_refused(serve, data_dir, command):
    """A database that a newer release has migrated is refused with 5 by every command that would use it."""
    folder = data_dir()
    change_database(folder, "INSERT INTO schema_migrations (number, name, checksum) VALUES (9999, 'future', 'x')")
    service = serve(folder)
    assert service.wait() == 5
    assert "schema 9999" in service.output
    assert "newer release" in service.output
    assert not service.servers()
    assert "schema 9999" in command("migrate", expect=5, data_dir=folder)[1]


def test_a_changed_migration_is_refused(data_dir, command):
    """A migration whose text is not the one that was applied is refused with 5."""
    folder = data_dir()
    change_database(folder, "UPDATE schema_migrations SET checksum = 'other' WHERE number = 1")
    assert "migration 0001 was changed after it was applied" in command("serve", expect=5, data_dir=folder)[1]


def test_another_embedding_model_is_refused(serve, data_dir):
    """Vectors of one model are not searched with another's: 6, and with the first model again all is there."""
    folder = data_dir()
    service = serve(folder).wait_until_ready()
    assert service.remember("kept").status_code == CREATED
    assert service.stop() == 0
    other = serve(folder, embedding_provider="none", embedding_dimensions=4)
    assert other.wait() == 6
    assert "wordllama" in other.output
    assert "256 dimensions" in other.output
    assert not other.servers()
    again = serve(folder).wait_until_ready()
    assert again.search("kept?") == ["kept"]


def test_an_external_postgres(serve, base, data_dir, command, poll):
    """With an address, memories lie in that server, and the data directory holds no database; keys can be made."""
    folder = data_dir("external")
    cluster = Cluster(folder)
    dsn = address(cluster.start().socket_dir, folder)
    service = serve(base / "data", postgres_dsn=dsn).wait_until_ready()
    assert "external PostgreSQL" in service.output
    assert service.remember("kept elsewhere").status_code == CREATED
    assert service.stop() == 0
    assert not (base / "data" / "postgres").exists()
    again = serve(base / "other", postgres_dsn=dsn).wait_until_ready()
    assert again.search("what is kept?") == ["kept elsewhere"]
    assert command("keys", "create", expect=0, data_dir=base / "other", postgres_dsn=dsn)[0].startswith("mf_")
    poll(lambda: again.remember("without").status_code == 401, 5)
    assert again.stop() == 0
    assert cluster.running() is not None
    cluster.stop()


def test_an_unreachable_postgres_is_refused(command, base, free_port):
    """Nobody listens at the address: 5, without the password."""
    dsn = f"postgresql://me:secret@127.0.0.1:{free_port()}/db"
    outputs = command("serve", expect=5, data_dir=base / "data", postgres_dsn=dsn, port=free_port())
    assert "PostgreSQL cannot be reached" in outputs[1]
    assert "secret" not in "".join(outputs)


@contextlib.contextmanager
def running_server(folder, *options):
    """A PostgreSQL of our own making on a directory, with options that the embedded one never has; gives its DSN."""
    account = choose_account(folder, print)
    identity = account.identity() if account else {}
    server = subprocess.Popen(
        [find_binaries(18).program("postgres"), "-D", folder, "-c", f"unix_socket_directories={folder}", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
        **identity,
    )
    try:
        yield server
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(20)


def is_ready(folder):
    """Whether the server on a directory takes connections."""
    postmaster = read_postmaster(folder)
    return postmaster is not None and postmaster.status == "ready"


def address(folder, data_dir):
    """The DSN of a server that runs on a directory with the role and the password of a data directory."""
    password = quote((data_dir / "password").read_text().strip())
    return f"postgresql://{USER}:{password}@/{DATABASE}?host={quote(os.fspath(folder), safe='')}"


def test_a_server_that_may_lose_writes_is_refused(command, data_dir, poll, base):
    """Fsync off: 5, also from `doctor` before anything starts."""
    folder = data_dir()
    settings = {"data_dir": base / "mine", "postgres_dsn": address(folder / "postgres", folder)}
    with running_server(folder / "postgres", "-c", "fsync=off", "-c", "listen_addresses="):
        poll(lambda: is_ready(folder / "postgres"))
        assert "fsync off" in command("serve", expect=5, **settings)[1]
        assert "fsync off" in command("doctor", expect=1, **settings)[0]


def test_a_replica_is_refused(command, data_dir, serve, poll, base):
    """A standby of a running service takes no writes: 5."""
    service = serve(data_dir()).wait_until_ready()
    copy = base / "standby"
    endpoint = Cluster(service.data_dir).running()
    account = choose_account(service.data_dir / "postgres", print)
    copy.mkdir(mode=0o700)
    if account:
        os.chown(copy, account.uid, account.gid)
    subprocess.run(
        [
            find_binaries(18).program("pg_basebackup"),
            *("--pgdata", copy, "--write-recovery-conf", "--checkpoint=fast", "--no-password"),
            *("--host", endpoint.socket_dir, "--port", str(endpoint.port), "--username", USER),
        ],
        check=True,
        capture_output=True,
        env=environment({"PGPASSWORD": endpoint.password}),
        timeout=60,
        **(account.identity() if account else {}),
    )
    with running_server(copy, "-c", "listen_addresses=", "-c", "hot_standby=on"):
        poll(lambda: is_ready(copy))
        settings = {"data_dir": base / "mine", "postgres_dsn": address(copy, service.data_dir)}
        assert "is a replica" in command("serve", expect=5, **settings)[1]


GOOD = {
    "version_number": 160004,
    "server_version": "16.4",
    "encoding": "UTF8",
    "connections": 97,
    "replica": False,
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "pgvector_installed": "0.8.4",
    "pgvector_available": "0.8.5",
}


def stand_in(**facts):
    """A connection to a server that cannot be had here: too old, of another encoding, or without pgvector."""

    async def fetchrow(_statement):
        return GOOD | facts

    return SimpleNamespace(fetchrow=fetchrow)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"version_number": 150013, "server_version": "15.13 (Debian)"}, r"PostgreSQL 15\.13 is too old.*16 or newer"),
        ({"encoding": "SQL_ASCII"}, "encoding is SQL_ASCII"),
        ({"pgvector_installed": None, "pgvector_available": None}, "has no pgvector"),
        ({"pgvector_installed": "0.7.0"}, r"pgvector 0\.7\.0 is too old.*ALTER EXTENSION"),
        ({"pgvector_installed": None, "pgvector_available": "0.8.3"}, r"pgvector 0\.8\.3 is too old"),
        ({"fsync": "off", "full_page_writes": "off"}, "fsync and full_page_writes off"),
    ],
)
async def test_a_server_that_will_not_do(facts, message):
    """Each thing that a server lacks is named with its cure."""
    with pytest.raises(DatabaseRefused, match=message):
        await inspect_server(stand_in(**facts))


async def test_a_server_that_will_do():
    """The oldest server that is taken."""
    facts = await inspect_server(stand_in())
    assert (facts.server_version, facts.pgvector_version, facts.connections) == ("16.4", "0.8.4", 97)
