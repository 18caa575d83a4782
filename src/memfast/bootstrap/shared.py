"""The cache that workers and hosts share, where one is configured."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
from msgspec import Struct

from memfast import __version__
from memfast.bootstrap.ground import Ground
from memfast.config import Config, RedisConfig
from memfast.errors import ConfigError, MemfastError
from memfast.ports import Clock, Ledger, SharedCache
from memfast.readings import RedisFacts
from memfast.resilience.breaker import Breaker, log_transition
from memfast.service.coherence import Coherence
from memfast.service.shared import Seal, SharedAnswers, SharedVectors
from memfast.store.life import ServerLife

__all__ = ["SharedLayer", "guard", "inspect_shared", "open_shared", "search_shared"]

_log = logging.getLogger("memfast.redis")

NOTE_INTERVAL_S = 5.0
"""Time between notes of how far the database has come, in seconds."""

START_INTERVAL_S = 0.2
"""Time between looks for such a note while a worker starts, in seconds."""

NOTE_TTL_S = 86_400.0
"""Life of such a note, in seconds: longer than that of any value."""


class SharedLayer(Struct, frozen=True, kw_only=True):
    """What a shared cache is used for. `vectors` is None where making one is as fast as fetching it.

    `answers` are not used until `guard` lets them be.
    """

    cache: SharedCache
    breaker: Breaker
    seal: Seal
    answers: SharedAnswers
    vectors: SharedVectors | None
    clock: Clock


class _Noted(Struct, frozen=True, array_like=True):
    """The furthest that somebody saw the database: the life it was in, and the server's."""

    lineage: bytes
    life: ServerLife


@asynccontextmanager
async def open_shared(
    site: Ground, coherence: Coherence, clock: Clock, *, vectors: bool
) -> AsyncIterator[SharedLayer | None]:
    """Open the configured cache, also for `vectors`; None without one. That it cannot be reached is no error.

    Raises:
        ConfigError: the driver is not installed, or the address is not valid.
    """
    config = site.config.redis
    if not config.url:
        yield None
        return
    breaker = Breaker("redis", clock, failures=config.failures, hold_s=config.hold_s)
    breaker.listen(log_transition)
    cache = _open(config, breaker, site.config.server.workers)
    try:
        seal = Seal(site.prepared.secret, _inputs(site))
        min_cost_s = config.min_cost_ms / 1000
        yield SharedLayer(
            cache=cache,
            breaker=breaker,
            seal=seal,
            answers=SharedAnswers(cache, seal, coherence, clock, ttl_s=config.ttl_s, min_cost_s=min_cost_s),
            vectors=SharedVectors(cache, seal, coherence, clock, ttl_s=config.ttl_s) if vectors else None,
            clock=clock,
        )
    finally:
        await cache.close()


async def inspect_shared(config: Config) -> RedisFacts:
    """See `cache.redis.inspect_redis`.

    Raises:
        CommandFailed: it cannot be reached.
        ConfigError: the driver is not installed.
    """
    try:
        from memfast.cache.redis import inspect_redis  # noqa: PLC0415 as in _open
    except ImportError as error:
        raise _missing() from error
    return await inspect_redis(config.redis.url, max(1.0, config.redis.timeout_s))


async def search_shared(config: Config, group: str, wanted: Sequence[bytes]) -> tuple[int, int]:
    """See `cache.redis.search_redis`.

    Raises:
        CommandFailed: it cannot be reached.
        ConfigError: the driver is not installed.
    """
    try:
        from memfast.cache.redis import search_redis  # noqa: PLC0415 as in _open
    except ImportError as error:
        raise _missing() from error
    return await search_redis(config.redis.url, max(1.0, config.redis.timeout_s), group.encode(), wanted)


def _open(config: RedisConfig, breaker: Breaker, workers: int) -> SharedCache:
    try:
        from memfast.cache.redis import RedisCache  # noqa: PLC0415 what is not configured is not imported
    except ImportError as error:
        raise _missing() from error
    try:
        return RedisCache.open(
            config.url,
            breaker,
            timeout_s=config.timeout_s,
            acquire_timeout_s=config.acquire_timeout_s,
            value_max_bytes=config.value_max_bytes,
            connections_min=min(config.pool_min, config.pool_max) // workers,
            connections_max=max(2, config.pool_max // workers),
        )
    except ValueError as error:
        raise ConfigError(f"redis.url is not valid: {error}") from error


def _missing() -> ConfigError:
    return ConfigError('redis.url is set, and the driver is not installed: pip install "memfast[redis]"')


def _inputs(site: Ground) -> bytes:
    """Everything that changes values and stands in no request."""
    embedding, prepared = site.config.embedding, site.prepared
    model = (prepared.model, prepared.dimensions, prepared.generation, embedding.base_url)
    return msgspec.msgpack.encode((__version__, *model, site.config.search))


async def guard(layer: SharedLayer | None, site: Ground, coherence: Coherence, ledger: Ledger) -> None:
    """Note for ever how far the database has come; let answers be used once nobody has noted more.

    A database that was restored under services that are new to it shows that in no other way: its versions would be
    given again, and answers of the life before would be taken for theirs.
    """
    while layer is not None:
        try:
            await _compare(layer, site, coherence, ledger)
        except MemfastError as error:
            _log.debug("the life of the database could not be compared: %s", error)
        except Exception:  # noqa: BLE001 - a task's edge: the guard must outlive whatever it meets
            _log.exception("the guard over Redis failed")
        await asyncio.sleep(NOTE_INTERVAL_S if layer.answers.enabled else START_INTERVAL_S)


async def _compare(layer: SharedLayer, site: Ground, coherence: Coherence, ledger: Ledger) -> None:
    answers = layer.answers
    key = layer.seal.key("life", b"note")

    def note(*, replace: bool) -> None:
        life = msgspec.structs.replace(site.note.life, wal=coherence.facts.wal)
        noted = msgspec.msgpack.encode(_Noted(coherence.facts.lineage.bytes, life))
        layer.cache.put(key, layer.seal.close(key, noted), NOTE_TTL_S, replace=replace)

    if answers.enabled:
        note(replace=True)
        return
    value = (await layer.cache.get([key]))[0]
    opened = layer.seal.open(key, value, layer.clock.now())
    if opened is None:  # there is none, or Redis is away: it is believed once our own can be read
        note(replace=value is not None)
        return
    noted = msgspec.msgpack.decode(opened[0], type=_Noted)
    facts, _ = await ledger.versions([])
    life = msgspec.structs.replace(site.note.life, wal=facts.wal)
    if noted.lineage == facts.lineage.bytes and not life.continues(noted.life):
        _log.warning("the database is behind what Redis has noted of it: it was restored; a new life begins")
        await ledger.begin_life(facts.lineage)
    await coherence.check()
    answers.enabled = True
