"""The open loop against a real service that stands still, and against one that does not."""

import asyncio
import signal
import time
from contextlib import contextmanager

import psutil
import pytest
from bench.load.__main__ import chart, main, table
from bench.load.driver import DROPPED, UNANSWERED, Driver
from bench.load.traces import Arrival, poisson, write

STILL_S = 0.4


def steady(seconds=3.0, rate=100):
    """Searches of one user at a fixed rate."""
    return [Arrival(number / rate, "search", "ada") for number in range(int(seconds * rate))]


@contextmanager
def stopped(service):
    """No process of a service's own does anything meanwhile."""
    workers = [psutil.Process(pid) for pid in service.workers()]
    try:
        for worker in workers:
            worker.suspend()
        deadline = time.monotonic() + 10
        while any(worker.status() != psutil.STATUS_STOPPED for worker in workers):
            assert time.monotonic() < deadline
        yield
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGCONT)


async def stand_still(service):
    """Stop a service for a while in the midst of a load; gives from when until when."""
    await asyncio.sleep(STILL_S)
    with stopped(service):
        began = time.perf_counter()
        await asyncio.sleep(STILL_S)
        return began, time.perf_counter()


async def driven(service, arrivals, work, **options):
    """The result of a load, and what some work gave that was done meanwhile."""
    driver = Driver(("127.0.0.1", service.port), **options)
    await driver.prepare({"ada"}, 5)
    meanwhile = asyncio.create_task(work)
    result = await driver.run(arrivals)
    return result, await meanwhile


def within(result, began, ended):
    """The outcomes of what was due in a time, with how long after it its end was."""
    due = [(each, result.began + each.due_s) for each in result.outcomes]
    return [(each, (ended - at) * 1000) for each, at in due if began <= at < ended]


async def test_who_comes_while_the_service_stands_still_has_waited(shared):
    """Every request that was due then takes until it moves again at least: none was put off, and none left out."""
    result, (began, ended) = await driven(shared, steady(), stand_still(shared), in_flight=300)
    waited = within(result, began, ended)
    assert len(waited) >= 0.9 * STILL_S * 100
    assert all(each.good and each.latency_ms >= left_ms for each, left_ms in waited)
    assert len(result.outcomes) == len(steady())
    assert result.errors == {}


async def test_a_client_that_is_late_counts_that(shared):
    """A request that is sent after it was due takes that time longer, and it is said."""

    async def hold_up():
        await asyncio.sleep(STILL_S)
        began = time.perf_counter()
        time.sleep(STILL_S)  # the loop is what is held up
        return began, time.perf_counter()

    result, (began, ended) = await driven(shared, steady(), hold_up(), in_flight=300)
    late = within(result, began, ended)
    assert len(late) >= 0.9 * STILL_S * 100
    assert all(each.latency_ms >= each.lag_ms >= left_ms for each, left_ms in late)


async def test_what_is_too_much_is_dropped_and_counted(shared):
    """With three under way at most, all but three are dropped while the service stands still; the table says so."""
    result, (began, ended) = await driven(shared, steady(), stand_still(shared), in_flight=3)
    waiting = within(result, began, ended)
    dropped = [each for each, _ in waiting if each.status == DROPPED]
    assert len(waiting) - 3 <= len(dropped) <= len(waiting)
    (*_, failed, told) = table(result)[-1]
    assert failed == "0"
    assert int(told) == result.count(lambda each: each.status == DROPPED) >= len(dropped)
    assert len(result.latencies_ms()) == len(steady()) - int(told)


async def test_nobody_there(free_port):
    """What cannot be sent has failed, and the reason is told."""
    result = await Driver(("127.0.0.1", free_port()), in_flight=4).run(steady(0.1))
    assert [each.status for each in result.outcomes] == [UNANSWERED] * 10
    assert sum(result.errors.values()) == 10
    assert table(result)[-1][2:] == ("-", "-", "-", "-", "10", "0")
    assert all(len(line) >= 60 for line in chart(result)[:3])


async def test_a_key_is_sent(serve, data_dir, command, poll):
    """A service that knows a key answers whoever has it, and refuses who has not: each request is counted as failed."""
    service = serve(data_dir()).wait_until_ready()
    made, _ = command("keys", "create", data_dir=service.data_dir, expect=0)
    poll(lambda: service.client.get("/v1/users").status_code == 401)
    address = ("127.0.0.1", service.port)
    known = await Driver(address, in_flight=4, key=made.strip()).run(steady(0.05))
    assert known.errors == {}
    stranger = await Driver(address, in_flight=4).run(steady(0.05))
    assert {each.status for each in stranger.outcomes} == {401}
    assert all("401" in text for text in stranger.errors)


@pytest.mark.parametrize("form", ["ndjson", "csv"])
async def test_the_command(shared, form, tmp_path, capfd):
    """A trace of all operations goes by without a failure, printed by operation and over time."""
    path = tmp_path / f"trace.{form}"
    with path.open("w") as file:
        write(poisson(rate=60.0, seconds=2.0, users=4, seed=5), file, form)
    words = [str(path), "--url", shared.url, "--json", str(tmp_path / "out.json")]
    assert await asyncio.to_thread(main, words) == 0
    told = capfd.readouterr().out
    for name in ("search", "remember", "get", "all", "arrivals/s", "answered/s", "max ms"):
        assert name in told
    assert '"latency_ms"' in (tmp_path / "out.json").read_text()


async def test_a_trace_that_cannot_be_read(tmp_path, capfd):
    """The exit code is 2, and the line is named."""
    path = tmp_path / "trace.csv"
    path.write_text("offset_s,operation,user\n0,sing,a\n")
    assert await asyncio.to_thread(main, [str(path)]) == 2
    assert f"{path}:2: operation must be one of" in capfd.readouterr().err
    path.write_text("")
    assert await asyncio.to_thread(main, [str(path)]) == 2
