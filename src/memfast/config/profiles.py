"""Sets of defaults that go together."""

from __future__ import annotations

from typing import Any

__all__ = ["PROFILES"]

PROFILES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "high-traffic": {
        "postgres.pool_min": 20,
        "postgres.pool_max": 64,
        "server.backlog": 4096,
        "cache.memory_mb": 768,
        "cache.entries": 50_000,
        "cache.ttl_s": 600.0,
        "cache.idle_s": 120.0,
        "cache.embedding_entries": 5000,
        "cache.embedding_ttl_s": 1200.0,
        "index.memory_mb": 768,
        "memory.budget_mb": 2048,
    },
    "memory-constrained": {
        "postgres.pool_min": 1,
        "postgres.pool_max": 3,
        "embedding.batch_size": 25,
        "server.body_max_bytes": 4 * 1024 * 1024,
        "cache.memory_mb": 32,
        "cache.entries": 1000,
        "cache.ttl_s": 60.0,
        "cache.idle_s": 30.0,
        "cache.embedding_entries": 100,
        "cache.embedding_ttl_s": 300.0,
        "index.memory_mb": 64,
        "memory.budget_mb": 256,
        "memory.watch_interval_s": 0.1,
    },
    "throughput": {"postgres.pool_min": 10, "postgres.pool_max": 10, "embedding.batch_size": 256},
    "latency": {
        "postgres.pool_min": 3,
        "postgres.pool_max": 3,
        "postgres.connect_timeout_s": 2.0,
        "embedding.batch_size": 50,
    },
}
"""What each profile changes of the defaults. The file, the environment and flags win over it."""
