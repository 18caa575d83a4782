"""What both clients do when something goes wrong on the way, or is said to be away."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest
from bench.harness.proxy import Proxy, Way

from memfast import AsyncClient, Client, errors

QUICK_S = 0.3
PROBLEM = b'{"type":"urn:memfast:problem:%s","title":"x","status":%d,"detail":"why"}'


class LostAnswers:
    """The service does what it is asked, and its answers are lost with the connection, so many times."""

    def __init__(self, times):
        self.left = times

    async def carry(self, link, way, data):
        """See `Fault`."""
        if way is Way.UP or not self.left:
            return data
        self.left -= 1
        link.cut()
        return b""


@pytest.fixture
async def proxy(shared):
    """A network before the module's service."""
    async with Proxy(("127.0.0.1", shared.port)) as network:
        yield network


@pytest.fixture
def through(connect, proxy):
    """Function: a client that goes through the proxy."""
    return lambda **settings: connect("http://{}:{}".format(*proxy.address), **settings)


def problem(said, slug, status, *headers):
    """A refusal as bytes."""
    return said(status, PROBLEM % (slug.encode(), status), *headers, media_type="application/problem+json")


async def test_a_write_whose_answer_was_lost_happens_once(through, proxy, shared, user):
    """It was committed; it is sent again with its key and answered as at first: one row, for each kind of write."""
    client = through()
    for times in (1, 3):
        proxy.faults[:] = [LostAnswers(times)]
        memory = await client.add(user, f"text {times}")
        assert memory.status == "created"
    proxy.faults[:] = [LostAnswers(1)]
    made = await client.add_many(user, ["a", "b"])
    assert [each.status for each in made] == ["created", "created"]
    proxy.faults[:] = [LostAnswers(1)]
    await client.link(user, made[0].id, made[1].id)
    proxy.faults[:] = [LostAnswers(1)]
    await client.unlink(user, made[0].id, made[1].id)
    proxy.faults[:] = [LostAnswers(1)]
    assert (await client.update(user, memory.id, text="new")).version == memory.version + 5
    proxy.faults.clear()
    texts = [each["text"] for each in shared.client.get("/v1/memories", params={"user_id": user}).json()["memories"]]
    assert Counter(texts) == Counter(["text 1", "new", "a", "b"])
    proxy.faults[:] = [LostAnswers(1)]
    assert (await client.forget(user)).memories == 4


async def test_a_write_that_stays_without_answer_is_unknown(through, proxy, shared, user):
    """Nobody claims that it did not happen: it did."""
    client = through(retries=2)
    proxy.faults[:] = [LostAnswers(100)]
    with pytest.raises(errors.OutcomeUnknown):
        await client.add(user, "x", idempotency_key="k")
    with pytest.raises(errors.ServiceUnreachable):
        await client.get(user, "0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e01")
    proxy.faults.clear()
    assert (await client.add(user, "x", idempotency_key="k")).version == 1


async def test_where_nobody_listens(connect, free_port):
    """It was not sent, so nothing is unknown; within the bound of tries."""
    client = connect(f"http://127.0.0.1:{free_port()}", retries=2)
    for question in (client.add("u", "x"), client.health()):
        with pytest.raises(errors.ServiceUnreachable):
            await question
    with pytest.raises(errors.ServiceUnreachable):
        [line async for line in client.export("u")]
    with pytest.raises(errors.ServiceUnreachable):
        await client.import_([b"{}\n"])


async def test_a_kept_connection_that_was_closed_is_not_used(through, proxy, user):
    """The next call opens another one and needs no further try."""
    client = through(retries=0)
    await client.add(user, "x")
    await client.add(user, "y")
    assert proxy.connected == 1
    proxy.cut()
    await asyncio.sleep(0.05)  # for the client's side to hear of it; without, the call would be a race by nature
    await client.add(user, "z")
    assert proxy.connected == 2


async def test_retry_after_is_kept_to(connect, scripted, said):
    """What is refused for now is asked again, not before the service said; with the same key and bytes."""
    busy = problem(said, "overloaded", 503, "retry-after: 1")
    scripted.answers = [busy, problem(said, "key-in-use", 409), problem(said, "queue-full", 429), said(204, b"")]
    began = time.monotonic()
    await connect(scripted.url).delete("u", "0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e01")
    assert time.monotonic() - began >= 1
    assert len(scripted.requests) == 4
    assert len(set(scripted.requests)) == 1
    assert scripted.connections == 1
    assert "idempotency-key: " in scripted.requests[0][0]


async def test_what_would_come_too_late_is_told_at_once(connect, scripted, said):
    """A pause that is longer than the time that is left is not begun."""
    scripted.answers = [problem(said, "store-full", 507, "retry-after: 30")]
    with pytest.raises(errors.StoreFull) as caught:
        await connect(scripted.url, timeout_s=5.0).add("u", "x")
    assert caught.value.retry_after_s == 30
    assert caught.value.problem.detail == "why"


async def test_tries_are_bounded(connect, scripted, said):
    """So many and no more."""
    scripted.answers = [problem(said, "still-reading", 503)] * 10
    with pytest.raises(errors.StillReading):
        await connect(scripted.url, retries=3).search("u", "x")
    assert len(scripted.requests) == 4


async def test_silence_ends_with_the_time(connect, scripted):
    """A read ends with its own error, a write is unknown; the service was told the time that was left."""
    scripted.answers = [None] * 4
    client = connect(scripted.url)
    with pytest.raises(errors.DeadlineExceeded):
        await client.get("u", "0198c5b2-7c3e-7d41-9a53-5f2b8c6d7e01", timeout_s=QUICK_S)
    with pytest.raises(errors.OutcomeUnknown):
        await client.add("u", "x", timeout_s=QUICK_S)
    with pytest.raises(errors.DeadlineExceeded):
        [line async for line in client.export("u", timeout_s=QUICK_S)]
    told = [int(head.partition("memfast-timeout-ms: ")[2].partition("\r")[0]) for head, _ in scripted.requests[:2]]
    assert all(0 < each <= QUICK_S * 1000 for each in told)


async def test_what_is_not_memfast_is_said_to_be_none(connect, scripted, said):
    """Another program at the address, a redirection, bytes that are not HTTP."""
    client = connect(scripted.url, retries=0)
    scripted.answers = [said(404, b"<html>", media_type="text/html"), said(301), said(200, b"[]"), said(500, b"oops")]
    for _ in range(4):
        with pytest.raises(errors.UnexpectedAnswer):
            await client.health()
    scripted.answers = [said(502, b"bad gateway"), b"no HTTP at all\r\n\r\n"]
    with pytest.raises(errors.Unavailable):
        await client.health()
    with pytest.raises(errors.ServiceUnreachable):
        await client.health()


async def test_an_export_that_breaks_off_is_no_export(connect, scripted, said):
    """Its lines were given, and then the error; whatever the way in which it ends."""
    client = connect(scripted.url)
    memory, end = b'{"type":"memory"}\n', b'{"type":"trailer"}\n'
    chunked = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n12\r\n" + memory + b"\r\n"
    for answer in (said(200, memory), said(200, memory + b'{"type":"error","detail":"x"}\n'), chunked):
        scripted.answers = [answer]
        lines = client.export("u", timeout_s=QUICK_S)
        assert await anext(lines) == memory
        with pytest.raises(errors.DeadlineExceeded if answer is chunked else errors.ServiceUnreachable):
            [line async for line in lines]
    scripted.answers = [said(200, memory + end)]
    assert [line async for line in client.export("u")] == [memory, end]
    scripted.answers = [problem(said, "forbidden", 403)]
    with pytest.raises(errors.Forbidden):
        [line async for line in client.export()]


async def test_tokens_go_with_reads_of_their_user(connect, scripted, said):
    """The newest of each; one of a life that is over is dropped when that was said."""
    client = connect(scripted.url, users_max=2)
    life, other = "a" * 32, "b" * 32

    async def write(user, token):
        scripted.answers = [said(204, b"", f"memfast-token: {token}")]
        await client.delete(user, "x")

    async def told(user, **options):
        scripted.answers = [said(200, b'{"memories":[],"next_cursor":null}')]
        assert [memory async for memory in client.list(user, **options)] == []
        head = scripted.requests[-1][0]
        return head.partition("memfast-min-version: ")[2].partition("\r")[0] or None

    assert await told("u") is None
    await write("u", f"{life}.9")
    await write("u", f"{life}.10")
    await write("u", f"{life}.9")
    assert client.token("u") == await told("u") == f"{life}.10"
    assert await told("v") is None
    assert await told("u", min_version=f"{life}.3") == f"{life}.3"
    await write("u", f"{other}.1")
    assert await told("u") == f"{other}.1"
    scripted.answers = [problem(said, "other-lineage", 409)]
    with pytest.raises(errors.OtherLineage):
        await client.get("u", "x")
    assert await told("u") is None
    for user in ("a", "b", "c"):
        await write(user, f"{life}.1")
    assert [await told(user) is None for user in ("a", "b", "c")] == [True, False, False]


async def test_killed_workers_cost_nothing_but_time(connect, serve, data_dir):
    """Two workers die in turn while writes go on: each write happens once, and each read sees those before it."""
    service = serve(data_dir(), workers=2).wait_until_ready()
    client = connect(service.url)
    done = []

    async def write(name):
        for number in range(25):
            memory = await client.add("ada", f"{name} {number}")
            assert (await client.get("ada", memory.id)).text == f"{name} {number}"
            done.append(memory.id)

    async def kill():
        for wanted in (20, 60):
            while len(done) < wanted:
                await asyncio.sleep(0.01)
            with suppress(ProcessLookupError):
                os.kill(service.workers()[0], signal.SIGKILL)

    async with asyncio.TaskGroup() as group:
        group.create_task(kill())
        for name in "abcd":
            group.create_task(write(name))
    texts = Counter([memory.text async for memory in client.list("ada")])
    assert texts == Counter(f"{name} {number}" for name in "abcd" for number in range(25))


async def test_a_cancelled_call_leaves_nothing_behind(scripted, said):
    """Its connection is not used again, and its answer is nobody's."""
    async with AsyncClient(scripted.url) as client:
        scripted.answers = [None, said(200, b'{"pid":7}')]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(QUICK_S):
                await client.stats()
        assert await client.stats() == {"pid": 7}
        assert scripted.connections == 2


async def test_a_blocking_client_works_inside_of_an_event_loop(shared, user):
    """As in a notebook."""
    with Client(shared.url) as client:
        assert client.add(user, "x").version == 1


def test_an_awaiting_client_belongs_to_its_loop(shared):
    """It may be made outside of one; another loop is told so instead of hanging."""
    client = AsyncClient(shared.url)

    async def use(*, close=False):
        try:
            return (await client.health()).status
        finally:
            if close:
                await client.close()

    assert asyncio.run(use(close=True)) == "ready"
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(use())


def test_threads_share_a_client(shared, user):
    """Each gets its own answers."""
    failed = []
    with Client(shared.url, connections_max=3) as client:

        def work(name):
            try:
                for number in range(20):
                    memory = client.add(user, f"{name} {number}")
                    assert client.get(user, memory.id).text == f"{name} {number}"
            except BaseException as error:
                failed.append(error)
                raise

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert sum(1 for _ in client.list(user)) == 160


FORKING = """
import os, sys
import memfast
with memfast.Client(sys.argv[1]) as client:
    client.add("forked", "before")
    child = os.fork()
    name = "parent" if child else "child"
    for number in range(20):
        memory = client.add("forked", f"{name} {number}")
        assert client.get("forked", memory.id).text == f"{name} {number}"
    if name == "parent":
        assert os.waitpid(child, 0)[1] == 0
        assert sum(1 for _ in client.list("forked")) == 41
"""


def test_a_forked_process_goes_on(shared):
    """Parent and child use the client at once, on connections of their own, and nothing is left open."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", FORKING, shared.url], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
