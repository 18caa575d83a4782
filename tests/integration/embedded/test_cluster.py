"""Making, starting, adopting and stopping the embedded PostgreSQL."""

import contextlib
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import asyncpg
import pytest

from memfast.errors import CommandFailed, DatabaseRefused
from memfast.store.embedded import DataDirLock, available_majors
from memfast.store.embedded import cluster as cluster_module
from memfast.store.embedded.process import read_postmaster, servers_in

MAJORS = (16, 18)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")


def test_the_wheel_carries_both_majors():
    """The two versions that the other tests run on."""
    assert available_majors() == list(MAJORS)


@pytest.mark.parametrize("major", MAJORS)
def test_a_new_data_directory_becomes_a_database_that_outlives_a_restart(base, clusters, fetch, major):
    """Init, start, stop and start again: version, extension, settings, modes and rows are right."""
    data_dir = base / "new" / "data"
    cluster = clusters(data_dir, major=major)
    endpoint = cluster.start()
    assert fetch(endpoint, "SELECT current_setting('server_version_num')::int / 10000") == [(major,)]
    assert fetch(endpoint, "SELECT extname FROM pg_extension WHERE extname = 'vector'") == [("vector",)]
    # Numbers of our own, or an upgrade would not carry them over.
    assert fetch(endpoint, "SELECT oid >= 16384 FROM pg_database WHERE datname = 'memfast'") == [(True,)]
    assert fetch(endpoint, "SELECT oid >= 16384 FROM pg_extension WHERE extname = 'vector'") == [(True,)]
    wanted = {
        "data_checksums": "on",
        "fsync": "on",
        "full_page_writes": "on",
        "jit": "off",
        "listen_addresses": "",
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
        "log_parameter_max_length": "0",
        "log_statement": "none",
        "password_encryption": "scram-sha-256",
        "random_page_cost": "1.1",
        "server_encoding": "UTF8",
        "synchronous_commit": "on",
        "TimeZone": "UTC",
        "wal_level": "replica",
    }
    found = dict(fetch(endpoint, "SELECT name, setting FROM pg_settings"))
    assert {name: found[name] for name in wanted} == wanted
    assert fetch(endpoint, "SELECT lower('ÄÖ') || upper('é')") == [("äöÉ",)]
    modes = {path: (data_dir / path).stat().st_mode & 0o777 for path in ("", "postgres", "run", "password", "log")}
    outer = 0o711 if os.geteuid() == 0 else 0o700
    assert modes == {"": outer, "postgres": 0o700, "run": 0o700, "password": 0o600, "log": 0o700}
    fetch(endpoint, "CREATE TABLE kept (v vector)", "INSERT INTO kept VALUES ('[1,2,3]')")
    cluster.stop()
    cluster.stop()
    assert cluster.running() is None
    assert fetch(cluster.start(), "SELECT v::text FROM kept") == [("[1,2,3]",)]
    assert endpoint.password not in repr(endpoint)


def test_the_server_can_only_be_reached_through_its_socket(data_dir, clusters, pid_of):
    """None of its sockets is a TCP one, in the tables of the kernel."""
    folder = data_dir()
    clusters(folder).start()
    pid = pid_of(folder)
    links = [os.fspath(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))}
    assert inodes
    for table in ("tcp", "tcp6", "udp", "udp6"):
        lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        assert not inodes & {line.split()[9] for line in lines}


def test_a_wrong_or_missing_password_is_refused(data_dir, clusters, fetch):
    """The socket alone is not enough."""
    endpoint = clusters(data_dir()).start()
    for password in ("wrong", ""):
        with pytest.raises(asyncpg.InvalidPasswordError):
            fetch(type(endpoint)(endpoint.socket_dir, endpoint.port, endpoint.user, endpoint.database, password))


def test_the_log_holds_no_content(data_dir, clusters, fetch):
    """Errors quote values; neither the message nor the detail nor the statement reaches the log."""
    folder = data_dir()
    endpoint = clusters(folder).start()
    with pytest.raises(asyncpg.PostgresError, match="sesame"):
        fetch(endpoint, "SELECT 'sesame'::text::uuid")
    with pytest.raises(asyncpg.UniqueViolationError):
        fetch(endpoint, "CREATE TABLE t (x text PRIMARY KEY)", "INSERT INTO t VALUES ('sesame'), ('sesame')")
    log = (folder / "log" / "postgres.log").read_text()
    assert "ready to accept connections" in log
    assert "sesame" not in log


def test_a_server_survives_the_death_of_its_service_and_is_found_again(data_dir, clusters, child, fetch, pid_of, poll):
    """After kill -9 of the service the server goes on, the lock is free, and the next service adopts it."""
    folder = data_dir()

    def service():
        DataDirLock.acquire(folder, 0)
        started = clusters(folder)
        fetch(started.start(), "CREATE TABLE kept AS SELECT 1 AS x")
        (folder / "ready").touch()
        threading.Event().wait()

    process = child(service)
    poll((folder / "ready").exists)
    pid = pid_of(folder)
    assert os.getsid(pid) != os.getsid(process.pid)
    process.kill()
    with DataDirLock.acquire(folder, 0):
        lines = []
        cluster = clusters(folder, report=lines.append)
        assert cluster.running() is not None
        assert fetch(cluster.start(), "SELECT x FROM kept") == [(1,)]
        assert pid_of(folder) == pid
        assert any(str(pid) in line for line in lines)
        cluster.stop()
        assert servers_in(folder / "postgres", None if os.geteuid() else cluster_module._owner(folder)) == []


@pytest.mark.parametrize("major", MAJORS)
def test_a_killed_server_recovers_and_its_orphans_end(data_dir, clusters, child, fetch, pid_of, poll, gone, major):
    """After kill -9 of the postmaster alone a busy backend lives on; the next start ends it and keeps every row."""
    folder = data_dir(major)
    cluster = clusters(folder)
    endpoint = cluster.start()
    fetch(endpoint, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS x")
    child(lambda: fetch(endpoint, "SELECT count(*) FROM generate_series(1, 1000000000) a, generate_series(1, 1000) b"))
    busy = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT count%' AND state = 'active'"
    [(backend,)] = poll(lambda: fetch(endpoint, busy))
    os.kill(pid_of(folder), signal.SIGKILL)
    cluster._child.wait(30)
    assert not gone(backend), "the backend was to outlive its postmaster"
    assert clusters(folder).running() is None
    assert fetch(clusters(folder).start(), "SELECT count(*) FROM kept") == [(1000,)]
    assert gone(backend)


def test_a_pid_file_that_names_a_foreign_process_fools_nobody(data_dir, clusters, fetch, pid_of):
    """After a reboot the number may be another program's: it is neither adopted nor killed, and a start works."""
    folder = data_dir()
    first = clusters(folder)
    first.start()
    os.kill(pid_of(folder), signal.SIGKILL)
    first._child.wait(30)
    database = folder / "postgres"
    owner = {"user": database.stat().st_uid} if os.geteuid() == 0 else {}
    # The hardest case: a process of the same user, in the same directory.
    with subprocess.Popen(["sleep", "600"], cwd=database, **owner) as foreign:
        try:
            pid_file = folder / "postgres" / "postmaster.pid"
            lines = pid_file.read_text().split("\n")
            pid_file.write_text("\n".join([str(foreign.pid), *lines[1:]]))
            cluster = clusters(folder)
            assert cluster.running() is None
            cluster.stop()
            assert foreign.poll() is None
            assert fetch(cluster.start(), "SELECT 1") == [(1,)]
            assert pid_of(folder) != foreign.pid
            cluster.stop()
            assert foreign.poll() is None
        finally:
            foreign.kill()


def test_a_killed_server_that_nobody_collected_is_no_obstacle(data_dir, clusters, fetch, pid_of, gone, poll):
    """Its number still stands in the process table, as where process 1 collects no orphans: a start works."""
    folder = data_dir()
    first = clusters(folder)
    fetch(first.start(), "CREATE TABLE kept AS SELECT 7 AS x")
    pid = pid_of(folder)
    os.kill(pid, signal.SIGKILL)
    poll(lambda: gone(pid))
    os.kill(pid, 0)  # it is there, for whoever asks the system
    assert fetch(clusters(folder).start(), "SELECT x FROM kept") == [(7,)]
    first._child.wait(30)


def test_the_server_of_another_data_directory_is_not_taken_for_ours(data_dir, clusters, fetch, pid_of):
    """A pid file that names the PostgreSQL next door leads to no adoption and no stop."""
    here, there = data_dir(name="here"), data_dir(name="there")
    neighbour = clusters(there)
    endpoint = neighbour.start()
    stolen = (there / "postgres" / "postmaster.pid").read_text()
    (here / "postgres" / "postmaster.pid").write_text(stolen)
    cluster = clusters(here)
    assert cluster.running() is None
    cluster.stop()
    assert fetch(cluster.start(), "SELECT 1") == [(1,)]
    assert pid_of(here) != pid_of(there)
    cluster.stop()
    assert fetch(endpoint, "SELECT 1") == [(1,)]


def test_a_socket_path_that_is_too_long_moves_to_a_short_one(base, originals, clusters, fetch):
    """The path of the socket stays within 100 bytes, in a closed directory that goes with the server."""
    folder = base / ("long-" * 20) / ("path-" * 10)
    folder.parent.mkdir()
    subprocess.run(["cp", "-a", originals(18), folder], check=True)
    cluster = clusters(folder)
    endpoint = cluster.start()
    assert len(os.fsencode(endpoint.socket_dir / ".s.PGSQL.5432")) <= 100
    assert endpoint.socket_dir.stat().st_mode & 0o777 == 0o700
    assert fetch(endpoint, "SELECT 1") == [(1,)]
    assert clusters(folder).running() == endpoint
    cluster.stop()
    assert not endpoint.socket_dir.exists()


def test_a_socket_directory_of_somebody_else_is_refused(base, originals, clusters):
    """A name in /tmp can be taken by anybody, who could then answer in our place."""
    folder = base / ("long-" * 20) / ("path-" * 10)
    folder.parent.mkdir()
    subprocess.run(["cp", "-a", originals(18), folder], check=True)
    cluster = clusters(folder)
    taken = cluster._layout.socket_dir()
    (base / "trap").mkdir()
    taken.symlink_to(base / "trap")
    try:
        with pytest.raises(DatabaseRefused, match=f"{taken}.*--data-dir"):
            cluster.start()
    finally:
        taken.unlink()


def test_an_odd_path_is_no_obstacle(base, originals, clusters, fetch):
    """Blanks, commas, quotes and letters of any language are only characters of a path."""
    folder = base / "a, 'b' \"c\" é"
    subprocess.run(["cp", "-a", originals(18), folder], check=True)
    cluster = clusters(folder)
    assert fetch(cluster.start(), "SELECT 1") == [(1,)]
    assert clusters(folder).running() is not None


def test_an_init_that_was_killed_leaves_nothing_half_made(base, clusters, child, fetch, poll):
    """Killed in the middle of initdb, the next start begins anew and removes the rest."""
    folder = base / "data"
    process = child(lambda: clusters(folder).start())
    poll(lambda: list(folder.glob("work.*/data/PG_VERSION")) if folder.exists() else None)
    process.kill()
    assert not (folder / "postgres").exists()
    lines = []
    assert fetch(clusters(folder, report=lines.append).start(), "SELECT 1") == [(1,)]
    assert list(folder.glob("work.*")) == []
    assert "Removed what an interrupted command left half made" in lines


def test_the_directory_chooses_the_version(data_dir, clusters, fetch):
    """A database of 16 is served by 16 though 18 is asked for, and the upgrade is mentioned."""
    lines = []
    endpoint = clusters(data_dir(16), major=18, report=lines.append).start()
    assert fetch(endpoint, "SELECT current_setting('server_version_num')::int / 10000") == [(16,)]
    assert any("memfast upgrade" in line for line in lines)


def test_a_version_that_is_not_carried_is_refused_with_a_way_out(data_dir, clusters):
    """PostgreSQL 17 is not in the wheel."""
    folder = data_dir()
    (folder / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(DatabaseRefused, match=r"PostgreSQL 17 .*16, 18.*pg_dump"):
        clusters(folder).start()


def test_a_directory_that_is_no_database_is_refused(base, clusters):
    """Somebody's folder named `postgres` is not made a database."""
    (base / "data" / "postgres").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(base / "data" / "postgres", 65534, 65534)
    with pytest.raises(DatabaseRefused, match=f"{base}/data/postgres is not a PostgreSQL database"):
        clusters(base / "data").start()


def test_a_lost_password_is_replaced(data_dir, clusters, fetch):
    """Without the file there is a new password, for a stopped server and for one that was left running."""
    folder = data_dir()
    (folder / "password").unlink()
    first = clusters(folder).start()
    assert fetch(first, "SELECT 1") == [(1,)]
    (folder / "password").unlink()
    second = clusters(folder).start()
    assert second.password != first.password
    assert fetch(second, "SELECT 1") == [(1,)]


def test_a_password_file_that_does_not_fit_is_explained(data_dir, clusters):
    """The message says which file to remove, and the server that was started for nothing is gone."""
    folder = data_dir()
    (folder / "password").write_text("wrong")
    cluster = clusters(folder)
    with pytest.raises(DatabaseRefused, match=f"Remove {folder}/password"):
        cluster.start()
    assert cluster.running() is None


@pytest.mark.parametrize(
    "statement",
    ["ALTER ROLE memfast SET synchronous_commit = off", "ALTER SYSTEM SET synchronous_commit = 'local'"],
)
def test_a_database_that_would_lose_writes_is_refused(data_dir, clusters, fetch, statement):
    """Whatever way synchronous_commit was weakened."""
    folder = data_dir()
    cluster = clusters(folder)
    fetch(cluster.start(), statement)
    cluster.stop()
    with pytest.raises(DatabaseRefused, match="synchronous_commit = "):
        cluster.start()


def test_fsync_cannot_be_switched_off(data_dir, clusters, fetch):
    """ALTER SYSTEM has no effect on it."""
    cluster = clusters(data_dir())
    fetch(cluster.start(), "ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET full_page_writes = off")
    cluster.stop()
    wanted = "SELECT setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes')"
    assert fetch(cluster.start(), wanted) == [("on",), ("on",)]


def test_a_server_that_dies_at_the_start_leaves_its_last_words(data_dir, clusters):
    """The message ends with what the log says."""
    folder = data_dir()
    with (folder / "postgres" / "postgresql.auto.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(DatabaseRefused, match=r"postgres\.log(.|\n)*no_such_setting"):
        clusters(folder).start()


def test_a_start_that_takes_too_long_goes_on_and_is_adopted_later(data_dir, clusters, fetch, pid_of, poll):
    """Recovery is not thrown away at the end of the wait."""
    folder = data_dir()
    with pytest.raises(DatabaseRefused, match="goes on recovering"):
        clusters(folder, start_timeout_s=0).start()
    poll(lambda: read_postmaster(folder / "postgres"))
    pid = pid_of(folder)
    assert fetch(clusters(folder).start(), "SELECT 1") == [(1,)]
    assert pid_of(folder) == pid


def test_a_server_that_was_just_started_is_stopped_in_order(data_dir, clusters, fetch):
    """Before it listens to signals, before it has a pid file, while it recovers: it ends by itself, and starts again."""
    folder = data_dir()
    for _ in range(5):
        cluster = clusters(folder, start_timeout_s=0)
        with pytest.raises(DatabaseRefused, match="goes on recovering"):
            cluster.start()
        server = cluster._child
        cluster.stop()
        assert server.returncode == 0
        assert "database system is shut down" in (folder / "log" / "postgres.log").read_text().splitlines()[-1]
        assert not (folder / "postgres" / "postmaster.pid").exists()
    assert fetch(clusters(folder).start(), "SELECT 1") == [(1,)]


def test_a_server_that_heeds_no_signal_is_killed_with_its_processes(data_dir, clusters, fetch, pid_of, monkeypatch):
    """Nothing of it works on beside the next start, which recovers every row."""
    monkeypatch.setattr(cluster_module, "_QUIT_S", 0.2)
    folder = data_dir()
    lines = []
    cluster = clusters(folder, report=lines.append)
    fetch(cluster.start(), "CREATE TABLE kept AS SELECT 7 AS x")
    account = None if os.geteuid() else cluster_module._owner(folder / "postgres")
    assert len(servers_in(folder / "postgres", account)) > 1
    os.kill(pid_of(folder), signal.SIGSTOP)
    (folder / "postgres" / "postmaster.pid").unlink()  # as before it is written
    cluster.stop()
    assert [re.search("SIG[A-Z]+", line)[0] for line in lines if "did not stop" in line] == ["SIGINT", "SIGQUIT"]
    assert servers_in(folder / "postgres", account) == []
    assert fetch(clusters(folder).start(), "SELECT x FROM kept") == [(7,)]


def test_a_backend_that_hangs_delays_a_stop_but_does_not_prevent_it(data_dir, clusters, child, fetch, poll):
    """A fast shutdown waits for the stopped process; the immediate one after it does not."""
    folder = data_dir()
    lines = []
    cluster = clusters(folder, stop_timeout_s=0.2, report=lines.append)
    endpoint = cluster.start()
    child(lambda: fetch(endpoint, "SELECT pg_sleep(600)"))
    [(backend,)] = poll(
        lambda: fetch(
            endpoint, "SELECT pid FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND pid <> pg_backend_pid()"
        )
    )
    os.kill(backend, signal.SIGSTOP)
    cluster.stop()
    assert cluster.running() is None
    assert any("did not stop within 0.2 s" in line for line in lines)


def test_a_long_log_is_moved_away_while_the_server_writes(data_dir, clusters, fetch):
    """One old generation is kept, and the server goes on in the new one."""
    folder = data_dir()
    cluster = clusters(folder)
    endpoint = cluster.start()
    log = folder / "log" / "postgres.log"
    with log.open("ab") as file:
        file.write(b"x" * (16 * 1024 * 1024))
    cluster.trim_log()
    assert log.stat().st_size == 0
    assert (folder / "log" / "postgres.log.1").stat().st_size > 16 * 1024 * 1024
    fetch(endpoint, "SELECT pg_reload_conf()")
    cluster.stop()
    assert "database system is shut down" in log.read_text()
    assert b"\0" not in log.read_bytes()


def test_a_plain_user_needs_no_account(plain_user, clusters, child, fetch):
    """The whole life as an unprivileged user: init, start, adopt, stop; the server runs as that user."""
    uid, home = plain_user

    def life():
        with DataDirLock.acquire(home / "data", 0):
            cluster = clusters(home / "data")
            endpoint = cluster.start()
            assert clusters(home / "data").start() == endpoint
            owner = Path(f"/proc/{cluster._child.pid}").stat().st_uid
            rows = fetch(endpoint, "SELECT extname FROM pg_extension WHERE extname = 'vector'")
            mode = (home / "data").stat().st_mode & 0o777
            cluster.stop()
            return owner, rows, mode, cluster.running()

    assert child(life, uid).result() == (os.geteuid() if uid is None else uid, [("vector",)], 0o700, None)


@as_root
def test_a_plain_user_is_refused_by_the_directory_of_another(plain_user, data_dir, clusters, child):
    """The message says whose it is."""
    folder = data_dir()
    with pytest.raises(DatabaseRefused, match=f"{folder} belongs to user id 0"):
        child(lambda: clusters(folder).start(), plain_user[0]).result()


@as_root
def test_root_runs_it_as_the_owner_of_the_directory(data_dir, clusters, pid_of):
    """PostgreSQL never runs as root, and an existing database keeps its owner."""
    folder = data_dir()
    owner = (folder / "postgres").stat().st_uid
    assert owner != 0
    clusters(folder).start()
    facts = Path(f"/proc/{pid_of(folder)}/status").read_text()
    assert re.search(rf"^Uid:(\t{owner}){{4}}$", facts, re.MULTILINE)
    assert re.search(r"^Groups:\t *$", facts, re.MULTILINE)
    assert re.search(r"^CapEff:\t0+$", facts, re.MULTILINE)


@as_root
def test_a_closed_folder_above_is_refused_by_name_and_left_alone(base, clusters):
    """A data directory below a closed folder: the message names the folder, and its mode stays."""
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    (closed / "between").mkdir()
    with pytest.raises(
        DatabaseRefused, match=rf"through {closed} to reach (.|\n)*--data-dir(.|\n)*chmod o\+x {closed}$"
    ):
        clusters(closed / "between" / "data").start()
    assert closed.stat().st_mode & 0o777 == 0o700
    assert not (closed / "between" / "data" / "postgres").exists()


@as_root
def test_binaries_in_a_closed_folder_are_copied_once(base, clusters, fetch, pid_of, monkeypatch):
    """A virtual environment below a closed folder stays closed; the programs run from the data directory."""
    from memfast.store.embedded import binaries

    package = binaries._package()
    closed = base / "venv"
    closed.mkdir(mode=0o700)
    for tree in (package, package.with_name(f"{package.name}.libs")):
        subprocess.run(["cp", "-a", tree, closed / tree.name], check=True)
    monkeypatch.setattr(binaries, "_package", lambda: closed / package.name)
    lines = []
    cluster = clusters(base / "data", report=lines.append)
    assert fetch(cluster.start(), "SELECT 1") == [(1,)]
    assert Path(f"/proc/{pid_of(base / 'data')}/exe").readlink().is_relative_to(base / "data" / "runtime")
    assert closed.stat().st_mode & 0o777 == 0o700
    cluster.stop()
    cluster.start()
    assert len([line for line in lines if line.startswith("Copying PostgreSQL")]) == 1


def _without_ptrace(function):
    """Run a function without the right to look into other users' processes, as root in most containers."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for index in (0, 1, 2):
        sets[index] &= ~(1 << 19)
    assert libc.capset(header, sets) == 0
    return function()


@as_root
def test_a_container_without_ptrace_finds_its_server(data_dir, clusters, child, fetch, pid_of):
    """Where root cannot see the working directory of other users' processes, adoption and stop still work."""
    folder = data_dir()
    clusters(folder).start()
    pid = pid_of(folder)

    def service():
        with pytest.raises(PermissionError):
            Path(f"/proc/{pid}/cwd").readlink()
        cluster = clusters(folder)
        answer = fetch(cluster.start(), "SELECT 1"), pid_of(folder)
        cluster.stop()
        return answer, cluster.running()

    assert child(lambda: _without_ptrace(service)).result() == (([(1,)], pid), None)


def _in_small_file_system(folder, megabytes, function):
    """Run a function with a file system of a fixed size mounted on a folder, for this process alone."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    new_namespaces = 0x00020000 | (0x10000000 if uid else 0)
    if libc.unshare(new_namespaces) != 0:
        return "no namespace"
    if uid:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0
    assert libc.mount(b"small", os.fsencode(folder), b"tmpfs", 0, f"size={megabytes}m,mode=755".encode()) == 0
    return function()


def _fill(path):
    """Write until the file system is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_during_init_leaves_nothing(base, clusters, child):
    """Too small for a database: the message says so, and no file is left of the attempt."""
    folder = base / "disk"
    folder.mkdir()

    def attempt():
        with pytest.raises(CommandFailed, match="No room left on the disk") as caught:
            clusters(folder / "data").start()
        return caught.value.exit_code, sorted(path.name for path in (folder / "data").iterdir())

    result = child(lambda: _in_small_file_system(folder, 25, attempt)).result()
    if result == "no namespace":
        pytest.skip("this system gives no mount namespace")
    assert result == (1, [])


def test_a_full_disk_at_the_start_is_named_and_heals(base, clusters, child, fetch):
    """A stopped database on a full disk says what is wrong, and starts once there is room."""
    folder = base / "disk"
    folder.mkdir()

    def attempt():
        cluster = clusters(folder / "data")
        fetch(cluster.start(), "CREATE TABLE kept AS SELECT 7 AS x")
        cluster.stop()
        _fill(folder / "ballast")
        with pytest.raises(CommandFailed, match="No room left on the disk"):
            cluster.start()
        (folder / "ballast").unlink()
        rows = fetch(cluster.start(), "SELECT x FROM kept")
        cluster.stop()
        return rows

    result = child(lambda: _in_small_file_system(folder, 200, attempt)).result()
    if result == "no namespace":
        pytest.skip("this system gives no mount namespace")
    assert result == [(7,)]
