"""Bodies that come late, half, or too large, over real sockets."""

import json
import socket
from contextlib import suppress

import httpx
import psutil
import pytest

CREATED = 201
TEXT = json.dumps({"user_id": "slow", "text": "complete"}).encode()


def head(length, *more):
    """The head of a request that announces a body."""
    lines = ("POST /v1/memories HTTP/1.1", "Host: memfast", "Content-Type: application/json")
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


def test_half_a_body_is_given_up_and_disturbs_nobody(shared, connect):
    """Stalled bodies get 408 within the timeout, others are served meanwhile, and the connection is closed."""
    stalled = [connect() for _ in range(20)]
    for connection in stalled:
        connection.sendall(head(len(TEXT)) + TEXT[:10])
    for _ in range(3):
        assert shared.remember("meanwhile", user_id="meanwhile").status_code == CREATED
    for connection in stalled:
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"urn:memfast:problem:request-timeout" in answer


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


def test_what_follows_a_refused_body_is_never_taken_for_a_request(connect):
    """The unread body holds a request of its own: it is not answered."""
    connection = connect()
    inner = b"GET /v1/health/live HTTP/1.1\r\nHost: memfast\r\n\r\n"
    with suppress(ConnectionError):
        connection.sendall(head(100_001))
        connection.sendall(inner * (100_001 // len(inner) + 1))
    answer = read_all(connection)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 413 ")


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
    with httpx.Client(base_url=shared.url, trust_env=False) as client:
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
