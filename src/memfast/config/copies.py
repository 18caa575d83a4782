"""Settings of copies: what the workers keep in memory, and how much of it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from memfast.config.fields import doc

__all__ = ["CacheConfig", "IndexConfig", "MemoryConfig"]


class CacheConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Finished answers and embeddings, in the workers' memory."""

    memory_mb: Annotated[int, doc("finished answers, all workers", "MiB", ge=0, le=1024 * 1024)] = 128
    search_share: Annotated[
        float,
        doc("part of it for answers to searches; what the shares leave is for requests", "share", ge=0.01, le=0.95),
    ] = 0.65
    list_share: Annotated[float, doc("part of it for answers to listings", "share", ge=0.01, le=0.95)] = 0.15
    get_share: Annotated[float, doc("part of it for answers to single gets", "share", ge=0.01, le=0.95)] = 0.1
    entries: Annotated[int, doc("finished answers of a worker", "answers", ge=1, le=1_000_000_000)] = 10_000
    ttl_s: Annotated[float, doc("longest life of an answer", "s", gt=0)] = 300.0
    idle_s: Annotated[float, doc("time without use after which an answer goes", "s", gt=0)] = 60.0
    embedding_entries: Annotated[int, doc("embedded texts kept, a worker", "texts", ge=0, le=1_000_000_000)] = 1000
    embedding_ttl_s: Annotated[float, doc("longest life of an embedded text", "s", gt=0)] = 600.0

    @property
    def requests_share(self) -> float:
        """Part of the memory for requests that were recognised."""
        return round(1.0 - self.search_share - self.list_share - self.get_share, 6)


class IndexConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Users whose memories are searched in the workers' memory."""

    memory_mb: Annotated[int, doc("warm users, all workers", "MiB", ge=0, le=1024 * 1024)] = 256
    flat_limit: Annotated[
        int, doc("memories of a user up to which every one is compared; above, hnswlib chooses", "memories", ge=100)
    ] = 40_000
    int8: Annotated[
        bool, doc("keep an int8 copy of a large user's vectors: a fifth more memory, a third of a search's time")
    ] = True
    admit_window_s: Annotated[
        float, doc("time within which a second search of a user loads its memories", "s", gt=0)
    ] = 600.0
    start_users: Annotated[
        int, doc("most read users that a starting worker loads in the background; 0 = none", "users", ge=0, le=100_000)
    ] = 1000
    start_queries: Annotated[
        int, doc("most frequent questions of each of them that are asked again", "questions", ge=0, le=50)
    ] = 20


class MemoryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The memory of the workers together: caches, warm users and everything else that is resident."""

    budget_mb: Annotated[
        int, doc("from 80 % of it cold copies leave, from 95 % at once down to 70 %", "MiB", ge=64)
    ] = 500
    watch_interval_s: Annotated[float, doc("how often a worker reads its memory", "s", gt=0, le=60)] = 0.5
