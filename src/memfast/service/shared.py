"""What workers and hosts share through a cache that may lose, forget or forge anything.

A value is sealed: it repeats its key, and a tag keyed with the database's secret covers both. What is cut off,
flipped, foreign, or another key's value does not open, and is a miss. The key of an answer holds everything that
changes its bytes, the life of the database, the era of its copies and **the version of the snapshot that it was made
of**: an older answer has another key. So a reader must know the version that it wants: that of copies which are good
for its epochs, or the one that the database names after its epochs were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from hmac import compare_digest
from uuid import UUID

import msgspec
from msgspec import Struct

from memfast.errors import MemfastError
from memfast.ports import Clock, SharedCache
from memfast.service.answers import Answer
from memfast.service.coherence import Coherence, Epochs

__all__ = ["FORMAT", "Seal", "SharedAnswers", "SharedVectors"]

FORMAT = b"1"
"""Of keys and values: raised when either changes its meaning."""

_TAG_BYTES = 16
_DIGEST_BYTES = 24
_COSTS_MAX = 100_000
"""Scopes whose searches' time is remembered."""


class _Sealed(Struct, frozen=True, array_like=True):
    """A value with its key; `until_us` is when it stops being true by itself, microseconds since 1970, 0 for never."""

    key: bytes
    until_us: int
    payload: bytes


class Seal:
    """Makes keys and sealed values of one database.

    Args:
        secret: the database's.
        inputs: everything that changes values and does not stand in requests: settings, embedder, generation.
    """

    def __init__(self, secret: bytes, inputs: bytes) -> None:
        self._tag_key = blake2b(secret, digest_size=32, person=b"memfast tag").digest()
        self._key_seed = blake2b(inputs, digest_size=_DIGEST_BYTES, key=blake2b(secret).digest(), person=b"memfast key")
        self._database = blake2b(secret, digest_size=6, person=b"memfast name").hexdigest()
        self._decoder = msgspec.msgpack.Decoder(_Sealed)

    def key(self, group: str, *parts: bytes) -> bytes:
        """The key of what the parts, of fixed lengths, describe; `group` chooses its place in a Redis Cluster."""
        digest = self._key_seed.copy()
        digest.update(b"\0".join((group.encode(), *parts)))
        return self.prefix(group) + f"{FORMAT.decode()}:{digest.hexdigest()}".encode()

    def prefix(self, group: str) -> bytes:
        """How every key of a group begins, of whatever format."""
        return f"memfast:{self._database}:{{{group}}}:".encode()

    def close(self, key: bytes, payload: bytes, until: datetime | None = None) -> bytes:
        """Seal a value."""
        until_us = 0 if until is None else int(until.timestamp() * 1e6)
        content = msgspec.msgpack.encode(_Sealed(key, until_us, payload))
        return self._tag(content) + content

    def open(self, key: bytes, value: bytes | None, now: datetime) -> tuple[bytes, datetime | None] | None:
        """What was sealed under the key and until when it holds; None for anything else, and for what holds no more."""
        if value is None or not compare_digest(value[:_TAG_BYTES], self._tag(value[_TAG_BYTES:])):
            return None
        sealed = self._decoder.decode(value[_TAG_BYTES:])  # it is ours, whatever else is wrong
        if sealed.key != key:
            return None
        until = datetime.fromtimestamp(sealed.until_us / 1e6, UTC) if sealed.until_us else None
        return None if until is not None and until <= now else (sealed.payload, until)

    def _tag(self, content: bytes) -> bytes:
        return blake2b(content, digest_size=_TAG_BYTES, key=self._tag_key).digest()


class SharedAnswers:
    """Finished answers of searches that took long, by scope and version.

    Args:
        cache: where they lie.
        seal: makes keys and values.
        coherence: knows which version is wanted.
        clock: wall time, for answers that stop being true by themselves.
        ttl_s: longest life, in seconds.
        min_cost_s: answers that took less to make are not shared, and not asked for where the scope's last one did.

    Attributes:
        enabled: whether it is known that the database was not set back since answers were shared. False at the start.
    """

    def __init__(
        self, cache: SharedCache, seal: Seal, coherence: Coherence, clock: Clock, *, ttl_s: float, min_cost_s: float
    ) -> None:
        self._cache = cache
        self._seal = seal
        self._coherence = coherence
        self._clock = clock
        self._ttl_s = ttl_s
        self._min_cost_s = min_cost_s
        self._costs: dict[UUID, float] = {}
        self.enabled = False

    async def look(self, key: bytes, scope_id: UUID, epochs: Epochs) -> Answer | None:
        """The answer to a question, of a state that is not older than `epochs`; None where it is not there."""
        if (
            not self.enabled
            or not self._cache.available
            or self._costs.get(scope_id, self._min_cost_s) < self._min_cost_s
        ):
            return None
        version = self._coherence.floor(scope_id, epochs)
        if version < 0 and self._coherence.stale_for_s():  # the database is silent
            return None
        if version < 0:  # without copies there is nothing to compare with: the database knows
            try:
                version = await self._coherence.confirm(scope_id)
            except MemfastError:
                return None
        if version == 0:
            return None
        name = self._name(key, scope_id, version)
        opened = self._seal.open(name, (await self._cache.get([name]))[0], self._clock.now())
        return None if opened is None else Answer(opened[0], version, "redis", opened[1])

    def offer(self, key: bytes, scope_id: UUID, answer: Answer, cost_s: float) -> None:
        """Share an answer that took so long."""
        self._costs.pop(scope_id, None)
        if len(self._costs) >= _COSTS_MAX:
            del self._costs[next(iter(self._costs))]
        self._costs[scope_id] = cost_s
        ends = answer.expires_at is not None and answer.expires_at <= self._clock.now()
        if cost_s >= self._min_cost_s and answer.version > 0 and not ends:
            name = self._name(key, scope_id, answer.version)
            self._cache.put(name, self._seal.close(name, answer.body, answer.expires_at), self._ttl_s)

    async def erase(self, scope_id: UUID) -> int | None:
        """Remove every answer of a scope; returns how many there were, None where that could not be done."""
        self._costs.pop(scope_id, None)
        return await self._cache.erase(self._seal.prefix(scope_id.hex))

    def _name(self, key: bytes, scope_id: UUID, version: int) -> bytes:
        facts = self._coherence.facts
        state = (facts.lineage.bytes, facts.era.to_bytes(8, "big"), version.to_bytes(8, "big"))
        return self._seal.key(scope_id.hex, b"answer", key, *state)


class SharedVectors:
    """Vectors of texts, as bytes, by the key that the embedder's own cache has for them."""

    def __init__(self, cache: SharedCache, seal: Seal, coherence: Coherence, clock: Clock, *, ttl_s: float) -> None:
        self._cache = cache
        self._seal = seal
        self._coherence = coherence
        self._clock = clock
        self._ttl_s = ttl_s

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Vectors in the order of the keys; None for what is not there. One round trip."""
        names = [self._name(key) for key in keys]
        now = self._clock.now()
        values = await self._cache.get(names) if self._cache.available else [None] * len(names)
        opened = [self._seal.open(name, value, now) for name, value in zip(names, values, strict=True)]
        return [None if each is None else each[0] for each in opened]

    def put(self, key: bytes, vector: bytes) -> None:
        """Share a vector."""
        name = self._name(key)
        self._cache.put(name, self._seal.close(name, vector), self._ttl_s)

    def _name(self, key: bytes) -> bytes:
        return self._seal.key(key[:2].hex(), b"vector", key, self._coherence.facts.era.to_bytes(8, "big"))
