"""What the tests of the service share: `worlds`."""

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("worlds", Path(__file__).with_name("worlds.py"))
_module = importlib.util.module_from_spec(_spec)
sys.modules["worlds"] = _module
_spec.loader.exec_module(_module)


@pytest.fixture
def world():
    """A worker's coherence and answers."""
    return _module.World()
