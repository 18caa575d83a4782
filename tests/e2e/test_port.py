"""The port belongs to one service from the first moment of its start."""

import socket

import pytest

from memfast.cli.port import Port
from memfast.errors import ConfigError, PortTaken

LOOPBACK = "127.0.0.1"


@pytest.mark.parametrize("host", [LOOPBACK, "0.0.0.0"])
def test_a_claimed_port_is_nobody_elses_before_it_listens(free_port, host):
    """A second claim fails while the first does not listen yet, on the same address and on all of them."""
    number = free_port()
    with Port.claim(LOOPBACK, number, 0.0), pytest.raises(PortTaken, match=f"{host}:{number} cannot be used"):
        Port.claim(host, number, 0.0)


def test_a_foreign_program_cannot_take_a_claimed_port(free_port):
    """Neither SO_REUSEADDR nor SO_REUSEPORT lets another program in."""
    number = free_port()
    with Port.claim(LOOPBACK, number, 0.0), socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind((LOOPBACK, number))


def test_connections_are_refused_until_it_listens(free_port):
    """A claimed port refuses; a listening one takes connections before anybody accepts them."""
    number = free_port()
    with Port.claim(LOOPBACK, number, 0.0) as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, number))
        port.listen(16)
        socket.create_connection((LOOPBACK, number)).close()


def test_connections_of_an_earlier_service_do_not_keep_the_port(free_port):
    """A port with connections in TIME_WAIT can be claimed; of two who then claim it, one may listen."""
    number = free_port()
    with Port.claim(LOOPBACK, number, 0.0) as port:
        port.listen(16)
        with socket.create_connection((LOOPBACK, number)) as client:
            with socket.fromfd(port.fileno(), socket.AF_INET, socket.SOCK_STREAM) as listener:
                accepted, _ = listener.accept()
            accepted.close()  # the side that closes first keeps the connection in TIME_WAIT
            assert client.recv(1) == b""
    with Port.claim(LOOPBACK, number, 0.0) as first, Port.claim(LOOPBACK, number, 0.0) as second:
        first.listen(16)
        with pytest.raises(PortTaken, match="another service may run there"):
            second.listen(16)


@pytest.mark.parametrize(("host", "message"), [("no such host", "not an address"), ("192.0.2.1", "this machine")])
def test_a_host_that_is_not_ours_is_a_configuration_error(free_port, host, message):
    """A name that nobody knows and an address of another machine are named."""
    with pytest.raises(ConfigError, match=message):
        Port.claim(host, free_port(), 0.0)
