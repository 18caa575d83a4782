"""Services with a Redis in common: answers that others made, and none that is wrong, whatever becomes of Redis."""

import asyncio
import itertools
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest
from bench.coherence.driver import Checker, Tally, drive
from bench.coherence.plan import DIMENSIONS, LEG_TIMEOUT_MS
from bench.coherence.tokens import TokenClient
from pair import Pair, worker
from redis import Redis

from memfast.bootstrap import shared as module

_numbers = itertools.count(1)
WAIT_S = 20.0


class Nobody:
    """A database that nobody changes by hand."""


@pytest.fixture
def sites(server, make_site, redis):
    """The grounds of two services that hold no user in memory, and share every answer."""
    dsn = server.new_database()
    settings = {
        "embedding__provider": "none",
        "embedding__dimensions": DIMENSIONS,
        "search__leg_timeout_ms": LEG_TIMEOUT_MS,
        "coherence__mode": "cluster",
        "redis__url": redis.url,
        "redis__min_cost_ms": 0.0,
        "index__memory_mb": 0,
    }
    return [make_site(dsn, **settings) for _ in range(2)]


@asynccontextmanager
async def hosts(sites):
    """One worker of each service, with one user of six memories."""
    async with worker(sites[0]) as a, worker(sites[1]) as b:
        for place in (a, b):
            await until(lambda place=place: place.services.answers._shared.enabled)
        both = Pair(a, b, f"shared-{next(_numbers)}")
        await both.begin()
        yield both


async def until(condition):
    """Wait for something to come true."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def shared(pair):
    """The first search's answer by A, once it is in Redis."""
    stats = pair.a.services.shared.stats
    before = stats().stored
    answer = await pair.a.ask(*pair.asks[0].request())
    await until(lambda: stats().stored > before)
    return answer


async def test_what_one_host_made_another_gives(sites):
    """The same bytes, by a service that did not make them; after a write, by nobody."""
    async with hosts(sites) as pair:
        made = await shared(pair)
        got = await pair.b.ask(*pair.asks[0].request())
        assert (made.tier, got.tier, got.body) == ("cold", "redis", made.body)
        assert (await pair.b.ask(*pair.asks[0].request())).tier == "hot"
        await pair.write(pair.b, pair.delete())
        after = await pair.b.ask(*pair.asks[0].request())
        assert (after.tier, after.version) == ("cold", pair.state.version)
        await pair.right((pair.b,))
        layers = await pair.b.ask("GET", "/v1/cache")
        assert msgspec.json.decode(layers.body)["shared"]["hits"] >= 1
        assert b'"name":"redis","state":"closed"' in (await pair.b.ask("GET", "/v1/health")).body


@pytest.mark.parametrize("what", ["clear", "namespace", "user"])
async def test_what_is_dropped_is_dropped_in_redis_and_on_every_host(sites, what):
    """At the service that is asked at once, at the others within a second; only a single user's copies where told so."""
    async with hosts(sites) as pair:
        asks = [pair.asks[0].request(), replace(pair.asks[0], user_id="nobody else").request()]
        before = pair.a.services.shared.stats().stored
        for ask in asks:
            assert (await pair.a.ask(*ask)).tier == "cold"
        await until(lambda: pair.a.services.shared.stats().stored > before)
        await pair.b.ask(*asks[0])
        assert (await pair.b.ask(*asks[0])).tier == "hot"
        body = {"clear": None, "namespace": {}, "user": {"user_id": pair.state.user_id}}[what]
        path = "/v1/cache/clear" if what == "clear" else "/v1/cache/invalidate"
        assert (await pair.a.ask("POST", path, body)).status == 200
        assert (await pair.a.ask(*asks[0])).tier == "cold"
        if what == "user":
            assert (await pair.a.ask(*asks[1])).tier == "hot"
        facts = pair.a.services.coherence.facts
        await until(lambda: pair.b.services.coherence.facts.era == facts.era)
        async with asyncio.timeout(WAIT_S):
            while (await pair.b.ask(*asks[0])).tier == "hot":
                await asyncio.sleep(0.01)


async def test_values_that_were_flipped_are_misses(sites, redis):
    """Each of them, in any place."""
    async with hosts(sites) as pair:
        await shared(pair)
        assert flip(redis) >= 1
        assert (await pair.b.ask(*pair.asks[0].request())).tier == "cold"
        await pair.right()


def flip(redis):
    """Change a byte of every value; gives their number."""
    with Redis.from_url(redis.url) as client:
        count = 0
        for key in client.scan_iter("memfast:*"):
            count += 1
            place = count * 7 % client.strlen(key)
            client.setrange(key, place, bytes([client.getrange(key, place, place)[0] ^ 1]))
        return count


async def test_nothing_that_happens_to_redis_shows(sites, redis):
    """Emptied, stopped, killed, set back and garbled under random writes and reads: no error, and no wrong answer."""
    async with hosts(sites) as pair:
        tokens = {}
        checker = Checker([TokenClient(place, tokens) for place in (pair.a, pair.b)], Tally())

        async def reads(count):
            wanted = checker.tally.checked + count
            while checker.tally.checked < wanted:
                await asyncio.sleep(0.005)

        async def harm():
            for turn in range(2):
                await asyncio.to_thread(redis.save)
                await reads(200)
                await asyncio.to_thread(redis.do, "FLUSHALL")
                await reads(200)
                await asyncio.to_thread(flip, redis)
                await reads(200)
                await asyncio.to_thread(redis.set_back)
                await reads(200)
                if turn == 0:
                    redis.freeze()
                    await reads(200)
                    redis.thaw()
                    await until(lambda: all(place.services.shared.available for place in (pair.a, pair.b)))
                await reads(200)

        await drive(checker, Nobody(), seed=11, owners=4, reads=2000, sql_share=0.0, lifetime=40, disturb=harm)
    assert checker.tally.reads["redis"] > 20, checker.tally.reads


async def test_a_database_that_was_set_back_begins_a_new_life(sites, redis, monkeypatch):
    """A service that was never there before sees by the note in Redis that the database has been further."""
    async with hosts(sites[:1] * 2) as pair:
        lineage = pair.a.services.coherence.facts.lineage
        layer = pair.a.services.shared
        before = layer.stats().stored
        monkeypatch.setattr(module, "NOTE_INTERVAL_S", 0.05)
        facts = pair.a.services.coherence.facts
        seal = pair.a.services.answers._shared._seal
        key = seal.key("life", b"note")
        further = module.msgspec.structs.replace(sites[0].note.life, wal=facts.wal + 10**9)
        note = module.msgspec.msgpack.encode(module._Noted(lineage.bytes, further))
        layer.put(key, seal.close(key, note), 60)
        await until(lambda: layer.stats().stored > before)
        async with worker(sites[1]) as late:
            await until(lambda: late.services.answers._shared.enabled)
            assert late.services.coherence.facts.lineage != lineage
