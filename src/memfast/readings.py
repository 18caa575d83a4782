"""What the servers behind memfast say of themselves, and what is counted of their use, as data."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["PoolSnapshot", "RedisFacts", "SharedCacheStats", "StoreHealth"]


class PoolSnapshot(Struct, frozen=True, kw_only=True):
    """A pool of connections: state now and counters since it was opened.

    `waiting` are callers without a connection, `refused` those that got none because too many waited, `reused` uses of
    a connection that was used before. `utilisation` is the share of `limit` that is in use, 0..1.
    """

    size: int
    idle: int
    limit: int
    waiting: int
    utilisation: float
    created: int
    acquired: int
    reused: int
    refused: int
    acquire_ms_mean: float
    acquire_ms_max: float


class RedisFacts(Struct, frozen=True):
    """What matters of a Redis server. `maxmemory_bytes` is 0 without a bound, None where it may not be asked."""

    version: str
    maxmemory_bytes: int | None
    policy: str | None


class SharedCacheStats(Struct, frozen=True, kw_only=True):
    """A shared cache as one worker sees it: its breaker's state, and counters since the worker started.

    `hits` and `misses` count keys; `dropped` are values that were not stored, `failures` round trips that failed.
    """

    state: str
    hits: int
    misses: int
    stored: int
    dropped: int
    failures: int


class StoreHealth(Struct, frozen=True, kw_only=True):
    """The store as a health check sees it."""

    server_version: str
    pgvector_version: str
    schema: int
    commit_ms: float
