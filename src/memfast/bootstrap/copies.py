"""What a worker keeps in memory, as large as it is configured, or was ordered since."""

from __future__ import annotations

from collections.abc import Callable

from memfast.config import Config
from memfast.index.pool import ShardPool
from memfast.kernels import ByteCache
from memfast.metrics import Meter
from memfast.ports import Clock, Embedder
from memfast.resilience.memory import give_back, resident_bytes
from memfast.service.answers import Answers, Kind, Shared
from memfast.service.coherence import Coherence
from memfast.service.embeddings import CachedEmbedder
from memfast.service.heat import Heat
from memfast.service.pressure import Pressure
from memfast.service.shared import SharedVectors

__all__ = ["build_answers", "build_cached_embedder", "build_pressure", "resized", "warm_bytes"]

_MIB = 1024 * 1024
_KINDS: tuple[Kind, ...] = ("search", "list", "get")


def build_answers(
    config: Config,
    *,
    coherence: Coherence,
    heat: Heat,
    clock: Clock,
    shared: Shared | None,
    require_room: Callable[[], None],
) -> Answers:
    """Empty caches of finished answers, with a worker's share of the memory; see `service.answers.Answers`."""
    sizes = _answer_bytes(config)
    caches = {layer: _answer_cache(config, size) for layer, size in sizes.items()}
    kinds: dict[Kind, ByteCache] = {kind: caches[kind] for kind in _KINDS}
    return Answers(kinds, caches["requests"], coherence, heat, clock, shared, require_room)


def build_cached_embedder(
    config: Config, embedder: Embedder, clock: Clock, shared: SharedVectors | None, meter: Meter
) -> CachedEmbedder:
    """An embedder that keeps what it embedded lately."""
    cache = config.cache
    size, entries = _embedding_bounds(config, embedder.dimensions)
    life_ns = int(cache.embedding_ttl_s * 1e9)
    kept = ByteCache(size, entry_limit=entries, ttl_ns=life_ns, idle_ns=life_ns)
    return CachedEmbedder(embedder, kept, clock, shared, meter)


def build_pressure(config: Config, answers: Answers, shards: ShardPool) -> Pressure:
    """The watch over a worker's share of `memory.budget_mb`."""
    budget_bytes = config.memory.budget_mb * _MIB // config.server.workers
    return Pressure(budget_bytes, resident_bytes, (answers, shards), give_back)


def resized(config: Config, answers: Answers, shards: ShardPool, embedder: CachedEmbedder) -> bool:
    """Let everything take what a configuration allows; False where another call has to go on."""
    shards.resize(warm_bytes(config))
    done = answers.resize(_answer_bytes(config), config.cache.entries)
    return embedder.resize(*_embedding_bounds(config, embedder.dimensions)) and done


def warm_bytes(config: Config) -> int:
    """A worker's share of the memory for shards."""
    return config.index.memory_mb * _MIB // config.server.workers


def _answer_bytes(config: Config) -> dict[str, int]:
    """A worker's bytes by the layers of finished answers."""
    cache = config.cache
    capacity = cache.memory_mb * _MIB // config.server.workers
    shares = {
        "search": cache.search_share,
        "list": cache.list_share,
        "get": cache.get_share,
        "requests": cache.requests_share,
    }
    return {layer: max(1, int(capacity * share)) for layer, share in shares.items()}


def _answer_cache(config: Config, capacity_bytes: int) -> ByteCache:
    cache = config.cache
    return ByteCache(
        capacity_bytes, entry_limit=cache.entries, ttl_ns=int(cache.ttl_s * 1e9), idle_ns=int(cache.idle_s * 1e9)
    )


def _embedding_bounds(config: Config, dimensions: int) -> tuple[int, int]:
    """Bytes and entries of a worker's cache of vectors."""
    entries = config.cache.embedding_entries
    return max(64, entries) * (4 * dimensions + 512), max(1, entries)
