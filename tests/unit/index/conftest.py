"""What the tests of the warm index share: `index_world`, and both twins of the kernels."""

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

from memfast import kernels

_spec = importlib.util.spec_from_file_location("index_world", Path(__file__).with_name("index_world.py"))
_module = importlib.util.module_from_spec(_spec)
sys.modules["index_world"] = _module
_spec.loader.exec_module(_module)


BOUND = {
    "_vectors": ("quantise", "search_rows", "top_k"),
    "_lexical": ("count_terms", "rank_terms"),
    "_runs": ("neighbours",),
}


@pytest.fixture(params=["", "_reference"], ids=["c", "py"])
def twin(request, monkeypatch):
    """Bind the kernels to one of the twins."""
    for module, names in BOUND.items():
        kernel = importlib.import_module(f"memfast._native.{module}{request.param}")
        for name in names:
            monkeypatch.setattr(kernels, name, getattr(kernel, name))


@pytest.fixture
def small_limits(monkeypatch):
    """Make a few rows enough for an int8 image and for a rebuild inside `apply`."""
    shard = importlib.import_module("memfast.index.shard")
    monkeypatch.setattr(shard, "QUANTISED_FROM_ROWS", 4)
    monkeypatch.setattr(shard, "WORN_ROWS_MIN", 2)
