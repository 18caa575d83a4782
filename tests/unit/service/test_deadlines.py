"""Bounds on the time of many tasks, and an end to what nobody waits for."""

import asyncio
import threading
import time

import pytest
from worlds import SetClock

from memfast.resilience.clock import SystemClock
from memfast.resilience.deadlines import WATCH_AFTER_S, Deadlines


async def timed(deadlines, work, timeout_s=5.0, leaves=None):
    """Run work within the bound; gives how it ended."""
    task = asyncio.current_task()
    deadlines.enter(task, timeout_s, leaves)
    try:
        await work
    except asyncio.CancelledError:
        end = deadlines.leave(task)
        if end is not None:
            return end
        raise
    return deadlines.leave(task)


@pytest.fixture
def clock():
    """A clock that is set by hand."""
    return SetClock()


async def test_work_within_its_time_is_left_alone(clock):
    """Also to the very end of it."""
    deadlines, gate = Deadlines(clock), asyncio.Event()
    task = asyncio.create_task(timed(deadlines, gate.wait()))
    await asyncio.sleep(0)
    clock.seconds += 5.0
    deadlines.sweep()
    gate.set()
    assert await task is None


async def test_late_work_is_cancelled_and_says_so(clock):
    """Each by its own time; the task itself goes on: the cancellation is taken back."""
    deadlines = Deadlines(clock)
    short = asyncio.create_task(timed(deadlines, asyncio.Event().wait()))
    long = asyncio.create_task(timed(deadlines, asyncio.Event().wait(), 60.0))
    await asyncio.sleep(0)
    clock.seconds += 5.1
    deadlines.sweep()
    assert await short == "late"
    assert (short.cancelling(), long.done()) == (0, False)
    clock.seconds += 60
    deadlines.sweep()
    assert await long == "late"


async def test_a_cancellation_by_somebody_else_stays_one(clock):
    """It is not mistaken for lateness."""
    deadlines = Deadlines(clock)
    task = asyncio.create_task(timed(deadlines, asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_sweep_runs_by_itself(clock):
    """Late work is found without being asked for."""
    deadlines = Deadlines(clock, sweep_s=0.001)
    sweeper = asyncio.create_task(deadlines.run())
    task = asyncio.create_task(timed(deadlines, asyncio.Event().wait()))
    await asyncio.sleep(0)
    clock.seconds += 6
    assert await asyncio.wait_for(task, 10) == "late"
    sweeper.cancel()
    await asyncio.gather(sweeper, return_exceptions=True)


async def test_nothing_is_swept_where_nothing_is_open(clock, monkeypatch):
    """The sweeper rests between requests, wakes with each first one, and its end harms none that comes later."""
    deadlines, sweeps = Deadlines(clock, sweep_s=0.001), []
    monkeypatch.setattr(deadlines, "sweep", lambda real=deadlines.sweep: (sweeps.append(1), real()))
    sweeper = asyncio.create_task(deadlines.run())

    async def rests():
        async with asyncio.timeout(20):
            while deadlines._rest is None or deadlines._rest.done():
                await asyncio.sleep(0)

    for _ in range(3):
        await rests()
        known = len(sweeps)
        for _ in range(100):
            await asyncio.sleep(0.0005)
        assert len(sweeps) == known
        tasks = [asyncio.create_task(timed(deadlines, asyncio.Event().wait())) for _ in range(2)]
        await asyncio.sleep(0)
        clock.seconds += 6
        assert await asyncio.wait_for(asyncio.gather(*tasks), 20) == ["late", "late"]
        assert len(sweeps) > known
    await rests()
    sweeper.cancel()
    assert await timed(deadlines, asyncio.sleep(0)) is None
    await asyncio.gather(sweeper, return_exceptions=True)
    assert await timed(deadlines, asyncio.sleep(0)) is None


async def several_turns_after(message):
    """What the server's thread sends takes several turns of the loop to arrive."""
    await message.wait()
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("sent", "end"), [(True, None), (False, "late")])
async def test_what_came_while_the_loop_stood_still_is_in_time(sent, end):
    """A loop that was held up beyond a task's time first hears what has come for it; the rest is late as ever."""
    deadlines, message = Deadlines(SystemClock(), sweep_s=0.02), asyncio.Event()
    sweeper = asyncio.create_task(deadlines.run())
    task = asyncio.create_task(timed(deadlines, several_turns_after(message), 0.1))
    await asyncio.sleep(0)
    if sent:
        thread = threading.Thread(target=asyncio.get_running_loop().call_soon_threadsafe, args=(message.set,))
        thread.start()
        thread.join()
    time.sleep(0.2)
    assert await task == end
    sweeper.cancel()


async def test_work_whose_caller_has_gone_is_cancelled(clock):
    """Only what takes long pays for being watched, and only once."""
    deadlines, gone, watches = Deadlines(clock), asyncio.Event(), []

    async def leaves():
        watches.append(1)
        await gone.wait()

    task = asyncio.create_task(timed(deadlines, asyncio.Event().wait(), leaves=leaves))
    await asyncio.sleep(0)
    deadlines.sweep()
    await asyncio.sleep(0)
    assert watches == []
    clock.seconds += WATCH_AFTER_S + 0.01
    for _ in range(3):
        deadlines.sweep()
        await asyncio.sleep(0)
    assert watches == [1]
    gone.set()
    assert await task == "gone"


async def test_a_watch_ends_with_its_request(clock):
    """Nothing waits for a caller whose request is done."""
    deadlines, gate, ended = Deadlines(clock), asyncio.Event(), []

    async def leaves():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    task = asyncio.create_task(timed(deadlines, gate.wait(), leaves=leaves))
    await asyncio.sleep(0)
    clock.seconds += WATCH_AFTER_S + 0.01
    deadlines.sweep()
    await asyncio.sleep(0)
    gate.set()
    assert await task is None
    await asyncio.sleep(0)
    assert ended == [1]
