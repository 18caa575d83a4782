"""Forgetting to the end: what holds a forgotten user's words afterwards, and how that is found out."""

import asyncio
import json
import os
import random
import string
from pathlib import Path

import asyncpg
import pytest

from memfast.cli.client import each_worker
from memfast.config import load
from memfast.store.embedded import Cluster

RNG = random.Random(7)
FOUND, NOT_LOOKED = 10, 11
FILES = "table and index files"


def noise(length):
    """Words that no compression makes shorter."""
    return "".join(RNG.choices(string.ascii_letters + string.digits, k=length))


SHORT = f'She said "no\\" to {noise(20)}'
LONG = noise(40_000)
REPEATED = f"A quick {noise(16)} fox: " + "jumps over the lazy dog. " * 1000
PAST = f"What was said before: {noise(30)}"
GONE = f"What was deleted: {noise(30)}"
KEYED = f"Stored under a key: {noise(30)}"
TEXTS = (SHORT, LONG, REPEATED, PAST, GONE, KEYED)
PROBES = [part.encode() for text in TEXTS for part in (text[:40], text[len(text) // 2 :][:20], text[-20:])]
PROBES = [probe for probe in PROBES if b"lazy" not in probe]


@pytest.fixture
def verify(command):
    """Function: look for what is left; gives the layers by name."""

    def verified(service, *words, expect, texts=TEXTS, **settings):
        asked = [word for text in texts for word in ("--text", text)]
        settings = {"data_dir": service.data_dir, "port": service.port} | settings
        output, _ = command("verify-forgotten", "ada lovelace", *asked, *words, expect=expect, **settings)
        return {each["layer"]: each for each in json.loads(output)["layers"]}

    return verified


def found(layers):
    """The layers in which something was found."""
    return {name for name, each in layers.items() if each["state"] == "found"}


def fill(service):
    """A user who has left traces everywhere, and another."""
    assert service.remember("kept", user_id="bob").status_code == 201
    user = {"user_id": "ada lovelace"}
    for text in (SHORT, LONG, REPEATED):
        answer = service.client.post("/v1/memories", json=user | {"text": text})
        assert answer.status_code == 201, answer.text
    changed = service.client.post("/v1/memories", json=user | {"text": PAST}).json()["id"]
    service.client.patch(f"/v1/memories/{changed}", params=user, json={"text": "otherwise"})
    deleted = service.client.post("/v1/memories", json=user | {"text": GONE}).json()["id"]
    service.client.delete(f"/v1/memories/{deleted}", params=user)
    service.client.post("/v1/memories", json=user | {"text": KEYED}, headers={"idempotency-key": "k"})
    for _ in range(3):
        service.search("what was said?", **user)


def kept(service):
    """Whether either of two workers keeps anything of the user, as far as both can be asked."""
    config = load({}, flags={"server.port": service.port, "server.workers": 2}).config
    answers = [
        client.get("/v1/cache/user", params={"user_id": "ada lovelace"}).json()
        for _, client in each_worker(config, None)
    ]
    return len(answers) < 2 or any(
        answer[kind] for answer in answers for kind in ("answers", "memories", "questions", "snapshots")
    )


def held_by_files(place):
    """Files below a place that hold a part of what was said."""
    contents = ((path, path.read_bytes()) for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path, content in contents if any(probe in content for probe in PROBES)]


def held_by_redis(redis):
    """Whether Redis holds a part of what was said."""
    assert redis.do("CONFIG", "SET", "rdbcompression", "no") == b"+OK"
    redis.save()
    return bool(held_by_files(redis.folder))


def test_after_a_rewrite_no_file_holds_it(serve, data_dir, command, verify, redis, poll):
    """Rows, history, kept answers, caches, snapshot and Redis at once; tables, indexes and the log after --rewrite."""
    sharing = {"redis_url": redis.url, "redis_min_cost_ms": 0}
    service = serve(data_dir(), workers=2, **sharing).wait_until_ready()
    settings = {"data_dir": service.data_dir, "port": service.port, "workers": 2} | sharing
    fill(service)
    command("warm", "ada lovelace", expect=0, **settings)
    before = verify(service, expect=FOUND, workers=2, **sharing)
    assert found(before) == {"rows of tables", FILES, "write-ahead log", "snapshots", "Redis", "running service"}
    assert held_by_redis(redis)

    output, _ = command("forget", "ada lovelace", "--yes", expect=0, **settings)
    receipt = json.loads(output)
    assert receipt["memories"] == 5
    assert receipt["rows"]["memories"] == 6
    assert receipt["rows"]["history"] == 2
    assert receipt["rows"]["idempotency"] == 1
    assert receipt["copies"]["snapshots"] == 1
    assert receipt["copies"]["redis"] >= 1
    assert not held_by_redis(redis)
    held = held_by_files(service.data_dir)
    assert held
    assert {path.relative_to(service.data_dir).parts[1] for path in held} <= {"base", "pg_wal"}
    assert not any(text in service.output for text in TEXTS)
    after = verify(service, expect=FOUND, workers=2, **sharing)
    assert found(after) - {"running service"} == {FILES, "write-ahead log"}  # the other worker has 10 s

    _, told = command("forget", "ada lovelace", "--rewrite", "--yes", expect=0, **settings)
    assert "rewriting" in told
    assert held_by_files(service.data_dir) == []
    poll(lambda: not kept(service))
    clean = verify(service, expect=0, workers=2, **sharing)
    assert {each["state"] for each in clean.values()} == {"clean"}
    assert service.search("what?", user_id="bob") == ["kept"]
    assert service.stop() == 0
    assert held_by_files(service.data_dir) == []


def plant(base, backup, scope_id, run, redis):
    """Leave something in each layer; returns what takes it away again."""
    log = base / "log" / "postgres.log"
    size = log.stat().st_size
    (base / "snapshots").mkdir(exist_ok=True)
    backup.mkdir()
    files = {
        base / "postgres" / "pg_wal" / "leftover": LONG,
        base / "postgres" / "base" / "leftover": LONG,
        base / "postgres" / "leftover": PAST,
        base / "snapshots" / f"old-{scope_id.hex}.shard": "by its name",
        base / "snapshots" / "other.shard": json.dumps(SHORT),
        base / "leftover": "by ada lovelace",
        backup / "dump.sql": f"'{scope_id}'",
    }
    for path, content in files.items():
        path.write_text(content)
    with log.open("ab") as file:
        file.write(SHORT.encode())
    redis.do("SET", f"memfast:x:{{{scope_id.hex}}}:1:y", "sealed")
    quoted = json.dumps(SHORT).replace("'", "''")
    run(
        f"INSERT INTO access_stats VALUES (1, now(), '{scope_id}', '\\x00')",
        "CREATE TABLE notes (note json)",
        f"INSERT INTO notes VALUES ('{{\"n\": {quoted}}}')",
        "CREATE TABLE samples (sample text)",
        f"INSERT INTO samples SELECT '{PAST}' FROM generate_series(1, 9)",
        "ANALYZE samples",
        "TRUNCATE samples",
    )

    def take_away():
        for path in files:
            path.unlink()
        os.truncate(log, size)
        redis.do("FLUSHALL")
        run("DROP TABLE notes", "DROP TABLE samples")

    return take_away


def test_every_layer_is_looked_at(serve, data_dir, command, verify, redis, tmp_path):
    """A leftover in each layer is found where it is; what cannot be looked at is said; without any all is clean."""
    service = serve(data_dir(), redis_url=redis.url).wait_until_ready()
    settings = {"data_dir": service.data_dir, "port": service.port, "redis_url": redis.url}
    fill(service)
    scope_id, run = database(service.data_dir)
    command("forget", "ada lovelace", "--rewrite", "--yes", expect=0, **settings)
    backup = tmp_path / "backup"
    take_away = plant(service.data_dir, backup, scope_id, run, redis)
    layers = verify(service, "--path", backup, expect=FOUND, redis_url=redis.url)
    assert set(layers) - found(layers) == {"running service", "graph"}  # for the graph see test_graph_copy.py
    places = {
        "rows of tables": ("access_stats: 1 rows of the user", "notes: 1 rows say it"),
        "planner statistics": ("samples.sample",),
        FILES: ("access_stats", "notes", "pg_statistic", "leftover"),
        "write-ahead log": ("pg_wal/leftover",),
        "other files of PostgreSQL": ("postgres/leftover",),
        "snapshots": ("old-", "other.shard"),
        "logs": ("log/postgres.log",),
        "other files": ("leftover",),
        "Redis": ("1 of ",),
        str(backup): ("dump.sql",),
    }
    for layer, words in places.items():
        assert all(word in layers[layer]["detail"] for word in words), layers[layer]
    take_away()
    command("forget", "ada lovelace", "--rewrite", "--yes", expect=0, **settings)  # the row was a leftover too
    assert found(verify(service, "--path", backup, expect=0, redis_url=redis.url)) == set()
    redis.kill()
    service.remember("back again", user_id="ada lovelace")
    for _ in range(2):
        service.search("back?", user_id="ada lovelace")
    layers = verify(service, "--path", "/no/such/place", expect=FOUND, redis_url=redis.url)
    assert "running service" in found(layers)
    command("forget", "ada lovelace", "--rewrite", "--yes", expect=0, **settings)
    blind = verify(service, "--path", "/no/such/place", expect=NOT_LOOKED, redis_url=redis.url)
    unseen = {name for name, each in blind.items() if each["state"] == "not looked"}
    assert unseen == {"Redis", "/no/such/place"}
    assert service.stop() == 0


def database(data_dir):
    """The id of the user's scope, and a function that runs statements in the database of a running service."""

    async def work(*statements):
        connection = await asyncpg.connect(**Cluster(data_dir).running().connect_arguments())
        try:
            for statement in statements:
                await connection.execute(statement)
            return await connection.fetchval("SELECT scope_id FROM scopes WHERE user_id = 'ada lovelace'")
        finally:
            await connection.close()

    def run(*statements):
        return asyncio.run(work(*statements))

    return run(), run


def test_forgetting_without_a_service(data_dir, command, base, servers_below, serve):
    """The command does it by itself, also a second time, and leaves no server running."""
    service = serve(data_dir()).wait_until_ready()
    fill(service)
    assert service.stop() == 0
    settings = {"data_dir": service.data_dir, "port": service.port}
    asked = [word for text in TEXTS for word in ("--text", text)]
    command("verify-forgotten", "ada lovelace", *asked, expect=FOUND, **settings)
    output, _ = command("forget", "ada lovelace", "--rewrite", "--yes", expect=0, **settings)
    assert json.loads(output)["memories"] == 5
    assert held_by_files(service.data_dir) == []
    command("verify-forgotten", "ada lovelace", *asked, expect=0, **settings)
    assert "there is no user" in command("forget", "ada lovelace", "--yes", expect=1, **settings)[1]
    assert servers_below(base) == []
    again = serve(service.data_dir).wait_until_ready()
    assert again.search("kept?", user_id="bob") == ["kept"]
    assert again.search("what was said?", user_id="ada lovelace") == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("forget", "ada"), 2, "give --yes"),
        (("forget", "ada", "--yes", "--url", "http://127.0.0.1:1"), 1, "no service answers"),
        (("verify-forgotten", "ada", "--text", "tiny"), 2, "by chance"),
    ],
)
def test_what_cannot_be_meant_is_refused(command, base, words, code, message):
    """Where nobody can be asked, where nobody answers, and where anything would be found."""
    assert message in command(*words, expect=code, data_dir=base / "data")[1]
    assert not Path(base / "data" / "postgres").exists()


def test_the_namespace_is_the_keys(shared, command):
    """A service is not made to forget a user of the same name elsewhere, and a running one is not passed by."""
    shared.remember("x", user_id="in default")
    settings = {"data_dir": shared.data_dir, "port": shared.port}
    _, error = command("forget", "in default", "--namespace", "acme", "--yes", expect=1, **settings)
    assert "belongs to 'default'" in error
    _, error = command("forget", "in default", "--yes", expect=4, data_dir=shared.data_dir)
    assert "in use" in error or "process" in error
    assert shared.client.get("/v1/users/in%20default").status_code == 200
