"""Text to vectors, with those that were embedded lately kept."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from memfast.errors import Unavailable
from memfast.kernels import ByteCache, CacheAges, CacheStats
from memfast.metrics import Meter, unread
from memfast.model import DatabaseFacts
from memfast.ports import Clock, Embedder
from memfast.service.shared import SharedVectors

__all__ = ["CachedEmbedder"]

_NEVER_NS = 2**62
_KEY_BYTES = 24
_RESIZE_STEPS = 2000
"""Vectors that leave at one call at most: about a millisecond."""


class CachedEmbedder:
    """An embedder that asks another only for the texts it does not hold: `ports.Embedder`.

    The key is a digest of model, dimensions and text, the value the vector's bytes. Failures are not kept.

    Args:
        embedder: makes the vectors.
        cache: holds them in this worker.
        clock: monotonic time for their ages.
        shared: what is not held here is looked for there before it is made.
        meter: counts the calls of the embedder.
    """

    def __init__(
        self,
        embedder: Embedder,
        cache: ByteCache,
        clock: Clock,
        shared: SharedVectors | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._embedder = embedder
        self._cache = cache
        self._clock = clock
        self._shared = shared
        meter = meter or unread()
        self._took = meter.histogram("memfast_embedding_duration_seconds")
        self._texts = meter.histogram("memfast_embedding_batch_texts")
        self._failures = meter.counter("memfast_embedding_failures")
        self._era: int | None = None
        self._prefix = f"{embedder.model}\0{embedder.dimensions}\0".encode()

    @property
    def model(self) -> str:
        """See `ports.Embedder.model`."""
        return self._embedder.model

    @property
    def dimensions(self) -> int:
        """See `ports.Embedder.dimensions`."""
        return self._embedder.dimensions

    def held(self, text: str) -> NDArray[np.float32] | None:
        """The vector of a text embedded lately, float32 (dimensions,), read-only; None when it is not held."""
        value = self._cache.get(self._key(text), 0, 0, self._now_ns())
        return None if value is None else np.frombuffer(value, dtype=np.float32)

    async def vector(self, text: str) -> NDArray[np.float32]:
        """The vector of one text: `embed` without the price of many."""
        key = self._key(text)
        value = self._cache.get(key, 0, 0, self._now_ns())
        if value is None:
            value = (await self._make([key], [text]))[0]
        return np.frombuffer(value, dtype=np.float32)

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `ports.Embedder.embed`."""
        keys = [self._key(text) for text in texts]
        now_ns = self._now_ns()
        held = [self._cache.get(key, 0, 0, now_ns) for key in keys]
        missing = [position for position, value in enumerate(held) if value is None]
        if missing:
            made = await self._make([keys[each] for each in missing], [texts[each] for each in missing])
            for position, value in zip(missing, made, strict=True):
                held[position] = value
        return np.frombuffer(b"".join(filter(None, held)), dtype=np.float32).reshape(len(texts), self.dimensions)

    async def _make(self, keys: Sequence[bytes], texts: Sequence[str]) -> list[bytes]:
        """The vectors of texts that are not held, from now on held."""
        shared = self._shared
        found = [None] * len(keys) if shared is None else await shared.get(keys)
        missing = [position for position, value in enumerate(found) if value is None]
        vectors = dict(enumerate(found))
        if missing:
            made = (await self._asked([texts[position] for position in missing])).tobytes()
            width = len(made) // len(missing)
            for start, position in zip(range(0, len(made), width), missing, strict=True):
                vectors[position] = value = made[start : start + width]
                if shared is not None:
                    shared.put(keys[position], value)
        now_ns = self._now_ns()
        results = [value for value in vectors.values() if value is not None]
        for key, value in zip(keys, results, strict=True):
            self._cache.put(key, value, 0, 0, 0, 0, _NEVER_NS, now_ns)
        return results

    async def _asked(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What the embedder makes of texts."""
        began_s = self._clock.monotonic()
        try:
            made = await self._embedder.embed(texts)
        except Unavailable:
            self._failures.add()
            raise
        self._took.observe(self._clock.monotonic() - began_s)
        self._texts.observe(len(texts))
        return made

    async def check(self) -> None:
        """See `ports.Embedder.check`."""
        await self._embedder.check()

    async def close(self) -> None:
        """See `ports.Embedder.close`."""
        await self._embedder.close()

    def resize(self, size_bytes: int, entries: int) -> bool:
        """Hold so much from now on; False where another call has to go on."""
        return self._cache.resize(size_bytes, entries, _RESIZE_STEPS)

    def stats(self) -> CacheStats:
        """Counters of the cache."""
        return self._cache.stats()

    def ages(self) -> CacheAges:
        """How long the cache has held its entries."""
        return self._cache.ages(self._now_ns())

    def learned(self, facts: DatabaseFacts) -> None:
        """Hold nothing of an era of copies that is over."""
        if self._era not in {None, facts.era}:
            self._cache.clear()
        self._era = facts.era

    def _key(self, text: str) -> bytes:
        # SHA-256 because processors have instructions for it: half of the time of BLAKE2b for a page of text.
        return sha256(self._prefix + text.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES]

    def _now_ns(self) -> int:
        return int(self._clock.monotonic() * 1e9)
