"""mem0's own clients against a running service, blocking and awaiting alike."""

import asyncio
import contextlib
import inspect
import itertools

import pytest

_numbers = itertools.count(1)


class _Blocking:
    """An awaiting client, or a part of one, each of whose methods is run to its end."""

    def __init__(self, own, run):
        self._own = own
        self._run = run

    def __getattr__(self, name):
        found = getattr(self._own, name)
        if name == "project":
            return _Blocking(found, self._run)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *arguments, **named: self._run(found(*arguments, **named))


@contextlib.contextmanager
def _connected(mem0, kind, url, key):
    if kind == "MemoryClient":
        client = mem0.MemoryClient(host=f"{url}/mem0", api_key=key)
        try:
            yield client
        finally:
            client.client.close()
        return
    with asyncio.Runner() as runner:
        client = mem0.AsyncMemoryClient(host=f"{url}/mem0", api_key=key)
        try:
            yield _Blocking(client, runner.run)
        finally:
            runner.run(client.async_client.aclose())


@pytest.fixture
def connect(mem0):
    """Function: a client of this service with a key, as a context manager."""

    def connected(service, key="anything", kind="MemoryClient"):
        return _connected(mem0, kind, service.url, key)

    return connected


@pytest.fixture(scope="module")
def service(serve_module):
    """A running service without API keys."""
    return serve_module(body_max_bytes=200_000).wait_until_ready()


@pytest.fixture(params=["MemoryClient", "AsyncMemoryClient"])
def client(request, connect, service):
    """Each of mem0's clients."""
    with connect(service, kind=request.param) as connected:
        yield connected


@pytest.fixture
def user():
    """A name that no other test has used."""
    return f"user-{next(_numbers)}"


@pytest.fixture
def said():
    """Function: the texts of an answer, in its order."""
    return lambda answer: [each["memory"] for each in answer["results"]]
