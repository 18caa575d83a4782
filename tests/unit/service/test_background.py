"""The background queue: bounded, a few tasks at once, each failing alone."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from worlds import EPOCH, SetClock

from memfast.errors import InvalidRequest, StoreUnavailable
from memfast.resilience.retry import Budget, Retry
from memfast.service.background import DEAD_MAX, Background


@asynccontextmanager
async def working(*, queue_limit=10, parallel=3, started=True):
    """A queue whose workers run until the end of the block; waits between tries take no time."""
    clock = SetClock()

    async def sleep(seconds):
        clock.seconds += seconds

    background = Background(
        Retry(Budget(), clock, sleep, lambda: 1.0), clock, queue_limit=queue_limit, parallel=parallel
    )
    task = asyncio.create_task(background.run() if started else asyncio.sleep(0))
    try:
        yield background
    finally:
        task.cancel()
        await asyncio.wait([task])


class Work:
    """A task that counts its tries, waits at a gate, and fails as it is told."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.tries = 0
        self.now = self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self):
        self.tries += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await self.gate.wait()
        self.now -= 1
        if self.errors:
            raise self.errors.pop(0)


async def until(condition):
    """Let others run until it holds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_tasks_run_a_few_at_once():
    """Ten tasks, three at a time, all of them done."""
    async with working() as background:
        work = Work()
        work.gate.clear()
        assert all(background.offer("count", work) for _ in range(10))
        await until(lambda: work.now == 3)
        state = background.snapshot()
        assert (state.running, state.queued, state.queue_limit, state.done) == (3, 7, 10, 0)
        work.gate.set()
        await background.join()
        assert (work.tries, work.most) == (10, 3)
        assert (background.snapshot().done, background.snapshot().running) == (10, 0)


async def test_a_full_queue_takes_no_more():
    """One more is refused and counted; whoever waits for room gets it in turn."""
    async with working(queue_limit=2, parallel=1) as background:
        work = Work()
        work.gate.clear()
        assert background.offer("first", work)
        await until(lambda: work.now == 1)
        assert background.offer("second", work)
        assert background.offer("third", work)
        assert not background.offer("fourth", work)
        waiting = asyncio.create_task(background.put("fifth", work))
        await asyncio.sleep(0)
        assert not waiting.done()
        work.gate.set()
        assert await waiting
        await background.join()
        assert (work.tries, background.snapshot().refused) == (4, 1)


async def test_a_task_fails_alone_and_is_listed():
    """The others are done; the list has its name, its time, its tries and its error, the newest first."""
    async with working(parallel=1) as background:
        good = Work()
        background.offer("refused", Work(InvalidRequest("$.x: is wrong")))
        background.offer("broken", Work(ValueError("secret words of a user")))
        background.offer("good", good)
        await background.join()
        state = background.snapshot()
        assert (good.tries, state.done, state.dead) == (1, 1, 2)
        told = [(letter.name, letter.attempts, letter.error, letter.at > EPOCH) for letter in state.dead_letters]
        assert told == [("broken", 1, "ValueError", True), ("refused", 1, "InvalidRequest: $.x: is wrong", True)]


async def test_what_may_pass_is_tried_three_times():
    """An absence that ends is no failure; one that does not end is one, after three tries."""
    async with working() as background:
        passing, lasting = Work(StoreUnavailable("away")), Work(*[StoreUnavailable("away")] * 5)
        background.offer("passing", passing)
        background.offer("lasting", lasting)
        await background.join()
        state = background.snapshot()
        assert (passing.tries, lasting.tries) == (2, 3)
        assert (state.done, state.dead, state.retried) == (1, 1, 3)
        assert [(letter.name, letter.attempts) for letter in state.dead_letters] == [("lasting", 3)]


async def test_the_list_of_failures_is_bounded():
    """All are counted, the last hundred are listed."""
    async with working(queue_limit=DEAD_MAX + 10) as background:
        for number in range(DEAD_MAX + 5):
            background.offer(f"task {number}", Work(ValueError()))
        await background.join()
        state = background.snapshot()
        assert (state.dead, len(state.dead_letters)) == (DEAD_MAX + 5, DEAD_MAX)
        assert state.dead_letters[0].name == f"task {DEAD_MAX + 4}"


async def test_a_stop_finishes_what_was_taken():
    """Drained: what waits is done, what comes is refused."""
    async with working(parallel=1) as background:
        work = Work()
        work.gate.clear()
        for _ in range(5):
            background.offer("task", work)
        stop = asyncio.create_task(background.drain(10.0))
        await until(lambda: background.stopping)
        assert not background.offer("late", work)
        assert not await background.put("late", work)
        assert not stop.done()
        work.gate.set()
        await stop
        assert (work.tries, background.snapshot().refused) == (5, 2)


async def test_a_stop_does_not_wait_for_ever(caplog):
    """A task that hangs is left behind, with a word in the log."""
    async with working(started=False) as background:
        background.offer("never begun", Work())
        await background.drain(0.01)
    assert "1 background tasks were not finished within 0.01 s" in caplog.text


@pytest.mark.parametrize("parallel", [1, 3])
async def test_a_cancelled_queue_leaves_no_task(parallel):
    """The end of the workers ends what they do."""
    async with working(parallel=parallel) as background:
        work = Work()
        work.gate.clear()
        background.offer("hanging", work)
        await until(lambda: work.now == 1)
    assert len(asyncio.all_tasks()) == 1
