"""Traces of arrivals: made up from a seed, written, read back, refused."""

from itertools import pairwise

import numpy as np
import pytest
from bench.load.mix import OPERATIONS
from bench.load.traces import bursty, poisson, read, write

LONG = {"rate": 100.0, "seconds": 200.0, "users": 20, "seed": 3}


def dispersion(arrivals):
    """Variance by mean of arrivals a second: 1 where they know nothing of each other."""
    counts = np.bincount([int(each.offset_s) for each in arrivals])
    return counts.var() / counts.mean()


@pytest.mark.parametrize("make", [poisson, bursty])
def test_a_seed_makes_the_same_trace_again(make):
    """And another seed another one."""
    first = list(make(rate=50.0, seconds=5.0, users=3, seed=1))
    assert first == list(make(rate=50.0, seconds=5.0, users=3, seed=1))
    assert first != list(make(rate=50.0, seconds=5.0, users=3, seed=2))


@pytest.mark.parametrize("make", [poisson, bursty])
def test_a_trace_is_what_was_asked_for(make):
    """In order, within its time, about as many as asked for, all operations in their shares, by the users that there are."""
    arrivals = list(make(**LONG))
    offsets = [each.offset_s for each in arrivals]
    assert all(before <= after for before, after in pairwise(offsets))
    assert 0 <= offsets[0] <= offsets[-1] < LONG["seconds"]
    assert len(arrivals) == pytest.approx(LONG["rate"] * LONG["seconds"], rel=0.2)
    for operation, percent in OPERATIONS.items():
        share = sum(each.operation == operation for each in arrivals) / len(arrivals)
        assert share == pytest.approx(percent / 100, abs=0.02)
    assert {each.user for each in arrivals} == {f"user-{number}" for number in range(LONG["users"])}


def test_bursts_are_bursts():
    """A second has as many arrivals as another in a Poisson process, and not in bursts."""
    assert dispersion(poisson(**LONG)) < 2
    assert dispersion(bursty(**LONG)) > 5


@pytest.mark.parametrize("form", ["ndjson", "csv"])
def test_what_is_written_is_read(form, tmp_path):
    """A trace comes back from its file as it was, in both forms."""
    path = tmp_path / f"trace.{form}"
    arrivals = list(poisson(rate=50.0, seconds=2.0, users=3, seed=1))
    with path.open("w") as file:
        write(arrivals, file, form)
    assert read(path) == arrivals


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "t.ndjson",
            '{"offset_s":1,"operation":"search","user":"a"}\n{"offset_s":0.5,"operation":"search","user":"a"}',
            ":2: offset_s",
        ),
        ("t.ndjson", '{"offset_s":1e999,"operation":"search","user":"a"}', ":1: "),
        ("t.ndjson", '{"offset_s":0,"operation":"sing","user":"a"}', ":1: operation must be one of search"),
        ("t.ndjson", '{"offset_s":0,"user":"a"}', "operation"),
        ("t.ndjson", "nonsense", ":1: "),
        ("t.csv", "offset_s,operation,user\n0,search,a\nnan,search,a\n", ":3: offset_s"),
        ("t.csv", "offset_s,operation\n0,search\n", ":2: "),
    ],
)
def test_what_is_no_trace_is_refused(name, text, told, tmp_path):
    """The error names the line and what it should be."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
        read(path)
