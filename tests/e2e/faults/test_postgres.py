"""PostgreSQL is killed, stopped, cut off or slow under a working service: what stays, what is refused, and how it ends."""

import asyncio
import os
import signal
import statistics
import time

import asyncpg
import psutil
import pytest
from bench.harness.load import connections, encode
from bench.harness.proxy import BlackHole, Delay

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def kill(world):
    """Kill -9 of the first process; the others follow it."""
    processes = world.processes()
    os.kill(processes[0].pid, signal.SIGKILL)
    world.server.cluster._child.wait()
    world.server.cluster._child = None
    await asyncio.to_thread(psutil.wait_procs, processes[1:], 20)


async def restart(world):
    """Start it; it recovers."""
    await asyncio.to_thread(world.server.cluster.start)


async def stop(world):
    """SIGSTOP of every process: connections stay open, nobody answers."""
    for process in world.processes():
        process.suspend()


async def resume(world):
    """SIGCONT."""
    for process in world.processes():
        process.resume()


async def cut_off(world):
    """Packets vanish both ways."""
    world.proxy.faults.append(BlackHole())


async def reconnect(world):
    """The network is back; what was open before stays dead."""
    world.proxy.cut()
    world.proxy.faults.clear()


@pytest.mark.parametrize(
    ("hurt", "heal"),
    [(kill, restart), (stop, resume), (cut_off, reconnect)],
    ids=["killed", "stopped", "cut off"],
)
async def test_postgresql_goes_away_and_comes_back(world, hurt, heal, record_property):
    """Reads go on from memory and are marked, writes are refused at once, nothing acknowledged is lost, and it recovers."""
    world.forget()
    await hurt(world)
    hurt_at = time.monotonic()
    try:
        await world.until(lambda: sum("not asked now" in refused[2] for refused in world.refused) >= 20)
        await world.until(lambda: "cache_only" in world.modes_since(hurt_at))
        open_at = time.monotonic()
        await world.until(lambda: sum(at > open_at for at, _, _ in world.reads) >= 20)
    finally:
        await heal(world)
    healed_at = time.monotonic()
    back_s = await world.until(lambda: any(at > healed_at and status == 200 for at, status in world.cold))
    await world.until(lambda: world.written_since(healed_at))  # a write that was in doubt is cleared up first
    await world.until(lambda: None in world.modes_since(healed_at))
    record_property("first good answer after the return, s", round(back_s, 3))

    refused = [each for each in world.refused if open_at < each[0] < healed_at]
    assert {status for _, status, _, _ in refused} == {503}
    assert statistics.median(took_s for _, _, _, took_s in refused) < 1.0, "four seconds if they waited for it"
    assert back_s < 4.0, "two seconds, and as much again for a busy machine"
    assert world.wrong == []
    during = [(mode, age) for at, mode, age in world.reads if open_at < at < healed_at]
    assert {mode for mode, _ in during} == {"cache_only"}
    assert all(int(age) >= 1 for _, age in during)
    assert await world.lost() == set()
    assert world.service.workers() == world.workers, "no process was replaced"


async def test_postgresql_is_half_a_second_away(world):
    """Everything goes on, slower, and nothing is refused: it is not away."""
    world.forget()
    world.proxy.faults.append(Delay(0.25))
    began = time.monotonic()
    await world.until(lambda: world.written_since(began))
    await world.until(lambda: sum(at > began and status == 200 for at, status in world.cold) >= 6)
    world.proxy.faults.clear()
    back_at = time.monotonic()
    await world.until(lambda: world.written_since(back_at))
    assert world.wrong == []
    assert [each for each in world.refused if "not asked now" in each[2]] == []
    assert await world.lost() == set()


async def running(connection):
    """Searches that have run at the server for a while. A write under way is not cut off, also where its client left."""
    return await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
        " AND query LIKE '%memory_vectors%' AND query NOT LIKE '%INSERT%' AND now() - query_start > interval '0.2 s'"
    )


async def test_a_search_whose_client_hangs_up_ends_at_the_server(world):
    """Long before the statement's own limit of ten seconds."""
    await world.pause()
    body = {"user_id": "nobody yet", "embedding": [1.0] * 8}
    request = encode("POST", "/v1/search", body).replace(b"\r\n\r\n", b"\r\nmemfast-timeout-ms: 30000\r\n\r\n", 1)
    admin, watch = await asyncpg.connect(world.dsn), await asyncpg.connect(world.dsn)
    try:
        async with asyncio.timeout(25), admin.transaction():
            await admin.execute("LOCK TABLE memory_vectors IN ACCESS EXCLUSIVE MODE")
            async with connections(("127.0.0.1", world.service.port), 1) as (client,):
                asked = asyncio.create_task(client.send(request))
                while not await running(watch):
                    assert not asked.done(), asked
                    await asyncio.sleep(0.01)
            with pytest.raises(ConnectionError):
                await asked
            async with asyncio.timeout(6):  # less than a statement may take
                while await running(watch):
                    await asyncio.sleep(0.01)
    finally:
        await admin.close()
        await watch.close()
