"""Trying again, with time and chance in the hand of the test."""

import asyncio

import pytest

from memfast.resilience.retry import Budget, Retry


class World:
    """A clock that sleeping moves, and random numbers as given."""

    def __init__(self, numbers=(1.0,)):
        self.seconds = 0.0
        self.slept = []
        self._numbers = list(numbers)

    def monotonic(self):
        return self.seconds

    async def sleep(self, seconds):
        self.slept.append(round(seconds, 6))
        self.seconds += seconds

    def random(self):
        self._numbers.append(self._numbers.pop(0))
        return self._numbers[-1]

    def retry(self, budget=None, **options):
        return Retry(budget or Budget(), self, self.sleep, self.random, **options)


class Work:
    """Fails so many times, then succeeds."""

    def __init__(self, failures, error=ConnectionResetError):
        self.failures = failures
        self.error = error
        self.tries = 0

    async def __call__(self):
        self.tries += 1
        if self.tries <= self.failures:
            raise self.error
        return "done"


def passing(error):
    """Whether a connection broke."""
    return isinstance(error, ConnectionError)


async def test_the_third_try_is_the_last():
    """Waits grow from 50 ms by two; after three tries the error is told."""
    world, work = World(), Work(2)
    assert await world.retry().run(work, passing, until_s=10) == "done"
    assert (work.tries, world.slept) == (3, [0.05, 0.1])
    world, work = World(), Work(3)
    with pytest.raises(ConnectionResetError):
        await world.retry().run(work, passing, until_s=10)
    assert work.tries == 3


async def test_the_jitter_is_full():
    """A wait is anything from nothing to its bound: clients that failed together do not come back together."""
    world = World([0.0, 0.5])
    await world.retry().run(Work(2), passing, until_s=10)
    assert world.slept == [0.0, 0.05]


async def test_an_error_that_will_not_pass_is_told_at_once():
    """So is a cancellation."""
    for error in (ValueError, asyncio.CancelledError):
        world, work = World(), Work(1, error)
        with pytest.raises(error):
            await world.retry().run(work, passing, until_s=10)
        assert (work.tries, world.slept) == (1, [])


async def test_no_try_begins_after_the_deadline():
    """A wait that would reach it is not waited."""
    world, work = World(), Work(2)
    with pytest.raises(ConnectionResetError):
        await world.retry().run(work, passing, until_s=0.1)
    assert (work.tries, world.slept) == (2, [0.05])


async def test_further_tries_are_a_tenth_of_the_first_ones():
    """When everything fails, the load grows by a tenth and no more, beyond a burst of ten."""
    world, budget, tries = World(), Budget(), 0
    retry = world.retry(budget)
    for _ in range(2000):
        work = Work(3)
        with pytest.raises(ConnectionResetError):
            await retry.run(work, passing, until_s=float("inf"))
        tries += work.tries
    assert 2000 + 200 <= tries <= 2000 + 200 + 10
