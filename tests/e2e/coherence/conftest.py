"""What the tests of coherence share: `pair`, the ground under two workers, and the model of `bench.coherence`."""

import importlib.util
import itertools
import shutil
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from memfast import bootstrap
from memfast.config import load

sys.path.insert(0, str(Path(__file__).parents[3]))  # `bench` stands beside `tests` and is not installed

_spec = importlib.util.spec_from_file_location("pair", Path(__file__).with_name("pair.py"))
_module = importlib.util.module_from_spec(_spec)
sys.modules["pair"] = _module
_spec.loader.exec_module(_module)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def site():
    """What a parent makes ready for two workers."""
    base = Path(tempfile.mkdtemp(dir="/tmp", prefix="mf-"))  # not pytest's: as root, PostgreSQL is another user
    base.chmod(0o755)
    flags = {
        "data_dir": str(base / "data"),
        "server.workers": 2,
        "embedding.provider": "none",
        "embedding.dimensions": 8,
        "memory.budget_mb": 65_536,  # what is resident in this process is the tests' own
        "search.leg_timeout_ms": 60_000,
        "links.similar": 0,  # the model knows every version: none may come by itself
        "links.entities": 0,
    }
    with bootstrap.ground(load({}, flags=flags).config, lambda line: None) as made:
        yield made
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def pair(site):
    """Function: two workers as they are now, with one user of six memories."""

    @asynccontextmanager
    async def opened(*, warm=False):
        async with _module.worker(site) as a, _module.worker(site) as b:
            both = _module.Pair(a, b, f"pair-{next(_numbers)}")
            await both.begin()
            if warm:
                await both.warm()
            yield both

    return opened
