"""The adapter over a real Redis: what it gives, and that it never takes long, whatever Redis does."""

import asyncio
import time

import pytest

from memfast.bootstrap import inspect_shared
from memfast.cache.redis import RedisCache
from memfast.config import load
from memfast.errors import CommandFailed
from memfast.resilience.breaker import Breaker
from memfast.resilience.clock import SystemClock

TIMEOUT_S = 0.1
FAILURES = 3
CONNECTIONS = 5


class StandingClock:
    """A breaker with it is never open for long enough to try by itself: only a ping closes it."""

    def monotonic(self):
        return 1000.0


@pytest.fixture
async def cache(redis):
    """A cache that has time: what it finds does not depend on how busy the machine is."""
    opened = open_cache(redis.url, timeout_s=30.0)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def hasty(redis):
    """A cache that waits as shortly as by default, and goes by pings alone once its breaker is open."""
    opened = open_cache(redis.url, StandingClock())
    try:
        yield opened
    finally:
        await opened.close()


def open_cache(url, clock=None, **settings):
    """A cache that waits shortly."""
    breaker = Breaker("redis", clock or SystemClock(), failures=FAILURES, hold_s=5.0)
    named = {
        "timeout_s": TIMEOUT_S,
        "acquire_timeout_s": 0.5,
        "value_max_bytes": 1000,
        "connections_min": 2,
        "connections_max": CONNECTIONS,
    } | settings
    return RedisCache.open(url, breaker, **named)


async def holds(condition):
    """What a function gives, or the coroutine that it gives."""
    result = condition()
    return await result if asyncio.iscoroutine(result) else result


async def until(condition, timeout_s=60.0):
    """Wait until something is true."""
    began = time.monotonic()
    while not await holds(condition):
        assert time.monotonic() - began < timeout_s, "it did not come true"
        await asyncio.sleep(0.01)


def at_once(call):
    """What a coroutine returns, which has to do so without waiting for anything."""
    try:
        call.send(None)
    except StopIteration as returned:
        return returned.value
    finally:
        call.close()
    raise AssertionError("it waited")


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
async def test_a_redis_that_is_away_costs_nearly_nothing(hasty, redis, harm, monkeypatch):
    """A few callers wait, each no longer than it may; then nobody does; the first ping that is answered ends it."""
    cache, bounds = hasty, []

    def timeout(seconds, real=asyncio.timeout):
        bounds.append(seconds)
        return real(seconds)

    async def found(value):
        cache.put(b"k", value, 60)
        return await cache.get([b"k"]) == [value]

    await until(lambda: found(b"v"))
    getattr(redis, harm)()
    waited, failures = 0, cache.stats().failures
    with monkeypatch.context() as patch:
        patch.setattr("memfast.cache.redis.asyncio.timeout", timeout)
        while cache.stats().state == "closed":
            assert await cache.get([b"k"]) == [None]
            waited += 1
            await asyncio.sleep(0.001)
        assert waited <= FAILURES + CONNECTIONS, "one for each failure, and those whose failure was not known yet"
        assert bounds.count(TIMEOUT_S) >= waited
    assert cache.stats().failures - failures <= FAILURES + CONNECTIONS
    for _ in range(100):
        assert at_once(cache.get([b"k"])) == [None]
    dropped = cache.stats().dropped
    cache.put(b"k", b"w", 60)
    assert cache.stats().dropped == dropped + 1
    if harm == "freeze":
        redis.thaw()
    else:
        redis.start()
    await until(lambda: cache.stats().state == "closed")
    await until(lambda: found(b"w"))


async def test_pings_find_out_without_any_request(hasty, redis):
    """Three that are not answered open the breaker; one that is closes it."""
    redis.freeze()
    await until(lambda: hasty.stats().state == "open")
    assert not hasty.available
    redis.thaw()
    await until(lambda: hasty.stats().state == "closed")


async def test_a_redis_that_comes_later_is_found(redis):
    """The service may start first."""
    redis.kill()
    cache = open_cache(redis.url, timeout_s=30.0)
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
