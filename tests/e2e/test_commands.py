"""Every command of `memfast`: what it prints, its exit codes, and its work beside a running service."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

CREATED = 201


def test_python_m_memfast_is_the_command():
    """`python -m memfast` and the installed script print the same versions."""
    outputs = [
        subprocess.run([*words, "version"], check=True, capture_output=True, text=True, timeout=30).stdout
        for words in ([sys.executable, "-m", "memfast"], [Path(sys.executable).with_name("memfast")])
    ]
    assert outputs[0].startswith("memfast ")
    assert "litestar" in outputs[0]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "required"),
        (("fly",), 2, "invalid choice: 'fly'"),
        (("serve", "--fast"), 2, "unrecognized arguments"),
        (("config", "--set", "server.port"), 2, "must be KEY=VALUE"),
        (("config", "--set", "server.prot=1"), 2, "did you mean server.port?"),
        (("config", "--config", "/no/such.toml"), 2, "cannot be read"),
        (("serve", "--port", "0"), 2, "server.port"),
        (("serve", "--host", "192.0.2.1"), 2, "not an address of this machine"),
        (("backup", "/tmp/nowhere"), 5, "is not a PostgreSQL database"),
        (("restore", "/no/such/backup"), 5, "is not a complete backup"),
        (("upgrade", "--to", "99"), 1, "PostgreSQL 99 is not installed"),
        (("keys",), 2, "required"),
    ],
)
def test_wrong_usage_is_named(command, base, words, code, message):
    """Each mistake gets its exit code and a message, never a trace."""
    _, error = command(*words, expect=code, **({"data_dir": base / "data"} if words else {}))
    assert message in error


def test_an_unknown_variable_is_refused_with_the_nearest_name(command):
    """A misspelt variable would else be ignored in silence."""
    _, error = command("config", expect=2, worker=2)
    assert "unknown variable MEMFAST_WORKER" in error
    assert "did you mean MEMFAST_WORKERS?" in error


def test_config_shows_values_and_where_they_come_from(command, base):
    """Default, profile, file, variable and flag, in rising precedence; the table and the JSON say the same."""
    file = base / "memfast.toml"
    file.write_text('[server]\nport = 1111\nworkers = 3\n[embedding]\nbatch_size = 7\napi_key = "hush"\n')
    words = ("config", "--config", file, "--profile", "high-traffic", "--set", "limits.tags=5")
    settings = {"port": 2222, "data_dir": base}
    document = json.loads(command(*words, "--json", expect=0, **settings)[0])
    shown = {key: (setting["value"], setting["from"]) for key, setting in document.items()}
    assert shown["server.host"] == ("127.0.0.1", "default")
    assert shown["server.backlog"] == (4096, "profile high-traffic")
    assert shown["server.workers"] == (3, str(file))
    assert shown["server.port"] == (2222, "MEMFAST_PORT")
    assert shown["limits.tags"] == (5, "command line")
    assert shown["embedding.api_key"] == ("(set)", str(file))
    table = command(*words, expect=0, **settings)[0]
    assert "hush" not in table
    rows = {line.split()[0]: line for line in table.splitlines()[1:]}
    assert set(document) <= set(rows)
    assert "MEMFAST_PORT" in rows["server.port"]
    assert " 2222 " in rows["server.port"]


def test_secrets_are_not_shown(command, base):
    """The address of a database holds a password."""
    settings = {"postgres_dsn": "postgresql://me:hush@127.0.0.1/db", "embedding_api_key": "hush", "data_dir": base}
    for words in (("config",), ("config", "--json")):
        assert "hush" not in command(*words, expect=0, **settings)[0]
    _, error = command("config", "--set", "embedding.batch_size=hush", expect=2, **settings)
    assert "embedding.batch_size" in error


def test_doctor_finds_everything_in_order(command, base):
    """On a machine where a start works, it says so and changes nothing."""
    output, _ = command("doctor", expect=0, data_dir=base / "data")
    states = {line.split()[0]: line.split()[1] for line in output.splitlines()[1:]}
    assert states["port"] == states["postgres"] == states["model"] == "ok"
    assert "failed" not in states.values()
    assert not (base / "data").exists()


def test_doctor_says_how_redis_should_be_bounded(command, base, redis):
    """What to change and how, nothing once that is done; its absence is never a reason not to start."""
    settings = {"data_dir": base / "data", "redis_url": redis.url}
    output, _ = command("doctor", expect=0, **settings)
    assert "CONFIG SET maxmemory 4gb (is no bound)" in output
    assert "CONFIG SET maxmemory-policy allkeys-lru (is noeviction)" in output
    redis.do("CONFIG", "SET", "maxmemory", "4gb")
    redis.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    output, _ = command("doctor", expect=0, **settings)
    assert "4.0 GiB, allkeys-lru" in output
    redis.kill()
    assert "Redis cannot be reached" in command("doctor", expect=0, **settings)[0]


def test_doctor_finds_a_taken_port(shared, command, base):
    """What would end a start with 3 ends it with 1, and is named."""
    output, error = command("doctor", expect=1, data_dir=base / "data", port=shared.port)
    assert "a start would fail: port" in error
    assert f"127.0.0.1:{shared.port}" in output


def test_migrate_twice(command, base, servers_below):
    """The first applies, the second has nothing to do; neither leaves a server running."""
    first, _ = command("migrate", expect=0, data_dir=base / "data")
    second, _ = command("migrate", expect=0, data_dir=base / "data")
    assert "applying migration 0001" in first
    assert "applying" not in second
    assert first.splitlines()[-1] == second.splitlines()[-1]
    assert first.splitlines()[-1].startswith("the database has schema ")
    assert servers_below(base) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_leaves_nothing_running(base, poll, servers_below, running, number, code):
    """Ctrl-C and SIGTERM in the middle of `migrate` stop the PostgreSQL that it started."""
    with running(["migrate", "--data-dir", base / "data"]) as command:
        poll((base / "data" / "postgres" / "postmaster.pid").exists)
        command.interrupt(number)
        error, ended = command.told()
    assert ended in {code, 0}  # it may have been done already
    assert b"Traceback" not in error
    assert servers_below(base) == []


def test_keys_beside_a_running_service(serve, data_dir, command, poll):
    """A new key counts, and a revoked one is refused, about a second later, without a restart."""
    service = serve(data_dir()).wait_until_ready()
    settings = {"data_dir": service.data_dir}
    assert service.remember("while there is no key").status_code == CREATED
    secret = command("keys", "create", "--user", "ada", expect=0, **settings)[0].strip()
    other = command("keys", "create", "--namespace", "other", "--role", "admin", expect=0, **settings)[0].strip()
    key = {"Authorization": f"Bearer {secret}"}
    poll(lambda: service.client.get("/v1/memories", params={"user_id": "ada"}).status_code == 401, 5)
    assert service.search("what was there?", headers=key) == ["while there is no key"]
    assert service.remember("not mine", user_id="bob", headers=key).status_code == 403
    assert service.search("anything", headers={"Authorization": f"Bearer {other}"}) == []

    listed, _ = command("keys", "list", expect=0, **settings)
    assert secret not in listed
    key_id = secret.split("_")[1]
    (row,) = [line for line in listed.splitlines() if line.startswith(key_id)]
    assert row.split()[1:4] == ["default", "ada", "user"]

    assert command("keys", "revoke", key_id, expect=0, **settings)[0] == f"revoked {key_id}\n"
    poll(lambda: service.remember("revoked", headers=key).status_code == 401, 5)
    assert "no live key" in command("keys", "revoke", key_id, expect=1, **settings)[1]
    assert service.stop() == 0


def test_keys_without_a_service(data_dir, command, servers_below, base):
    """Without a service the command starts the database for the while, and only the secret is printed."""
    folder = data_dir()
    output, _ = command("keys", "create", expect=0, data_dir=folder)
    assert output.startswith("mf_")
    assert output.count("\n") == 1
    assert output.split("_")[1] in command("keys", "list", expect=0, data_dir=folder)[0]
    assert servers_below(base) == []


def test_keys_of_a_database_that_was_never_migrated(base, command):
    """A new data directory is made ready first: a key can be made before the first start."""
    assert command("keys", "create", expect=0, data_dir=base / "new")[0].startswith("mf_")


def test_backup_and_restore(serve, data_dir, command, base):
    """A backup beside a running service becomes a database with the same memories and a new life."""
    service = serve(data_dir()).wait_until_ready()
    assert service.remember("in the backup").status_code == CREATED
    lineage = service.client.get("/v1/health").json()["lineage"]
    command("backup", base / "copy", expect=0, data_dir=service.data_dir)
    assert service.remember("after the backup").status_code == CREATED
    assert "is not empty" in command("backup", base / "copy", expect=5, data_dir=service.data_dir)[1]
    assert service.stop() == 0

    command("restore", base / "copy", expect=0, data_dir=base / "restored")
    again = serve(base / "restored").wait_until_ready()
    assert again.search("what is there?") == ["in the backup"]
    restored = again.client.get("/v1/health").json()["lineage"]
    assert restored != lineage
    assert again.stop() == 0
    once_more = serve(base / "restored").wait_until_ready()
    assert once_more.client.get("/v1/health").json()["lineage"] == restored


def test_upgrade_keeps_memories(serve, command, base):
    """A database of PostgreSQL 16 is served as it is, and after an upgrade by 18, with the same answers."""
    folder = base / "data"
    service = serve(folder, postgres_embedded_major=16).wait_until_ready()
    assert service.remember("from sixteen").status_code == CREATED
    assert service.stop() == 0
    with_default = serve(folder).wait_until_ready()
    assert with_default.client.get("/v1/health").json()["store"]["server_version"].startswith("16.")
    assert "memfast upgrade" in with_default.output
    assert with_default.stop() == 0

    command("upgrade", expect=0, data_dir=folder)
    upgraded = serve(folder).wait_until_ready()
    assert upgraded.client.get("/v1/health").json()["store"]["server_version"].startswith("18.")
    assert upgraded.search("where from?") == ["from sixteen"]
    assert upgraded.remember("from eighteen").status_code == CREATED
    assert upgraded.stop() == 0


@pytest.mark.parametrize("words", [("backup", "x"), ("restore", "x"), ("upgrade",)])
def test_commands_of_the_embedded_database_refuse_an_external_one(command, base, words):
    """With an address set, they name the tool that does it there."""
    _, error = command(*words, expect=1, data_dir=base / "data", postgres_dsn="postgresql://127.0.0.1/db")
    assert "postgres.dsn names an external one" in error
