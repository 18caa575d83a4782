"""Cells that are counted in: both twins write the same numbers to the same places."""

import math
import mmap
import time

import numpy as np
import pytest

BOUNDS = (0.001, 0.01, 0.1)


@pytest.fixture
def cells():
    """Sixteen cells of zeros."""
    return memoryview(np.zeros(16))


def test_a_counter_adds_to_one_cell(metrics, cells):
    """One by default, any amount, and none beside it."""
    counter = metrics.Counter(cells, 3)
    counter.add()
    counter.add(2.5)
    assert (counter.value, sum(cells)) == (3.5, 3.5)
    counter.set(1.0)
    assert cells.tolist() == [0, 0, 0, 1, *[0] * 12]


@pytest.mark.parametrize(
    ("value", "place"),
    [(0, 0), (0.001, 0), (0.0010001, 1), (0.01, 1), (0.05, 2), (0.1, 2), (0.11, 3), (1e9, 3), (math.inf, 3)],
)
def test_a_histogram_counts_up_to_and_with_its_bounds(metrics, cells, value, place):
    """A value is in the first bucket whose bound it does not exceed; the sum follows the last one."""
    metrics.Histogram(cells, 5, BOUNDS).observe(value)
    assert [index for index, count in enumerate(cells.tolist()[:9]) if count] == [5 + place]
    assert cells[9] == value
    assert not any(cells.tolist()[10:])


@pytest.mark.parametrize("value", [-1e-9, -math.inf, math.nan])
def test_what_no_duration_can_be_is_not_counted(metrics, cells, value):
    """A clock that was set back leaves no trace."""
    metrics.Histogram(cells, 0, BOUNDS).observe(value)
    assert not any(cells.tolist())


@pytest.mark.parametrize("place", [-1, 12, 16, 2**40])
def test_cells_that_are_not_there_are_refused(metrics, cells, place):
    """Nothing is ever written beside the cells."""
    with pytest.raises(IndexError, match="not all of 0 to 15"):
        metrics.Histogram(cells, place, BOUNDS)
    with pytest.raises(IndexError):
        metrics.Counter(cells, 16)


@pytest.mark.parametrize("bounds", [(), (2, 1), (1, 1), range(33)])
def test_bounds_must_rise(metrics, cells, bounds):
    """And there are 1 to 32 of them."""
    with pytest.raises(ValueError, match="bounds must be"):
        metrics.Histogram(cells, 0, bounds)


@pytest.mark.parametrize(
    "wrong", [np.zeros(16, np.float32), np.zeros((4, 4)), np.zeros(32)[::2], memoryview(np.zeros(16)).toreadonly()]
)
def test_other_buffers_are_refused(metrics, wrong):
    """Float64, writable, in one row."""
    with pytest.raises(ValueError, match="float64, writable"):
        metrics.Counter(wrong, 0)


def test_cells_outlive_their_opener(metrics):
    """A counter keeps the mapping that it writes to."""
    counter = metrics.Counter(memoryview(mmap.mmap(-1, 4096)).cast("d"), 7)
    counter.add(3)
    assert counter.value == 3


def test_a_trace_splits_the_time_between_its_laps(metrics, cells):
    """All that passed between the laps belongs to some stage, and what came before `start` to none."""
    trace = metrics.Trace(b"r-1", b"00-1-2-01")
    assert (trace.request_id, trace.parent, trace.scope_id, trace.degraded) == (b"r-1", b"00-1-2-01", None, ())
    assert trace.spent == (-1,) * 8
    began = time.perf_counter()
    trace.start()
    for stage in (0, 2, 0, 8, -1):
        trace.lap(stage)
    took = time.perf_counter() - began
    spent = trace.spent
    assert [index for index, seconds in enumerate(spent) if seconds >= 0] == [0, 2]
    assert 0 <= spent[0] + spent[2] <= took
    assert [index for index, at in enumerate(trace.begun) if at >= 0] == [0, 2]
    assert began <= trace.begun[0] <= trace.begun[0] + spent[0] <= trace.begun[2] + spent[2] <= began + took


def test_what_was_measured_beside_the_laps_began_before_it_was_told(metrics):
    """A stage begins where its first lap does, however many follow."""
    trace, told = metrics.Trace(b"r-1"), time.perf_counter()
    trace.add(3, 0.5)
    first = trace.begun[3]
    trace.add(3, 0.25)
    assert told - 0.5 <= first <= time.perf_counter() - 0.5
    trace.add(4, 0.5, 0.25)
    assert trace.begun[4] + 0.75 <= time.perf_counter() <= trace.begun[4] + 1.75
    assert (trace.begun[3], trace.spent[3], trace.whole, trace.span) == (first, 0.75, None, None)


def test_stages_without_a_lap_are_not_counted(metrics, cells):
    """A histogram counts requests that had the stage, and not the others."""
    trace = metrics.Trace(b"r-1")
    trace.lap(1)
    trace.lap(2)
    trace.publish((metrics.Histogram(cells, 0, BOUNDS), metrics.Histogram(cells, 8, BOUNDS), None))
    assert trace.work is None
    assert sum(cells[:4]) == 0
    assert sum(cells[8:12]) == 1
    assert cells[12] == trace.spent[1]
