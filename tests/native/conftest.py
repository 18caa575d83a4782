"""Both twins of every native module, in one session: `[c]` and `[py]`."""

import importlib

import pytest

TWINS = {"c": "memfast._native.{}", "py": "memfast._native.{}_reference"}


def twin_of(kind: str, name: str):
    """Import one twin; a missing extension is an error here, never a skipped test."""
    return importlib.import_module(TWINS[kind].format(name))


@pytest.fixture(scope="session", params=list(TWINS))
def vectors(request):
    """The ranking kernels."""
    return twin_of(request.param, "_vectors")


@pytest.fixture(scope="session", params=list(TWINS))
def caches(request):
    """The response cache."""
    return twin_of(request.param, "_cache")


@pytest.fixture(scope="session", params=list(TWINS))
def slots(request):
    """The shared epochs."""
    return twin_of(request.param, "_slots")


@pytest.fixture(scope="session", params=list(TWINS))
def checksums(request):
    """The checksums of files."""
    return twin_of(request.param, "_checksum")


@pytest.fixture(scope="session", params=list(TWINS))
def wires(request):
    """The numbers and bytes of a search."""
    return twin_of(request.param, "_wire")


@pytest.fixture(scope="session", params=list(TWINS))
def lexical(request):
    """The ranking by terms."""
    return twin_of(request.param, "_lexical")


@pytest.fixture(scope="session", params=list(TWINS))
def runs(request):
    """Neighbours in runs."""
    return twin_of(request.param, "_runs")
