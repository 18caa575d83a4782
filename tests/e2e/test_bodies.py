"""Bodies that come late, half, or too large, over real sockets."""

import json
import socket
from contextlib import ExitStack, suppress
from select import select

import httpx
import psutil
import pytest

CREATED = 201
LIVE = b"GET /v1/health/live HTTP/1.1\r\nHost: memfast\r\n\r\n"
TEXT = json.dumps({"user_id": "slow", "text": "complete"}).encode()


def head(length, *more, asked="POST /v1/memories"):
    """The head of a request that announces a body."""
    lines = (f"{asked} HTTP/1.1", "Host: memfast", "Content-Type: application/json")
    return "\r\n".join([*lines, f"Content-Length: {length}", *more, "", ""]).encode()


@pytest.fixture
def connect(shared):
    """Function: a raw connection to the shared service."""
    opened = []

    def connected():
        opened.append(socket.create_connection(("127.0.0.1", shared.port), timeout=10))
        return opened[-1]

    yield connected
    for connection in opened:
        connection.close()


def read_all(connection):
    """What comes until the other side closes."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_half_a_body_is_given_up(shared, connect):
    """Stalled bodies get 408 and the connection is closed; the service goes on."""
    stalled = [connect() for _ in range(20)]
    for connection in stalled:
        connection.sendall(head(len(TEXT)) + TEXT[:10])
    for connection in stalled:
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"\r\nconnection: close\r\n" in answer
        assert b"urn:memfast:problem:request-timeout" in answer
    assert shared.remember("after", user_id="after").status_code == CREATED


def test_half_a_body_disturbs_nobody(serve, data_dir):
    """While bodies stall others are served, and they themselves once the rest has come."""
    service = serve(data_dir(), body_timeout_s=600).wait_until_ready()
    with ExitStack() as opened:
        stalled = [
            opened.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30)) for _ in range(20)
        ]
        for connection in stalled:
            connection.sendall(head(len(TEXT), "Connection: close") + TEXT[:10])
        for _ in range(3):
            assert service.remember("meanwhile", user_id="meanwhile").status_code == CREATED
        assert select(stalled, [], [], 0)[0] == []
        for connection in stalled:
            connection.sendall(TEXT[10:])
        assert all(read_all(connection).startswith(b"HTTP/1.1 201 ") for connection in stalled)


def test_a_slow_body_that_comes_in_time_is_taken(shared, connect):
    """A body in pieces is one body."""
    connection = connect()
    connection.sendall(head(len(TEXT), "Connection: close"))
    for byte in TEXT:
        connection.sendall(bytes([byte]))
    assert read_all(connection).startswith(b"HTTP/1.1 201 ")


def test_clients_that_leave_in_mid_body_leave_nothing(shared, connect, poll):
    """A hundred clients hang up in mid body: no line in the log, no descriptor left, the service goes on."""
    (worker,) = map(psutil.Process, shared.workers())
    assert shared.ready()
    before, printed = worker.num_fds(), shared.output
    for _ in range(100):
        connection = connect()
        connection.sendall(head(len(TEXT)) + TEXT[:10])
        connection.close()
    assert shared.remember("after", user_id="after").status_code == CREATED
    poll(lambda: worker.num_fds() <= before + 2)
    assert shared.output == printed
    assert shared.search("complete", user_id="slow") in ([], ["complete"])


@pytest.mark.parametrize("more", [(), ("Expect: 100-continue",)])
def test_a_body_that_is_announced_too_large_is_not_read(connect, more):
    """The answer 413 comes from the head alone."""
    connection = connect()
    connection.sendall(head(100_001, *more))
    answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"the body has 100001 bytes; at most 100000 are taken" in answer


def answer_of(reader):
    """The next answer on a connection: its status, its headers and its body."""
    status = int(reader.readline().split()[1])
    headers = {}
    while line := reader.readline().strip():
        name, _, value = line.partition(b":")
        headers[name.lower()] = value.strip()
    return status, headers, reader.read(int(headers[b"content-length"]))


@pytest.mark.parametrize("length", [100_001, 1_000_000])
def test_what_follows_a_refused_body_is_never_taken_for_a_request(connect, length):
    """The refused body holds requests of its own, which are not answered; that behind it is, or the end was announced."""
    connection = connect()
    inner = b"GET /v1/health/ready HTTP/1.1\r\nHost: memfast\r\n\r\n"
    with suppress(ConnectionError):
        connection.sendall(head(length) + (inner * (length // len(inner) + 1))[:length])
        connection.sendall(LIVE)
    with connection.makefile("rb") as reader:
        status, headers, body = answer_of(reader)
        assert (status, b"payload-too-large" in body) == (413, True)
        if headers.get(b"connection") != b"close":
            assert answer_of(reader)[::2] == (200, b'{"status":"live"}')
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionResetError):
            assert reader.read() == b""
    assert (headers.get(b"connection") == b"close") == (length > 256 * 1024)


def test_a_body_that_comes_behind_its_answer_keeps_the_connection(serve, data_dir, command):
    """Whoever sends head and body apart is refused in between, and its next request is answered on that connection."""
    folder = data_dir()
    key = command("keys", "create", "--user", "ada", data_dir=folder, expect=0)[0].strip()
    service = serve(folder, body_max_bytes=1024).wait_until_ready()
    refused = [
        (401, "POST /v1/memories", 1000),
        (401, "POST /v1/none", 100_000),
        (401, "DELETE /v1/memories", 1000),
        (401, "GET /v1/export", 1000),
        (401, "POST /v1/import", 200_000),
        (401, "POST /mem0/v3/memories/search/", 1000),
        (403, "POST /mcp", 1000),
        (413, "POST /v1/memories", 200_000, f"Authorization: Bearer {key}"),
        (415, "POST /v1/import", 200_000, f"Authorization: Bearer {key}"),
    ]
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=10)
    with connection, connection.makefile("rb") as reader:
        for expected, asked, length, *more in refused:
            connection.sendall(head(length, *more, asked=asked))
            status, headers, _ = answer_of(reader)
            assert (status, b"connection" in headers) == (expected, False), asked
            connection.sendall(b" " * length + LIVE)
            assert answer_of(reader)[0] == 200, asked


def test_a_body_that_nobody_asked_for_keeps_the_connection(connect):
    """A GET with a body is answered when that has come, and the next request behind it too."""
    connection = connect()
    with connection.makefile("rb") as reader:
        connection.sendall(head(1000, asked="GET /v1/health/live"))
        connection.sendall(b" " * 1000 + LIVE)
        assert answer_of(reader)[0] == 200
        assert answer_of(reader)[0] == 200


def test_a_body_that_never_comes_behind_its_answer(connect):
    """The refused client has the time of a body to send it; then the connection is closed."""
    connection = connect()
    connection.sendall(head(100_001) + b" " * 10)
    assert read_all(connection).count(b"HTTP/1.1 ") == 1


def test_how_much_is_heard_out_behind_an_answer_is_bounded(connect):
    """Who sends on and on behind the answer that ends the connection is cut off."""
    connection = connect()
    connection.sendall(head(10**12))
    with connection.makefile("rb") as reader:
        status, headers, _ = answer_of(reader)
        assert (status, headers[b"connection"]) == (413, b"close")
    with pytest.raises(ConnectionError):
        connection.sendall(bytes(100_000_000))


def test_a_body_without_a_length_is_bounded_too(connect):
    """Chunks beyond the limit get 413."""
    connection = connect()
    connection.sendall(b"POST /v1/memories HTTP/1.1\r\nHost: memfast\r\nTransfer-Encoding: chunked\r\n\r\n")
    with suppress(ConnectionError):
        for _ in range(3):
            connection.sendall(b"c000\r\n" + b"x" * 0xC000 + b"\r\n")
    assert read_all(connection).startswith(b"HTTP/1.1 413 ")


def test_a_refusal_that_read_the_body_keeps_the_connection(shared):
    """After 400 and 404 the same connection serves the next request."""
    with httpx.Client(base_url=shared.url, trust_env=False, verify=False) as client:
        with client.stream("POST", "/v1/memories", content=b"{}") as refused:
            assert refused.status_code == 400
            refused.read()
            local = refused.extensions["network_stream"].get_extra_info("client_addr")
        with client.stream("GET", "/v1/health/live") as served:
            assert served.status_code == 200
            assert served.extensions["network_stream"].get_extra_info("client_addr") == local


def test_half_a_body_does_not_keep_the_service_from_stopping(serve, data_dir):
    """A stop waits for the body no longer than its timeout, and then ends in order."""
    service = serve(data_dir(), body_timeout_s=0.5).wait_until_ready()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head(len(TEXT)) + TEXT[:10])
        assert service.remember("meanwhile").status_code == CREATED
        assert service.stop() == 0
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")
    assert "Killing" not in service.output
