"""The pool behind its breaker, over a real server: what is counted, what is refused, what is tried again."""

import asyncio
import contextlib
import logging
import os
import signal

import asyncpg
import pytest
import pytest_asyncio

from memfast.errors import DeadlineExceeded, Overloaded, StoreFull, StoreUnavailable
from memfast.resilience.breaker import Breaker
from memfast.resilience.clock import SystemClock
from memfast.store.pool import Pool, PoolPolicy, PoolSize
from memfast.store.room import Room

ANSWER = "SELECT 42"


@pytest.fixture
def breaker():
    """As in a service, with a hold that no test waits for."""
    return Breaker("postgresql", SystemClock(), failures=5, hold_s=600.0)


@pytest_asyncio.fixture
async def open_pool(server, breaker):
    """Function: a pool behind the breaker."""
    dsn = server.new_database()
    async with contextlib.AsyncExitStack() as stack:

        async def opened(size=2, minimum=1, room=None, **policy):
            pool = await Pool.open(
                {"dsn": dsn},
                PoolSize(minimum, size),
                acquire_timeout_s=policy.pop("acquire_timeout_s", 2.0),
                connect_timeout_s=5.0,
                command_timeout_s=5.0,
                idle_lifetime_s=60.0,
                breaker=breaker,
                policy=PoolPolicy(**policy),
                room=room,
            )
            stack.push_async_callback(pool.close, 5.0)
            return pool

        yield opened


class Fails:
    """Fails so many acquisitions of asyncpg's pools, and counts them all."""

    def __init__(self, monkeypatch, times, error=ConnectionRefusedError):
        self.tries = 0
        acquire = asyncpg.pool.Pool.acquire

        def counted(pool, **options):
            self.tries += 1
            if self.tries <= times:
                raise error
            return acquire(pool, **options)

        monkeypatch.setattr(asyncpg.pool.Pool, "acquire", counted)


async def idle(pool, count):
    """Wait until so many connections are idle."""
    async with asyncio.timeout(10):
        while pool.idle != count:
            await asyncio.sleep(0.005)


async def test_a_disk_without_room_refuses_writes_alone(open_pool, tmp_path):
    """Before they begin, with what is left and what keeps it; reads go on, and writes where less is kept."""
    room = Room((tmp_path,), 1 << 60)
    pool = await open_pool(room=room)
    async with pool.connection("write") as connection:  # nobody has looked yet
        assert await connection.fetchval("SELECT 1") == 1
    await room.look()
    with pytest.raises(StoreFull, match="nothing was written") as refused:
        async with pool.connection("write"):
            pytest.fail("it was let in")
    assert not refused.value.begun
    async with pool.connection() as connection:
        assert await connection.fetchval("SELECT 1") == 1
    roomy = await open_pool(room=Room((tmp_path,), 1))
    async with roomy.connection("write") as connection:
        assert await connection.fetchval("SELECT 1") == 1


async def test_five_failures_and_then_nobody_waits(open_pool, breaker, monkeypatch):
    """The sixth is refused at once, is told when to come back, and nothing was begun; pings still go out."""
    pool = await open_pool()
    Fails(monkeypatch, 1000)
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="ConnectionRefusedError") as refused:
            async with pool.connection():
                pass
        assert not refused.value.begun
    assert breaker.state == "open"
    for use in (pool.connection(), pool.connection("write")):
        with pytest.raises(StoreUnavailable, match="not asked now") as refused:
            use.__aenter__().send(None)  # it ends here, without waiting for anything
        assert (refused.value.retry_after_s, refused.value.begun) == (5, False)
    with pytest.raises(StoreUnavailable, match="not asked now"):
        await pool.fetch(ANSWER)
    with pytest.raises(StoreUnavailable):
        async with pool.ping():
            pass
    assert breaker.state == "open"
    monkeypatch.undo()
    async with pool.ping() as connection:
        assert await connection.fetchval(ANSWER) == 42
    assert breaker.state == "closed"
    assert [list(row) for row in await pool.fetch(ANSWER)] == [[42]]


async def test_one_probe_at_a_time_when_the_hold_is_over(open_pool, breaker, monkeypatch):
    """A second request is refused while the first one tries; when that succeeds, all are let through."""
    pool = await open_pool()
    for _ in range(5):
        breaker.pinged(answered=False, reason="TimeoutError")
    monkeypatch.setattr(breaker, "_hold_s", 0.0)
    async with pool.connection():
        pool.require_room()
        with pytest.raises(StoreUnavailable, match="not asked now"):
            await pool.fetch(ANSWER)
    assert breaker.state == "closed"
    assert len(await pool.fetch(ANSWER)) == 1


async def test_an_acquisition_is_tried_three_times(open_pool, breaker, monkeypatch):
    """One failure of the breaker at most, and none when a try succeeds."""
    pool = await open_pool()
    fails = Fails(monkeypatch, 2)
    async with pool.connection() as connection:
        assert await connection.fetchval(ANSWER) == 42
    assert (fails.tries, breaker.snapshot().failures) == (3, 0)
    fails = Fails(monkeypatch, 100)
    with pytest.raises(StoreUnavailable):
        async with pool.connection():
            pass
    assert (fails.tries, breaker.snapshot().failures) == (3, 1)


async def kill(server, pid):
    """End a backend from outside."""
    admin = await asyncpg.connect(**server.endpoint.connect_arguments())
    await admin.execute("SELECT pg_terminate_backend($1)", pid)
    await admin.close()


async def running(server, pid, *, ends=False):
    """Wait until a backend runs a statement, or does not any more."""
    admin = await asyncpg.connect(**server.endpoint.connect_arguments())
    query = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND state = 'active'"
    try:
        async with asyncio.timeout(10):
            while bool(await admin.fetchval(query, pid)) == ends:
                await asyncio.sleep(0.005)
    finally:
        await admin.close()


async def test_a_value_that_is_missing_elsewhere_is_no_word_about_the_model(open_pool):
    """Only the fence of writes speaks of another model; any other column without a value is an error of ours."""
    pool = await open_pool()
    async with pool.connection("write") as connection:
        await connection.execute("CREATE TABLE strict (x integer NOT NULL)")
    with pytest.raises(asyncpg.NotNullViolationError, match="strict"):
        async with pool.connection("write") as connection:
            await connection.execute("INSERT INTO strict VALUES (NULL)")


async def test_a_read_whose_connection_breaks_is_asked_again(open_pool, server):
    """The caller sees nothing of it."""
    pool = await open_pool(size=1)
    (row,) = await pool.fetch("SELECT pg_backend_pid() AS pid")
    slow = "SELECT pg_backend_pid() AS pid, CASE WHEN pg_backend_pid() = $1 THEN pg_sleep(4)::text END"
    read = asyncio.create_task(pool.fetch(slow, row["pid"]))
    await running(server, row["pid"])
    await kill(server, row["pid"])
    assert (await read)[0]["pid"] != row["pid"]


async def test_a_write_whose_connection_breaks_is_told_so(open_pool, server, breaker):
    """It is never run again by itself, and counts as a failure."""
    pool = await open_pool(size=1)

    async def write():
        async with pool.connection("write") as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            await kill(server, pid)
            await connection.execute(ANSWER)

    with pytest.raises(StoreUnavailable) as told:
        await write()
    assert told.value.begun
    assert breaker.snapshot().failures == 1


async def test_only_so_many_wait_for_a_connection(open_pool, breaker):
    """One more is refused at once: nothing queues for longer than it would be worth."""
    pool = await open_pool(size=1, waiting_max=2)
    async with pool.connection():
        waiting = [asyncio.create_task(pool.fetch(ANSWER)) for _ in range(2)]
        await asyncio.sleep(0)
        assert pool.snapshot().waiting == 2
        with pytest.raises(Overloaded, match="too many requests wait") as refused:
            await pool.fetch(ANSWER)
        assert not refused.value.begun
    assert [len(rows) for rows in await asyncio.gather(*waiting)] == [1, 1]
    counted = pool.snapshot()
    assert (counted.waiting, counted.refused, breaker.snapshot().failures) == (0, 1, 0)


async def test_a_wait_that_is_too_long_is_overload_not_an_outage(open_pool, breaker):
    """The breaker counts what the server does, not what the callers do."""
    pool = await open_pool(size=1, acquire_timeout_s=0.05)
    async with pool.connection():
        for _ in range(10):
            with pytest.raises(Overloaded, match="became free"):
                await pool.fetch(ANSWER)
    assert breaker.state == "closed"


async def test_a_server_that_takes_no_connection_is_an_outage(open_pool, breaker, monkeypatch):
    """As one that is stopped: the kernel accepts, nobody answers."""
    pool = await open_pool(size=2, acquire_timeout_s=0.05)

    async def never(**_options):
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncpg.pool.Pool, "acquire", lambda _self, **_options: never())
    with pytest.raises(StoreUnavailable, match="took no connection") as refused:
        await pool.fetch(ANSWER)
    assert not refused.value.begun
    assert breaker.snapshot().failures == 1


@pytest.mark.parametrize(
    ("purpose", "ends", "failures"),
    [
        ("read", None, 1),
        ("write", None, 0),
        ("bulk", None, 0),
        ("bulk", asyncio.CancelledError, 1),
        ("read", asyncio.CancelledError, 1),
        ("read", ValueError, 1),
    ],
    ids=str,
)
async def test_a_slow_use_is_a_failure_whatever_ends_it(open_pool, breaker, purpose, ends, failures):
    """Also one that was cut off: a hang ends by somebody's deadline. Writes have longer, loads as long as they take."""
    pool = await open_pool(slow_read_s=0.05)
    with contextlib.suppress(asyncio.CancelledError, ValueError):
        async with pool.connection(purpose):
            await asyncio.sleep(0.06)
            if ends is not None:
                raise ends
    assert breaker.snapshot().failures == failures


@pytest.mark.parametrize("ends", [asyncio.CancelledError, ValueError, asyncpg.UniqueViolationError], ids=str)
async def test_cancellations_and_the_statements_own_errors_do_not_count(open_pool, breaker, ends):
    """They say nothing about the server."""
    pool = await open_pool()
    for _ in range(20):
        with pytest.raises(ends):
            async with pool.connection():
                raise ends
    assert (breaker.state, breaker.snapshot().failures) == ("closed", 0)
    await idle(pool, 1)


async def test_a_busy_machine_closes_nothing(open_pool, breaker):
    """Ten reads under way at once take too long: all go on, and the next check takes back what was held against them."""
    pool = await open_pool(size=10, slow_read_s=0.0)
    together = asyncio.Barrier(10)

    async def read():
        async with pool.connection() as connection:
            await together.wait()
            assert await connection.fetchval(ANSWER) == 42

    await asyncio.gather(*(read() for _ in range(10)))
    assert (breaker.state, breaker.snapshot().failures) == ("closed", 5)
    async with pool.ping() as connection:
        assert await connection.fetchval(ANSWER) == 42
    assert breaker.snapshot().failures == 0


async def test_a_server_that_answers_nobody_is_away(open_pool, breaker, monkeypatch):
    """That nobody got a connection in time is counted, and a check that gets none either opens the breaker."""
    monkeypatch.setattr("memfast.store.pool.PING_S", 0.05)
    pool = await open_pool(size=2, acquire_timeout_s=0.05)
    monkeypatch.setattr(asyncpg.pool.Pool, "acquire", lambda _self, **_options: asyncio.Event().wait())
    for _ in range(6):
        with pytest.raises(StoreUnavailable, match="took no connection"):
            await pool.fetch(ANSWER)
    assert (breaker.state, breaker.snapshot().failures) == ("closed", 5)
    with pytest.raises(DeadlineExceeded):
        async with pool.ping():
            pass
    assert breaker.state == "open"


async def test_a_cancelled_statement_ends_at_the_server_and_its_connection_is_used_again(open_pool, server):
    """Long before its own end, without the caller waiting for it."""
    pool = await open_pool(size=1)
    (row,) = await pool.fetch("SELECT pg_backend_pid() AS pid")
    read = asyncio.create_task(pool.fetch("SELECT pg_sleep(60)"))
    await running(server, row["pid"])
    read.cancel()
    await asyncio.wait([read])
    await running(server, row["pid"], ends=True)
    assert (await pool.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"] == row["pid"]


@contextlib.contextmanager
def stopped(pid):
    """A backend that hears nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_ping_that_is_not_answered_is_given_up(open_pool, breaker, monkeypatch):
    """It counts as a failure, and its connection is closed: the next one takes another."""
    monkeypatch.setattr("memfast.store.pool.PING_S", 0.1)
    pool = await open_pool(size=2)
    async with pool.ping() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
    await idle(pool, 1)
    with stopped(pid):
        with pytest.raises(DeadlineExceeded):
            async with pool.ping() as connection:
                await connection.fetchval(ANSWER)
        assert breaker.snapshot().failures == 1
        monkeypatch.setattr("memfast.store.pool.PING_S", 5.0)
        async with pool.ping() as connection:
            assert await connection.fetchval("SELECT pg_backend_pid()") != pid


async def test_dead_connections_are_found_before_they_are_needed(open_pool, breaker):
    """By the watch, and at the moment when the server is back."""
    pool = await open_pool(size=3, minimum=3)
    assert pool.snapshot().created == 3
    async with pool.connection() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
    with stopped(pid):
        assert await pool.validate() >= 1, "those that live may be late"
    async with pool.connection() as connection:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
    with stopped(pid):
        for _ in range(5):
            breaker.pinged(answered=False)
        breaker.pinged(answered=True)
        await asyncio.sleep(0)
        assert pid not in {row["pid"] for row in await pool.fetch("SELECT pg_backend_pid() AS pid")}
    await asyncio.gather(*pool._background, return_exceptions=True)


async def test_the_watch_goes_on_whatever_it_meets(open_pool, monkeypatch, caplog):
    """Its failures are logged."""
    pool = await open_pool()
    seen = asyncio.Event()
    results = iter([ValueError("unforeseen"), 0])

    async def validate():
        result = next(results, 0)
        if isinstance(result, Exception):
            raise result
        seen.set()
        return result

    monkeypatch.setattr(pool, "validate", validate)
    watch = asyncio.create_task(pool.watch(0.001))
    await asyncio.wait_for(seen.wait(), 10)
    watch.cancel()
    await asyncio.wait([watch])
    assert "the watch over connections failed" in caplog.text


async def test_what_the_pool_counts(open_pool, caplog, monkeypatch):
    """Connections made, uses, those of a connection that was used before, and how long an acquisition takes."""
    pool = await open_pool(size=2, minimum=2)
    for _ in range(10):
        await pool.fetch(ANSWER)
    async with pool.connection():
        counted = pool.snapshot()
    assert (counted.size, counted.idle, counted.limit, counted.utilisation) == (2, 1, 2, 0.5)
    assert (counted.created, counted.acquired, counted.reused) == (2, 11, 9)
    assert 0 < counted.acquire_ms_mean <= counted.acquire_ms_max
    monkeypatch.setattr("memfast.store.counts._SLOW_ACQUIRE_S", 0.0)
    for _ in range(10):
        await pool.fetch(ANSWER)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    assert "a database connection took" in caplog.text


async def test_a_connection_that_cannot_be_given_back_takes_nothing_back(open_pool, breaker, monkeypatch):
    """What was done on it is done."""
    pool = await open_pool()
    release = asyncpg.pool.Pool.release

    async def broken(this, connection, **options):
        await release(this, connection, **options)
        raise ConnectionResetError

    monkeypatch.setattr(asyncpg.pool.Pool, "release", broken)
    assert len(await pool.fetch(ANSWER)) == 1
    async with pool.connection("write") as connection:
        assert await connection.fetchval(ANSWER) == 42
    assert breaker.snapshot().failures == 0
