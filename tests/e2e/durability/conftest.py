"""`bench.durability` in its short form: the long one is `python -m bench.durability`."""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))  # `bench` stands beside `tests` and is not installed

SEED = int(os.environ.get("DURABILITY_SEED", "1"))


@pytest.fixture
def seed():
    """Of everything that is drawn."""
    return SEED


@pytest.fixture
def root():
    """An empty directory that every user may pass through. Afterwards nothing works or is mounted below it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="mf-") as path:
        folder = Path(path)
        folder.chmod(0o755)
        yield folder
        assert mounted_below(folder) == []
        assert working_below(folder) == []


def mounted_below(folder):
    """What is mounted below a directory."""
    places = (line.split()[1] for line in Path("/proc/mounts").read_text().splitlines())
    return [place for place in places if place.startswith(f"{folder}/")]


def working_below(folder):
    """The processes that work below a directory, or have a file there open."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                places = [(entry / "cwd").readlink(), *(each.readlink() for each in (entry / "fd").iterdir())]
                if any(place.is_relative_to(folder) for place in places):
                    found.append(int(entry.name))
    return found
