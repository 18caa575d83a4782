"""The official clients of both generations use the running service, over HTTP and over `memfast mcp`."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

TALK = Path(__file__).with_name("talk.py")
WAIT_S = 60


@pytest.fixture(scope="module")
def service(serve_module):
    """A running service."""
    return serve_module().wait_until_ready()


@pytest.fixture
def talk(client_1, bare_environment):
    """Function: what a client of a generation was told by a server."""

    def run(generation, server, mode):
        environment = bare_environment | {"PYTHONPATH_OF_SERVICE": os.environ.get("PYTHONPATH", "")}
        if generation == 1:
            environment["PYTHONPATH"] = str(client_1)
        words = [sys.executable, "-W", "error", str(TALK), server, mode]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=WAIT_S)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def checked(told):
    """What a client was told is what was asked for."""
    assert len(told["tools"]) == 9
    assert told["again"] == "duplicate"
    assert told["recall"][0] == "Grace keeps bees in Turin."
    assert (told["relate"], told["related"]) == ("created", [told["two"]])
    assert (told["update"], told["get"]) == (False, "Grace keeps bees in Rome.")
    assert (told["list"], told["status"], told["templates"], told["resources"]) == (2, 2, 1, 0)
    assert told["error"]["isError"] is True
    assert "$.id: Invalid UUID" in told["error"]["content"][0]["text"]
    assert told["unknown"] == -32602
    assert told["resource"] == "Grace sells honey on Saturdays."
    assert told["prompts"] == ["what_do_you_know_about", "review_before_you_act"]
    assert "Grace sells honey on Saturdays." in told["prompt"]
    assert (told["forget"], told["erased"]) == (1, 1)


@pytest.mark.parametrize(("generation", "mode"), [(2, "auto"), (2, "legacy"), (1, "legacy")])
def test_a_client_over_http(service, talk, generation, mode):
    """A client of either generation, and of either era, finds everything and does everything."""
    checked(talk(generation, f"{service.url}/mcp", mode))


@pytest.mark.parametrize(("generation", "mode"), [(2, "auto"), (2, "legacy"), (1, "legacy")])
def test_a_client_over_standard_streams(service, talk, generation, mode):
    """The same over `memfast mcp`, which carries every message to the service."""
    checked(talk(generation, json.dumps([sys.executable, "-m", "memfast", "mcp", "--url", service.url]), mode))


class Bridge:
    """`memfast mcp`, line by line."""

    def __init__(self, environment, *options):
        words = [sys.executable, "-m", "memfast", "mcp", *options]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, stderr=pipe)

    def send(self, line):
        """Send a line without waiting for an answer."""
        self.process.stdin.write(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, line):
        """The answer to a line."""
        self.send(line)
        return json.loads(self.process.stdout.readline())

    def ended(self, text=b""):
        """Exit code and what it printed, once its input has ended."""
        printed, told = self.process.communicate(text, timeout=WAIT_S)
        return self.process.returncode, printed.decode(), told.decode()


@pytest.fixture
def bridge(bare_environment):
    """Function: a bridge, which ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(*options, **variables):
            started = Bridge(bare_environment | variables, *options)
            stack.callback(started.process.communicate)
            stack.callback(started.process.kill)
            return started

        yield start


PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def test_the_bridge_answers_line_by_line(service, bridge):
    """Requests are answered in order, notifications and empty lines are not, broken ones get an error."""
    running = bridge("--url", service.url, "--user", "ada/ä%")
    running.send(b"\n  \r\n")
    running.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert running.ask(PING) == {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert running.ask(b"{broken\n")["error"]["code"] == -32700
    assert [answer["id"] for answer in running.ask([PING, PING | {"id": "two"}])] == [1, "two"]
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "status", "arguments": {}}}
    assert running.ask(call)["result"]["structuredContent"]["user_id"] == "ada/ä%"
    assert running.ended(json.dumps(PING).encode()) == (0, '{"jsonrpc":"2.0","id":1,"result":{}}\n', "")


def test_the_bridge_bounds_a_line(service, bridge):
    """A message that is too long is refused without being kept, and the next one is served."""
    running = bridge("--url", service.url, "--set", "server.body_max_bytes=1024")
    long = json.dumps(PING | {"params": {"x": "y" * 300_000}}).encode() + b"\n"
    error = running.ask(long)
    assert error["error"]["code"] == -32600
    assert "1024 bytes" in error["error"]["message"]
    assert running.ask(PING)["result"] == {}
    assert running.ended(b"x" * 5000)[0] == 0


def test_the_bridge_encodes_names_in_headers(service, bridge):
    """A name that no header can carry is compared by the service all the same."""
    running = bridge("--url", service.url)
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    for uri in ("memfast://ä", " x ", "=?base64?x?=", "a\nb"):
        asked = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": uri, "_meta": meta}}
        error = running.ask(asked)["error"]
        assert (error["code"], error["data"]) == (-32602, {"uri": uri})


def test_the_bridge_needs_a_service(bridge):
    """Without one it ends at once, with a word about what to do."""
    code, printed, told = bridge("--url", "http://127.0.0.1:9").ended()
    assert (code, printed) == (1, "")
    assert "memfast serve" in told


def test_the_bridge_ends_by_a_signal(service, bridge):
    """SIGTERM is how clients stop a server: it is no failure."""
    running = bridge("--url", service.url)
    assert running.ask(PING)["result"] == {}
    running.process.terminate()
    assert running.process.wait(WAIT_S) == 0


class _Refusing(BaseHTTPRequestHandler):
    """A service that refuses everything after the first request, or wants a key."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked += 1
        status = 401 if self.server.locked else 200 if self.server.asked == 1 else 503
        body = b'{"detail":"an API key is needed"}' if self.server.locked else b'{"detail":"it is essential"}'
        self.send_response(status)
        self.send_header("content-type", "application/problem+json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        """Say nothing."""


@pytest.fixture
def refusing():
    """Function: the URL of a service that refuses."""
    with contextlib.ExitStack() as stack:

        def start(*, locked):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _Refusing))
            server.daemon_threads = True
            server.asked, server.locked = 0, locked
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


def test_a_refusal_is_an_error_of_the_protocol(bridge, refusing):
    """What the service refuses as a whole, and what does not reach it, has the id of the message."""
    url = refusing(locked=False)
    running = bridge("--url", url)
    assert running.ask(PING)["error"] == {"code": -32603, "message": "it is essential"}


def test_a_missing_key_is_named(bridge, refusing):
    """The bridge says where a key goes."""
    code, _, told = bridge("--url", refusing(locked=True)).ended()
    assert code == 1
    assert "MEMFAST_API_KEY" in told
