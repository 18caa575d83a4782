"""The proxy: what its faults do to bytes between a client and a server."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from bench.harness.proxy import AtCommit, BlackHole, Delay, Drip, Proxy, Way

COMMIT = b"Q\0\0\0\x0bCOMMIT;\0"
WAIT_S = 10.0


@asynccontextmanager
async def echo(path):
    """A server that sends back what it gets; gives what it got."""
    got = bytearray()

    async def serve(reader, writer):
        while data := await reader.read(1024):
            got.extend(data)
            writer.write(data)
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield got
    finally:
        server.close()


@pytest.fixture(params=["tcp", "unix"])
async def world(request, root):
    """Function: a client's streams; besides the proxy, and what the server got."""
    listen = root / "proxy" if request.param == "unix" else ("127.0.0.1", 0)
    writers = []

    async def connect():
        address = proxy.address
        opened = asyncio.open_unix_connection(address) if listen == address else asyncio.open_connection(*address)
        reader, writer = await opened
        writers.append(writer)
        return reader, writer

    async with echo(root / "server") as got, Proxy(root / "server", listen) as proxy:
        yield connect, proxy, got
        for writer in writers:
            writer.close()


async def said(streams, data, expect=None):
    """Send bytes and read as many back."""
    reader, writer = streams
    writer.write(data)
    async with asyncio.timeout(WAIT_S):
        return await reader.readexactly(len(data if expect is None else expect))


async def ended(streams):
    """Whether the connection ends, in whatever way."""
    async with asyncio.timeout(WAIT_S):
        try:
            return await streams[0].read(1024) == b""
        except ConnectionError:
            return True


async def test_without_faults_bytes_pass(world):
    """Both ways, on several connections."""
    connect, proxy, _ = world
    for text in (b"one", b"x" * 200_000):
        assert await said(await connect(), text) == text
    assert proxy.connected == 2


async def test_a_delay_delays(world):
    """Both ways by default, or one."""
    connect, proxy, _ = world
    streams = await connect()
    for fault, least_s in ((Delay(0.05, jitter_s=0.01), 0.1), (Delay(0.05, way=Way.DOWN), 0.05)):
        proxy.faults[:] = [fault]
        began = time.monotonic()
        assert await said(streams, b"late") == b"late"
        assert time.monotonic() - began >= least_s


async def test_a_drip_keeps_order(world):
    """Byte by byte, and all of them."""
    connect, proxy, _ = world
    proxy.faults.append(Drip(1, 0.0))
    assert await said(await connect(), b"drop by drop") == b"drop by drop"
    proxy.faults[:] = [Drip(3, 0.0, way=Way.DOWN)]
    assert await said(await connect(), b"drop by drop") == b"drop by drop"


async def test_a_black_hole_swallows_and_tells_nobody(world):
    """The connection stays, the other direction works, and what comes later passes again."""
    connect, proxy, got = world
    streams = await connect()
    assert await said(streams, b"before") == b"before"
    hole = BlackHole(Way.DOWN)
    proxy.faults.append(hole)
    streams[1].write(b"lost")
    async with asyncio.timeout(WAIT_S):
        while hole.swallowed < len(b"lost"):
            await asyncio.sleep(0)
    assert got == b"beforelost"
    proxy.faults.clear()
    assert await said(streams, b"after") == b"after"


async def test_a_cut_ends_every_connection_and_new_ones_work(world):
    """At once; and while nobody is accepted, nobody is."""
    connect, proxy, _ = world
    both = [await connect(), await connect()]
    for streams in both:
        assert await said(streams, b"here") == b"here"
    proxy.cut()
    assert [await ended(streams) for streams in both] == [True, True]
    assert await said(await connect(), b"again") == b"again"
    proxy.accepting = False
    assert await ended(await connect())


@pytest.mark.parametrize(
    ("how", "arrives", "ends"),
    [("before", False, True), ("after", True, True), ("silent", True, False), ("withheld", False, False)],
)
async def test_a_commit_breaks_as_it_is_told(world, how, arrives, ends):
    """Whether the server sees it, whether the client hears, and what runs at that moment."""
    connect, proxy, got = world
    moments = []

    async def meanwhile():
        moments.append(len(got))

    fault = AtCommit(lambda: how, meanwhile)
    proxy.faults.append(fault)
    streams = await connect()
    assert await said(streams, b"SELECT") == b"SELECT"
    streams[1].write(COMMIT)
    if ends:
        assert await ended(streams)
        assert len(moments) == 1
    else:
        streams[1].write(b"more")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await streams[0].read(1)
    assert (COMMIT in got) is arrives
    assert (fault.commits, fault.broken) == (1, 1)
    assert await said(await connect(), b"others pass") == b"others pass"


async def test_a_server_that_is_away_ends_the_connection(world, root):
    """As a refused connection would."""
    connect, _, _ = world
    (root / "server").unlink()
    assert await ended(await connect())
