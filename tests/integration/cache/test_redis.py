"""The adapter over a real Redis: what it gives, and that it never takes long, whatever Redis does."""

import asyncio
import time

import pytest

from memfast.bootstrap import inspect_shared
from memfast.cache.redis import PING_INTERVAL_S, RedisCache
from memfast.config import load
from memfast.errors import CommandFailed
from memfast.resilience.breaker import Breaker
from memfast.resilience.clock import SystemClock

TIMEOUT_S = 0.1
HOLD_S = 5.0


@pytest.fixture
async def cache(redis):
    """A cache as it is configured by default."""
    opened = open_cache(redis.url)
    try:
        yield opened
    finally:
        await opened.close()


def open_cache(url, **settings):
    """A cache that waits shortly."""
    breaker = Breaker("redis", SystemClock(), failures=3, hold_s=HOLD_S)
    named = {
        "timeout_s": TIMEOUT_S,
        "acquire_timeout_s": 0.5,
        "value_max_bytes": 1000,
        "connections_min": 2,
        "connections_max": 5,
    } | settings
    return RedisCache.open(url, breaker, **named)


async def until(condition, timeout_s=20.0):
    """Wait until something is true; gives the seconds that took."""
    began = time.monotonic()
    while not (await condition() if asyncio.iscoroutinefunction(condition) else condition()):
        assert time.monotonic() - began < timeout_s, "it did not come true"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def stored(cache, key, value, **named):
    """Store a value, and wait until it is there."""
    before = cache.stats()
    cache.put(key, value, 60, **named)
    await until(lambda: cache.stats().stored + cache.stats().dropped > before.stored + before.dropped)


async def test_what_was_stored_is_there_for_its_time(cache, redis):
    """Values come back in the order of the keys; they expire; and where it is asked for the first one stays."""
    await stored(cache, b"a", b"1")
    await stored(cache, b"b", b"\x00\xff" * 400)
    await stored(cache, b"a", b"2", replace=False)
    assert await cache.get([b"b", b"none", b"a"]) == [b"\x00\xff" * 400, None, b"1"]
    assert 50_000 < int(redis.do("PTTL", "a")[1:]) <= 60_000
    stats = cache.stats()
    assert (stats.hits, stats.misses, stats.stored, stats.dropped, stats.state) == (2, 1, 2, 1, "closed")


async def test_keys_are_erased_by_how_they_begin(cache, redis, monkeypatch):
    """More than one batch of them, and what waits to be stored under one; others stay, also where they look alike."""
    for number in range(250):
        redis.do("SET", f"memfast:{{a*}}:{number}", "x")
    redis.do("SET", "memfast:{ab}:1", "x")
    cache.put(b"memfast:{a*}:waits", b"x", 60)
    cache.put(b"memfast:{b}:waits", b"x", 60)
    assert await cache.erase(b"memfast:{a*}:") == 250
    await until(lambda: cache.stats().stored == 1)
    assert redis.do("DBSIZE") == b":2"
    assert await cache.erase(b"memfast:{a*}:") == 0
    redis.freeze()
    assert await cache.erase(b"memfast:{b}:") is None
    redis.thaw()


async def test_concurrent_callers_share_a_round_trip(cache, redis):
    """Fifty of them are answered by one pipeline."""
    await stored(cache, b"k", b"v")
    calls = []
    client = cache._client
    pipeline = client.pipeline
    client.pipeline = lambda **named: calls.append(1) or pipeline(**named)
    assert await asyncio.gather(*(cache.get([b"k", b"none"]) for _ in range(50))) == [[b"v", None]] * 50
    assert len(calls) == 1


async def test_values_are_bounded(cache, redis):
    """A value that is too long is not stored; of one that somebody else put there no more than the bound is read."""
    cache.put(b"long", bytes(1001), 60)
    assert cache.stats().dropped == 1
    redis.do("SETRANGE", "foreign", 10_000_000, "x")
    assert len((await cache.get([b"foreign"]))[0]) <= 1001
    redis.do("LPUSH", "list", "x")
    assert await cache.get([b"list"]) == [None]
    assert cache.stats().state == "closed", "what stands under a key says nothing of Redis"


async def test_what_waits_is_bounded(cache, monkeypatch):
    """Keys and values beyond the bounds are misses and dropped."""
    monkeypatch.setattr("memfast.cache.redis.WAITING_KEYS_MAX", 1)
    assert await cache.get([b"a", b"b"]) == [None, None]
    monkeypatch.setattr("memfast.cache.redis.WAITING_VALUES_MAX", 2)
    for number in range(5):
        cache.put(b"%d" % number, b"v", 60)
    assert cache.stats().dropped == 3


@pytest.mark.parametrize("harm", ["freeze", "kill"])
async def test_a_redis_that_is_away_costs_nearly_nothing(cache, redis, harm):
    """Every caller is answered in its time; within a second nobody waits; soon after it is back it is used again."""
    await stored(cache, b"k", b"v")
    getattr(redis, harm)()
    began = time.monotonic()
    waits = []
    while cache.stats().state == "closed":
        called = time.monotonic()
        assert await cache.get([b"k"]) == [None]
        waits.append(time.monotonic() - called)
        await asyncio.sleep(0.001)
    assert time.monotonic() - began < 1.0 + 1.0, "a second is for a busy machine"
    assert cache.stats().failures <= 3
    assert max(waits) < 10 * TIMEOUT_S
    called = time.monotonic()
    for _ in range(100):
        assert await cache.get([b"k"]) == [None]
    assert time.monotonic() - called < TIMEOUT_S, "while it is open nobody waits"
    cache.put(b"k", b"w", 60)
    assert cache.stats().dropped == 1
    if harm == "freeze":
        redis.thaw()
    else:
        redis.start()

    async def used():
        return await cache.get([b"none"]) == [None] and cache.stats().state == "closed"

    assert await until(used) < HOLD_S + PING_INTERVAL_S + TIMEOUT_S + 1.0
    await stored(cache, b"k", b"w")
    assert await cache.get([b"k"]) == [b"w"]


async def test_pings_find_out_without_any_request(cache, redis):
    """Three that are not answered open the breaker; one that is closes it."""
    redis.freeze()
    await until(lambda: cache.stats().state != "closed")
    assert not cache.available or cache.stats().state == "half_open"
    redis.thaw()
    await until(lambda: cache.stats().state == "closed")


async def test_a_redis_that_comes_later_is_found(redis):
    """The service may start first."""
    redis.kill()
    cache = open_cache(redis.url)
    try:
        assert await cache.get([b"k"]) == [None]
        redis.start()
        await until(lambda: cache.available)
        await stored(cache, b"k", b"v")
        assert await cache.get([b"k"]) == [b"v"]
    finally:
        await cache.close()


async def test_a_cancelled_caller_leaves_nothing_to_the_next(cache):
    """Who gives up at any moment does not hand its reply to somebody else."""
    for number in range(20):
        await stored(cache, b"%d" % number, b"%d" % number)

    async def ask(number):
        return await cache.get([b"%d" % number])

    for turn in range(200):
        asking = [asyncio.create_task(ask((turn + each) % 20)) for each in range(10)]
        for _ in range(turn % 7):
            await asyncio.sleep(0)
        for task in asking[::3]:
            task.cancel()
        for each, result in enumerate(await asyncio.gather(*asking, return_exceptions=True)):
            assert isinstance(result, asyncio.CancelledError) or result == [b"%d" % ((turn + each) % 20)]


async def test_inspection_says_what_the_server_would_do(redis):
    """Version, bound and policy; a server that cannot be reached is said to be."""
    config = load({}, flags={"redis.url": redis.url}).config
    redis.do("CONFIG", "SET", "maxmemory", "5gb")
    facts = await inspect_shared(config)
    assert (facts.version.split(".")[0], facts.maxmemory_bytes, facts.policy) == ("6", 5 * 1024**3, "noeviction")
    redis.do("ACL", "SETUSER", "default", "-config")
    facts = await inspect_shared(config)
    assert (facts.maxmemory_bytes, facts.policy) == (None, None)
    redis.kill()
    with pytest.raises(CommandFailed, match="cannot be reached"):
        await inspect_shared(config)
