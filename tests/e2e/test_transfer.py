"""`memfast export` and `memfast import` beside real services, over real connections, and what is killed in between."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

BOUND_S = 20.0
"""How long something may take here; what is larger has a multiple of it."""
LINES = {"content-type": "application/x-ndjson"}
MEM0 = {
    "results": [
        {
            "id": "892db2ae-06d9-49e5-8b3e-585ef9b85b8e",
            "memory": "Allergic to peanuts",
            "hash": "9a0c",
            "metadata": {"category": "health"},
            "categories": ["food"],
            "created_at": "2024-06-29T10:00:00.123-07:00",
            "updated_at": None,
            "user_id": "alex",
            "agent_id": "chef",
            "session_id": "s1",
            "app_id": "kitchen",
            "expiration_date": "2099-12-31",
            "score": 0.7,
        },
        {"id": "mem-2", "memory": "Likes tea", "user_id": "alex", "created_at": "2024-06-29T10:00:00"},
    ]
}


def lines(service, **parameters):
    """The lines of an export, without the header."""
    return service.client.get("/v1/export", params=parameters).text.splitlines()[1:]


def fill(service, user, count):
    """Give a user memories; every tenth is changed."""
    for start in range(0, count, 500):
        items = [{"text": f"{user} {n}"} for n in range(start, min(count, start + 500))]
        service.client.post("/v1/memories/batch", json={"user_id": user, "memories": items})
    found = service.client.get("/v1/memories", params={"user_id": user, "limit": 20}).json()["memories"]
    for memory in found:
        path = f"/v1/memories/{memory['id']}"
        service.client.patch(path, params={"user_id": user}, json={"text": memory["text"] + " changed"})


@pytest.mark.parametrize("name", ["all.ndjson", "all.ndjson.gz"])
def test_from_one_service_to_another(serve, data_dir, command, base, name):
    """A namespace in a file, plain or compressed, and from it: equal line for line; once more changes nothing."""
    old = serve(data_dir("old")).wait_until_ready()
    for user in ("ada", "bob"):
        fill(old, user, 600)
    file = base / name
    _, told = command("export", file, data_dir=old.data_dir, port=old.port, expect=0)
    assert "1200 memories, 0 deleted ones, 40 events and 0 links of 2 users" in told
    text = gzip.decompress(file.read_bytes()) if name.endswith(".gz") else file.read_bytes()
    assert text.count(b"\n") == 1242
    new = serve(data_dir("new")).wait_until_ready()
    for counts in ("1200 created, 40 history", "1200 duplicate, 40 history"):
        _, told = command("import", file, data_dir=new.data_dir, port=new.port, expect=0)
        assert counts in told
        assert lines(new) == lines(old)
    assert sorted(path.name for path in base.iterdir() if path.name.startswith("all")) == [name]
    assert new.search("bob 7", user_id="bob")[0] == "bob 7"


def test_standard_input_and_output(shared, base):
    """`-` pipes one user from one command to the other, under another name of a service."""
    fill(shared, "piped", 30)
    port = {"MEMFAST_PORT": str(shared.port)}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MEMFAST_")} | port
    export = [sys.executable, "-m", "memfast", "export", "-", "--user", "piped"]
    out = subprocess.run(export, env=environment, capture_output=True, timeout=60, check=True)
    renamed = out.stdout.replace(b'"user_id":"piped"', b'"user_id":"poured"')
    take_in = [sys.executable, "-m", "memfast", "import", "-", "--url", shared.url]
    done = subprocess.run(take_in, env=environment, input=renamed, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"30 created, 20 history" in done.stderr
    assert len(lines(shared, user_id="poured")) == 51
    resumed = subprocess.run([*take_in, "--resume"], env=environment, input=b"", capture_output=True, timeout=60)
    assert resumed.returncode == 1
    assert b"cannot be resumed" in resumed.stderr


def test_lines_that_are_wrong_are_named(shared, command, base):
    """By their numbers in the file; the exit code tells, the rest is taken in. So is a file that has lost its end."""
    good = json.dumps({"type": "memory", "user_id": "wrong", "text": "good"})
    file = base / "wrong.ndjson"
    file.write_text("\n".join([*[good] * 3, "nope", good, '{"type":"photo"}']))
    _, told = command("import", file, "--on-conflict", "ignore", port=shared.port, expect=1)
    assert "line 4: $: the line is not valid JSON" in told
    assert "line 6: $.type: Invalid value 'photo'" in told
    assert "1 created, 3 duplicate, 2 errors" in told
    _, told = command("import", file, "--on-error", "stop", "--on-conflict", "ignore", port=shared.port, expect=1)
    assert "stopped at the first error" in told
    whole = shared.client.get("/v1/export", params={"user_id": "wrong"}).text.splitlines()
    file.write_text("\n".join(whole[:-1]))
    _, told = command("import", file, port=shared.port, expect=1)
    assert "the file is truncated" in told
    file.write_text("\n".join([whole[0], *whole]))
    command("import", file, port=shared.port, expect=0)


def test_numbers_of_lines_hold_in_later_parts(shared, command, base):
    """A large file goes in parts, with its header before each; lines are numbered as they stand in the file."""
    fill(shared, "parts", 20)
    header = shared.client.get("/v1/export", params={"user_id": "parts"}).text.splitlines()[0]
    body = [json.dumps({"type": "memory", "user_id": "parts", "text": f"{n}"}) for n in range(12_000)]
    body[10_998] = "nope"
    file = base / "parts.ndjson"
    file.write_text("\n".join([header, *body]))
    _, told = command("import", file, port=shared.port, expect=1)
    assert "line 11000: $: the line is not valid JSON" in told
    assert "11999 created" in told
    assert "truncated" in told


def test_a_document_of_mem0(shared, command, base):
    """Detected as one document or one memory a line: ids, times, agent, run, tags and metadata, and nothing is lost."""
    file = base / "mem0.json"
    file.write_text(json.dumps(MEM0, indent=2))
    _, told = command("import", file, port=shared.port, expect=0)
    assert "2 created, 2 embedded" in told
    memory = shared.client.get(f"/v1/memories/{MEM0['results'][0]['id']}", params={"user_id": "alex"}).json()
    assert memory["text"] == "Allergic to peanuts"
    assert (memory["agent_id"], memory["run_id"], memory["tags"]) == ("chef", "s1", ["food"])
    assert memory["created_at"] == "2024-06-29T17:00:00.123000Z"
    assert memory["expires_at"] == "2100-01-01T00:00:00Z"
    assert memory["metadata"] == {"category": "health", "mem0": {"hash": "9a0c", "app_id": "kitchen"}}
    file.write_text("\n".join(json.dumps(each) for each in MEM0["results"]))
    _, told = command("import", file, "--from", "mem0", "--on-conflict", "ignore", port=shared.port, expect=0)
    assert "2 duplicate" in told
    file.write_text(json.dumps([{"memory": "no user"}]))
    _, told = command("import", file, port=shared.port, expect=1)
    assert "$.user_id: is missing" in told
    _, told = command("import", file, "--user", "zoe", port=shared.port, expect=0)
    assert "1 created" in told


def test_a_killed_worker_and_a_killed_command(serve, data_dir, base, poll, running):
    """Kill -9 in the middle of an import, of the worker and of the command: resumed, nothing is lost or doubled."""
    old = serve(data_dir("old"))
    new = serve(data_dir("new"))
    fill(old.wait_until_ready(), "ada", 12_000)
    before = lines(old)
    file = base / "big.ndjson"
    file.write_text(old.client.get("/v1/export").text)
    old.stop()
    new.wait_until_ready()
    words = ["import", file, "--url", new.url]
    with running(words) as command:
        poll(lambda: taken_in(new) > 500, 3 * BOUND_S)
        os.kill(new.workers()[0], signal.SIGKILL)  # the command tries again when the next worker is there
        poll(lambda: taken_in(new) > 6500, 3 * BOUND_S)
        assert command.process.poll() is None, "the import ended before it was killed"
    with running([*words, "--resume"]) as command:
        told, code = command.told(6 * BOUND_S)
    assert code == 0, told
    assert b"errors" not in told
    assert lines(new) == before
    assert not list(base.glob("big.ndjson.import-state*"))


def taken_in(service):
    """How many memories the user has so far."""
    try:
        return service.client.get("/v1/users/ada").json().get("memories", 0)
    except httpx.TransportError:
        return 0


def test_ctrl_c_says_how_to_go_on(serve, data_dir, base, poll, running):
    """The command ends with 130, what it has sent stays, and the rest follows with --resume."""
    service = serve(data_dir()).wait_until_ready()
    file = base / "big.ndjson"
    file.write_text("\n".join(json.dumps({"type": "memory", "user_id": "ada", "text": f"{n}"}) for n in range(20_000)))
    words = ["import", file, "--url", service.url]
    with running(words) as command:
        poll((base / "big.ndjson.import-state").exists, 3 * BOUND_S)
        command.interrupt()
        told, code = command.told()
    assert (code, b"go on with --resume" in told) == (130, True), told
    with running([*words, "--resume", "--on-conflict", "ignore"]) as command:
        told, code = command.told(6 * BOUND_S)
    assert code == 0, told
    assert taken_in(service) == 20_000


def test_a_body_that_stalls_and_one_that_breaks_off(shared):
    """Each part has the time of a body (here half a second), not the whole; what came before a break is complete lines."""
    line = json.dumps({"type": "memory", "user_id": "slow", "text": "a"}).encode() + b"\n"
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as client:
        client.sendall(b"POST /v1/import HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n" + line)
        assert client.recv(65536).startswith(b"HTTP/1.1 408")
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as client:
        client.sendall(b"POST /v1/import HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n" + line)
    assert shared.client.get("/v1/health/ready").status_code == 200


def test_what_the_command_cannot_do(shared, command, base, free_port):
    """No file, no service, no right, a file that another compressed: one line, exit code 1, and nothing left behind."""
    missing = base / "missing.ndjson"
    _, told = command("import", missing, port=shared.port, expect=1)
    assert "cannot be read" in told
    missing.write_text("{}")
    _, told = command("export", base / "x.zst", port=shared.port, expect=1)
    assert "Zstandard is not built in" in told
    _, told = command("export", base / "x.ndjson", port=free_port(), expect=1)
    assert "broke the export off" in told
    _, told = command("export", base / "none" / "x", port=shared.port, expect=1)
    assert "cannot be written" in told
    (base / "broken.gz").write_bytes(b"not gzip")
    _, told = command("import", base / "broken.gz", port=shared.port, expect=1)
    assert "cannot be read" in told
    assert sorted(path.name for path in base.iterdir()) == ["broken.gz", "missing.ndjson"]
