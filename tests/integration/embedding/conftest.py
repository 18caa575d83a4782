"""A local embeddings endpoint for each test that asks for one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("embedding_endpoint", Path(__file__).with_name("endpoint.py"))
_module = importlib.util.module_from_spec(_spec)
sys.modules.setdefault(_spec.name, _module)
if sys.modules[_spec.name] is _module:
    _spec.loader.exec_module(_module)


@pytest.fixture
async def endpoint(monkeypatch):
    """A well-behaved endpoint; no proxy stands between it and the client."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with sys.modules["embedding_endpoint"].serving() as running:
        yield running
