"""What the servers behind memfast say of themselves, and what is counted of their use, as data."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["Backlog", "Neo4jFacts", "PoolSnapshot", "RedisFacts", "RelayStats", "SharedCacheStats", "StoreHealth"]


class Backlog(Struct, frozen=True, kw_only=True):
    """What a copy of the links has still to be told.

    `state`: off (there is no copy), on, dropped (it was away for too long). `pending` rows wait, `loads` of them for a
    whole user; the first since `oldest_s` seconds. `building`: not every user was asked for yet.
    """

    epoch: int
    state: Literal["off", "on", "dropped"]
    building: bool
    pending: int
    loads: int
    oldest_s: float


class RelayStats(Struct, frozen=True, kw_only=True):
    """A worker's relay to a copy of the links: what waits, counted every few seconds, and counters since its start.

    `lag_s` is how old the oldest of the steps was that were applied last; `applied` steps, `loaded` users, `retried`
    turns that failed, `begun` copies; `problem` is why the last turn failed, if it did.
    """

    state: Literal["unknown", "off", "on", "dropped"]
    building: bool
    pending: int
    oldest_s: float
    lag_s: float
    applied: int
    loaded: int
    retried: int
    begun: int
    problem: str | None


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


class Neo4jFacts(Struct, frozen=True):
    """What matters of a Neo4j server: its name with version and edition, and whether it has APOC core."""

    version: str
    apoc: bool


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
