"""Both twins of every native module, in one session: `[c]` and `[py]`."""

import importlib

import pytest

TWINS = {"c": "memfast._native.{}", "py": "memfast._native.{}_reference"}


def twin_of(kind: str, name: str):
    """Import one twin; a missing extension is an error here, never a skipped test."""
    return importlib.import_module(TWINS[kind].format(name))


def twins_of(name: str):
    """A fixture: one twin after the other."""

    @pytest.fixture(scope="session", params=list(TWINS))
    def twin(request):
        return twin_of(request.param, name)

    return twin


vectors = twins_of("_vectors")
caches = twins_of("_cache")
slots = twins_of("_slots")
checksums = twins_of("_checksum")
wires = twins_of("_wire")
lexical = twins_of("_lexical")
runs = twins_of("_runs")
metrics = twins_of("_metrics")
