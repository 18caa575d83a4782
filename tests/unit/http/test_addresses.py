"""What a method and a path decide."""

import math

import pytest

from memfast.config import McpConfig, ServerConfig
from memfast.http import addresses
from memfast.http.addresses import Addresses
from memfast.http.app import ROUTES
from memfast.mcp.face import build_surface

CONFIG = ServerConfig()
MEMORY = "/v1/memories/0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e01"


@pytest.fixture
def known():
    """The addresses of the service, with one other protocol."""
    return Addresses(ROUTES, ("/v1/health", "/dashboard"), [build_surface(McpConfig())], CONFIG)


@pytest.mark.parametrize(
    ("method", "path", "repeatable"),
    [
        ("POST", "/v1/search", True),
        ("GET", "/v1/memories", True),
        ("GET", MEMORY, True),
        ("POST", "/v1/memories", False),
        ("POST", "/v1/memories/batch", False),
        ("PATCH", MEMORY, False),
        ("DELETE", MEMORY, False),
        ("GET", "/v1/users", False),
        ("POST", "/mcp", False),
    ],
)
def test_only_reads_may_be_answered_again(known, method, path, repeatable):
    """A write is done each time, and another protocol decides for itself."""
    assert known.find(method, path).repeatable is repeatable


def test_the_time_of_a_request_depends_on_what_it_does(known):
    """A read has less than a write, a stream has no end."""
    assert known.find("POST", "/v1/search").timeout_s == known.find("GET", MEMORY).timeout_s == CONFIG.read_timeout_s
    assert known.find("POST", "/v1/memories").timeout_s == CONFIG.write_timeout_s
    streams = [(each, known.find(each.method, each.path)) for each in ROUTES if each.streams]
    assert {address.timeout_s for _, address in streams} == {math.inf}
    assert {address.uploads for route, address in streams if route.method == "POST"} == {True}
    assert {address.uploads for route, address in streams if route.method == "GET"} == {False}


def test_health_is_served_whatever_happens(known):
    """Beside it mode `essential` leaves single memories, by GET."""
    health, memory, search = (
        known.find(*each) for each in (("GET", "/v1/health/ready"), ("GET", MEMORY), ("POST", "/v1/search"))
    )
    assert (health.public, health.vital, health.essential) == (True, True, True)
    assert (memory.public, memory.vital, memory.essential) == (False, False, True)
    assert (search.public, search.vital, search.essential) == (False, False, False)
    assert not known.find("PATCH", MEMORY).essential


def test_a_path_leads_to_its_endpoint(known):
    """Where it has no parameters; another protocol answers everything below its prefix."""
    search = next(number for number, route in enumerate(ROUTES) if route.path == "/v1/search")
    found, other, named = (known.find("POST", path) for path in ("/v1/search", "/mcp", MEMORY))
    assert (found.number, found.endpoint, found.surface) == (search, ROUTES[search].endpoint, None)
    assert other.surface is not None
    assert other.endpoint == other.surface.endpoint
    assert (named.number, named.endpoint) == (None, None)


def test_what_is_remembered_is_bounded(known):
    """In number and in length: whoever sends long paths fills no memory."""
    long = "/v1/memories/" + "x" * 500
    assert known.find("GET", MEMORY) is known.find("GET", MEMORY)
    assert known.find("GET", long) is not known.find("GET", long)
    assert known.find("GET", long) == known.find("GET", long)
    assert known._remembered.cache_info().maxsize == addresses._REMEMBERED
