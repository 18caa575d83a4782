"""One bound on the time of many tasks."""

import asyncio

import pytest
from worlds import SetClock

from memfast.resilience.deadlines import Deadlines


async def timed(deadlines, work):
    """Run work within the bound; gives whether it was late."""
    task = asyncio.current_task()
    deadlines.enter(task)
    try:
        await work
    except asyncio.CancelledError:
        if deadlines.leave(task):
            return True
        raise
    return deadlines.leave(task)


@pytest.fixture
def clock():
    """A clock that is set by hand."""
    return SetClock()


async def test_work_within_its_time_is_left_alone(clock):
    """Also to the very end of it."""
    deadlines, gate = Deadlines(5.0, clock), asyncio.Event()
    task = asyncio.create_task(timed(deadlines, gate.wait()))
    await asyncio.sleep(0)
    clock.seconds += 5.0
    deadlines.sweep()
    gate.set()
    assert await task is False


async def test_late_work_is_cancelled_and_says_so(clock):
    """The task itself goes on: the cancellation is taken back."""
    deadlines = Deadlines(5.0, clock)
    task = asyncio.create_task(timed(deadlines, asyncio.Event().wait()))
    await asyncio.sleep(0)
    clock.seconds += 5.1
    deadlines.sweep()
    assert await task is True
    assert task.cancelling() == 0


async def test_a_cancellation_by_somebody_else_stays_one(clock):
    """It is not mistaken for lateness."""
    deadlines = Deadlines(5.0, clock)
    task = asyncio.create_task(timed(deadlines, asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_sweep_runs_by_itself(clock):
    """Late work is found without being asked for."""
    deadlines = Deadlines(5.0, clock, sweep_s=0.001)
    sweeper = asyncio.create_task(deadlines.run())
    task = asyncio.create_task(timed(deadlines, asyncio.Event().wait()))
    await asyncio.sleep(0)
    clock.seconds += 6
    assert await asyncio.wait_for(task, 10) is True
    sweeper.cancel()
    await asyncio.gather(sweeper, return_exceptions=True)
