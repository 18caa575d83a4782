"""`bench.load`, which stands beside `tests` and is not installed."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def root():
    """The root of the project."""
    return ROOT
