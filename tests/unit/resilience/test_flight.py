"""Work that several callers share."""

import asyncio

import pytest

from memfast.resilience.flight import Flight


class Work:
    """Ends when it is told to, and says how it ended."""

    def __init__(self):
        self.gate = asyncio.Event()
        self.ended = None

    async def run(self):
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.ended = "cancelled"
            raise
        self.ended = "done"
        return 42


async def test_all_callers_get_the_one_result():
    """Also those that came later."""
    work = Work()
    flight = Flight(work.run())
    callers = [asyncio.create_task(flight.join()) for _ in range(5)]
    await asyncio.sleep(0)
    work.gate.set()
    assert await asyncio.gather(*callers) == [42] * 5


async def test_it_goes_on_for_whoever_stays_and_ends_with_the_last():
    """A caller who leaves takes nothing from the others."""
    work = Work()
    flight = Flight(work.run())
    callers = [asyncio.create_task(flight.join()) for _ in range(3)]
    await asyncio.sleep(0)
    for caller in callers[:2]:
        caller.cancel()
    await asyncio.wait(callers[:2])
    assert (flight.open, work.ended) == (True, None)
    callers[2].cancel()
    await asyncio.wait(callers)
    await asyncio.wait([flight.task])
    assert (flight.open, work.ended) == (False, "cancelled")


async def test_an_error_is_everybodys_and_nobodys():
    """Each caller gets it; when none is left it is not reported as lost."""

    async def fail():
        await asyncio.sleep(0)
        raise ValueError

    flight = Flight(fail())
    with pytest.raises(ValueError):
        await flight.join()
    unwanted = Flight(fail())
    await asyncio.wait([unwanted.task])
