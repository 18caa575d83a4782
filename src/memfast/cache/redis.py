"""Redis as a shared cache: whatever it does, a caller gets what it has within a short time, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from msgspec import Struct
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from memfast.errors import CommandFailed
from memfast.readings import RedisFacts, SharedCacheStats
from memfast.resilience.breaker import Breaker, Outcome

__all__ = ["RedisCache", "inspect_redis", "search_redis"]

_log = logging.getLogger("memfast.redis")

PING_INTERVAL_S = 1.0
"""Time between pings, in seconds. They find out that Redis is away before requests do, and that it is back."""

WAITING_KEYS_MAX = 10_000
"""Keys that wait to be asked for; one more is a miss."""

WAITING_VALUES_MAX = 1000
WAITING_BYTES_MAX = 16 * 1024 * 1024
"""Values, and their bytes, that wait to be stored; what is more is dropped."""

BATCH = 100
"""Keys or values of one pipeline."""

ERASE_S = 5.0
"""How long the keys of a user are looked for, in seconds: about ten million keys."""

SCAN_KEYS = 1000
"""Keys of one step of that."""

_KEEPALIVE = {socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 3, socket.TCP_KEEPCNT: 5}
_FAILURES = (RedisError, OSError, TimeoutError)


class _Put(Struct, frozen=True):
    key: bytes
    value: bytes
    ttl_ms: int
    replace: bool


class RedisCache:
    """`ports.SharedCache`. What concurrent callers ask for in one turn of the event loop shares a round trip.

    Args:
        client: a client whose every wait is bounded.
        breaker: while it is not closed nobody waits.
        timeout_s: the longest wait of a caller, in seconds.
        value_max_bytes: a longer value is neither stored nor read.
        connections_min: connections that are opened at the start.
        connections_max: round trips at once.
    """

    def __init__(
        self,
        client: Redis,
        breaker: Breaker,
        *,
        timeout_s: float,
        value_max_bytes: int,
        connections_min: int,
        connections_max: int,
    ) -> None:
        self._client = client
        self._breaker = breaker
        self._timeout_s = timeout_s
        self._value_max_bytes = value_max_bytes
        self._connections_min = connections_min
        self._reads_max = max(1, connections_max - 1)  # one is left to what is stored
        self._asked: deque[tuple[bytes, asyncio.Future[bytes | None]]] = deque()
        self._reads: set[asyncio.Task[None]] = set()
        self._due = False
        self._puts: deque[_Put] = deque()
        self._put_bytes = 0
        self._stored = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._hits = self._misses = self._failures = self._puts_done = self._dropped = 0

    @classmethod
    def open(
        cls,
        url: str,
        breaker: Breaker,
        *,
        timeout_s: float,
        acquire_timeout_s: float,
        value_max_bytes: int,
        connections_min: int,
        connections_max: int,
    ) -> Self:
        """A cache at a `redis://`, `rediss://` or `unix://` address; needs a running event loop, connects by itself."""
        pool = BlockingConnectionPool.from_url(
            url, max_connections=connections_max, timeout=acquire_timeout_s, **_options(url, timeout_s)
        )
        opened = cls(
            Redis(connection_pool=pool),
            breaker,
            timeout_s=timeout_s,
            value_max_bytes=value_max_bytes,
            connections_min=connections_min,
            connections_max=connections_max,
        )
        opened._tasks = [asyncio.create_task(work) for work in (opened._watch(), opened._store())]
        return opened

    @property
    def available(self) -> bool:
        """See `ports.SharedCache.available`."""
        return self._breaker.state in {"closed", "half_open"}

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `ports.SharedCache.get`."""
        if not self.available or len(self._asked) + len(keys) > WAITING_KEYS_MAX:
            return [None] * len(keys)
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[bytes | None]] = [loop.create_future() for _ in keys]
        self._asked.extend(zip(keys, answers, strict=True))
        if not self._due:
            self._due = True
            loop.call_soon(self._send)
        try:
            async with asyncio.timeout(self._timeout_s):
                found = [await answer for answer in answers]
        except TimeoutError:
            found = [None] * len(keys)
        finally:
            for answer in answers:
                answer.cancel()
        hits = sum(value is not None for value in found)
        self._hits += hits
        self._misses += len(keys) - hits
        return found

    def put(self, key: bytes, value: bytes, ttl_s: float, *, replace: bool = True) -> None:
        """See `ports.SharedCache.put`."""
        full = len(self._puts) >= WAITING_VALUES_MAX or self._put_bytes + len(value) > WAITING_BYTES_MAX
        if full or not self.available or len(value) > self._value_max_bytes:
            self._dropped += 1
            return
        self._puts.append(_Put(key, value, max(1, int(ttl_s * 1000)), replace))
        self._put_bytes += len(value)
        self._stored.set()

    async def erase(self, prefix: bytes) -> int | None:
        """See `ports.SharedCache.erase`. Walks over all keys of the server, within `ERASE_S`."""
        waiting, self._puts = self._puts, deque(put for put in self._puts if not put.key.startswith(prefix))
        self._put_bytes -= sum(len(put.value) for put in waiting) - sum(len(put.value) for put in self._puts)
        erased, batch = 0, list[bytes]()
        try:
            async with asyncio.timeout(ERASE_S):
                async for key in self._client.scan_iter(match=_literally(prefix) + b"*", count=SCAN_KEYS):
                    batch.append(key)
                    if len(batch) >= BATCH:
                        erased += await self._client.unlink(*batch)
                        batch.clear()
                return erased + (await self._client.unlink(*batch) if batch else 0)
        except _FAILURES as error:
            _log.warning("what Redis holds of a user could not be erased (%s)", type(error).__name__)
            return None

    def stats(self) -> SharedCacheStats:
        """See `ports.SharedCache.stats`."""
        return SharedCacheStats(
            state=self._breaker.state,
            hits=self._hits,
            misses=self._misses,
            stored=self._puts_done,
            dropped=self._dropped,
            failures=self._failures,
        )

    async def close(self) -> None:
        """See `ports.SharedCache.close`."""
        tasks = [*self._tasks, *self._reads]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, answer in self._asked:
            answer.cancel()
        with contextlib.suppress(*_FAILURES):
            await self._client.aclose()
            await self._client.connection_pool.disconnect()

    def _send(self) -> None:
        self._due = False
        while self._asked and len(self._reads) < self._reads_max:
            batch = [self._asked.popleft() for _ in range(min(BATCH, len(self._asked)))]
            task = asyncio.create_task(self._read(batch))
            self._reads.add(task)
            task.add_done_callback(self._read_done)

    def _read_done(self, task: asyncio.Task[None]) -> None:
        self._reads.discard(task)
        if self._asked and not task.cancelled():
            self._send()

    async def _read(self, batch: list[tuple[bytes, asyncio.Future[bytes | None]]]) -> None:
        wanted = [(key, answer) for key, answer in batch if not answer.done()]
        pipeline = self._client.pipeline(transaction=False)
        for key, _ in wanted:
            pipeline.getrange(key, 0, self._value_max_bytes)  # bounded, whatever somebody put there
        values = await self._ask(pipeline) if wanted else []
        for (_, answer), value in zip(wanted, values or [None] * len(wanted), strict=True):
            if not answer.done():
                answer.set_result(value if isinstance(value, bytes) and value else None)

    async def _store(self) -> None:
        while True:
            await self._stored.wait()
            batch = [self._puts.popleft() for _ in range(min(BATCH, len(self._puts)))]
            self._put_bytes -= sum(len(put.value) for put in batch)
            if not self._puts:
                self._stored.clear()
            pipeline = self._client.pipeline(transaction=False)
            for put in batch:
                pipeline.set(put.key, put.value, px=put.ttl_ms, nx=not put.replace)
            done = await self._ask(pipeline)
            stored = sum(each is True for each in done or ())
            self._puts_done += stored
            self._dropped += len(batch) - stored

    async def _ask(self, pipeline: Any) -> list[Any] | None:
        """What a pipeline gives, errors of single commands among it; None when Redis may not be asked or is away."""
        ticket = self._breaker.admit()
        if ticket is None:
            return None
        outcome: Outcome = "neutral"
        reason = ""
        try:
            results: list[Any] = await pipeline.execute(raise_on_error=False)
            broken = [each for each in results if isinstance(each, RedisConnectionError)]  # it loads, or is read-only
            outcome, reason = ("failure", type(broken[0]).__name__) if broken else ("success", "")
        except _FAILURES as error:
            outcome, reason = "failure", type(error).__name__
            return None
        else:
            return results
        finally:
            self._failures += outcome == "failure"
            self._breaker.settle(ticket, outcome, reason)

    async def _watch(self) -> None:
        """Ping for ever; first open the connections that requests shall find open."""
        await self._connect()
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            try:
                await self._client.ping()
            except _FAILURES as error:
                self._breaker.pinged(answered=False, reason=type(error).__name__)
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("the watch over Redis failed")
            else:
                self._breaker.pinged(answered=True)

    async def _connect(self) -> None:
        pool: Any = self._client.connection_pool
        taken: list[Any] = []
        try:
            while len(taken) < self._connections_min:
                taken.append(await pool.get_connection())
        except _FAILURES as error:
            _log.warning("Redis cannot be reached yet (%s); everything works without it", type(error).__name__)
        finally:
            for connection in taken:
                await pool.release(connection)


def _literally(prefix: bytes) -> bytes:
    """A pattern that only these bytes fit."""
    return re.sub(rb"([*?\[\]\\])", rb"\\\1", prefix)


async def inspect_redis(url: str, timeout_s: float) -> RedisFacts:
    """Ask a server for its version, its bound on memory and what it does when that is reached.

    Raises:
        CommandFailed: it cannot be reached.
    """
    client = Redis.from_url(url, **_options(url, timeout_s))
    try:
        information: dict[str, Any] = await client.info("server")
        try:
            settings = dict([*await _config(client, "maxmemory"), *await _config(client, "maxmemory-policy")])
        except RedisError:  # managed servers do not have the command
            settings = {}
    except _FAILURES as error:
        raise CommandFailed(f"Redis cannot be reached: {error}") from error
    finally:
        await client.aclose()
    most = settings.get("maxmemory")
    return RedisFacts(
        str(information["redis_version"]), None if most is None else int(most), settings.get("maxmemory-policy")
    )


async def search_redis(url: str, timeout_s: float, group: bytes, wanted: Sequence[bytes]) -> tuple[int, int]:
    """How many of memfast's keys name a group or hold one of these bytes, and how many keys there are.

    Raises:
        CommandFailed: the server cannot be reached.
    """
    client = Redis.from_url(url, **_options(url, timeout_s))
    found, keys, batch = 0, 0, list[bytes]()

    async def look() -> int:
        values = await client.mget(batch)
        return sum(
            group in key or any(value is not None and each in value for each in wanted)
            for key, value in zip(batch, values, strict=True)
        )

    try:
        async for key in client.scan_iter(match=b"memfast:*", count=SCAN_KEYS):
            keys += 1
            batch.append(key)
            if len(batch) >= BATCH:
                found += await look()
                batch.clear()
        return found + (await look() if batch else 0), keys
    except _FAILURES as error:
        raise CommandFailed(f"Redis cannot be reached: {error}") from error
    finally:
        await client.aclose()


async def _config(client: Redis, name: str) -> Iterable[tuple[str, str]]:
    found: dict[Any, Any] = await client.config_get(name)
    return [(_text(key), _text(value)) for key, value in found.items()]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _options(url: str, timeout_s: float) -> dict[str, Any]:
    """Every wait has a bound, and nothing is tried again: a failure must be known in time to be counted."""
    options: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "driver_info": None,
    }
    if urlsplit(url).scheme != "unix":
        options |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
    return options
