"""Finished answers: the hot tier. An answer is one look-up and one send; a thousand equal misses are one search."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import partial
from hashlib import blake2b
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from memfast.kernels import ByteCache, CacheAges, CacheStats
from memfast.ports import Clock
from memfast.resilience.flight import Flight
from memfast.service.coherence import Coherence, Epochs
from memfast.service.heat import Heat
from memfast.service.tokens import read_token

__all__ = ["KEY_BYTES", "Answer", "Answers", "Kind", "Shared", "Target", "Tier", "derive_key"]

Kind = Literal["search", "list", "get"]
Tier = Literal["hot", "warm", "redis", "cold"]

KEY_BYTES = 24
"""Length of a key: 192 bits of BLAKE2b."""

_KINDS: tuple[Kind, ...] = ("search", "list", "get")
_NOTE = struct.Struct(f"<BI16s{KEY_BYTES}s")
"""A target: number of its kind, slot, scope, key."""

_SIZES = [struct.Struct(f"<B{count}Q").pack for count in range(8)]
"""By the number of parts: that number and their lengths."""

_FLIGHTS_MAX = 10_000
_NEVER_NS = 2**62
_SWEEP_STEPS = 500
_RELEASE_STEPS = 2000
"""Entries that one release looks at: about a millisecond."""


class Answer(NamedTuple):
    """The bytes of an answer, the version in its headers, where it came from and until when it holds.

    `scope_version` is the scope's, or a lower one, where `version` is that of one memory. `unconfirmed_s` are seconds
    for which the database has not been asked whether it still holds, 0 where that is not needed or was done.
    """

    body: bytes
    version: int
    tier: Tier
    expires_at: datetime | None = None
    scope_version: int | None = None
    unconfirmed_s: float = 0.0

    @property
    def state(self) -> int:
        """The version of the scope that it shows at least."""
        return self.version if self.scope_version is None else self.scope_version


class Target(NamedTuple):
    """What a request asks for: the cache, the key, whose, and the slot of that scope."""

    kind: Kind
    key: bytes
    scope_id: UUID
    slot: int


def derive_key(scope_id: UUID, *parts: bytes) -> bytes:
    """The key of an answer: every input that changes its bytes, seven parts at most, with their lengths before them."""
    sizes = _SIZES[len(parts)](len(parts), *map(len, parts))
    return blake2b(b"".join((scope_id.bytes, sizes, *parts)), digest_size=KEY_BYTES).digest()


class Shared(Protocol):
    """Answers that other workers made: `service.shared.SharedAnswers`."""

    async def look(self, key: bytes, scope_id: UUID, epochs: Epochs) -> Answer | None:
        """The answer of a search, of a state that is not older than the epochs, or None."""
        ...

    def offer(self, key: bytes, scope_id: UUID, answer: Answer, cost_s: float) -> None:
        """Share an answer that took so long, if that makes sense."""
        ...


class Answers:
    """Answers by key, each valid for the epoch that was read before its snapshot.

    Args:
        caches: one cache a kind, each with its own share of memory.
        requests: what requests asked for, by their digest.
        coherence: the epochs.
        heat: counts the reads that are recognised.
        clock: monotonic time for deadlines, wall time to turn `expires_at` into one.
        shared: searches that are neither held here nor warm are looked for there before they are made.
        require_room: raises where what must be computed would be refused by the store: before anything is spent on it.
    """

    def __init__(
        self,
        caches: Mapping[Kind, ByteCache],
        requests: ByteCache,
        coherence: Coherence,
        heat: Heat,
        clock: Clock,
        shared: Shared | None = None,
        require_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._caches = caches
        self._requests = requests
        self._coherence = coherence
        self._heat = heat
        self._clock = clock
        self._shared = shared
        self._require_room = require_room
        self._flights: dict[tuple[bytes, Epochs], Flight[Answer]] = {}

    def recognise(self, request: bytes, token: bytes | None = None) -> tuple[bytes, int, Kind] | None:
        """The finished answer of a request that is equal to the byte to an earlier one: bytes, version and kind.

        Args:
            request: a digest of everything that the request says but its token, and of whom it speaks for.
            token: names the state that the answer must show at least; one that may not be met gives None.
        """
        now_ns = int(self._clock.monotonic() * 1e9)
        noted = self._requests.get(request, 0, 0, now_ns)
        if noted is None:
            return None
        number, slot, scope, key = _NOTE.unpack(noted)
        kind = _KINDS[number]
        current = self._coherence.current(slot)
        found = self._caches[kind].get_entry(key, *current, now_ns)
        if found is None:
            return None
        if (token is not None or self._coherence.cluster) and not self._allows(scope, Epochs(slot, *current), token):
            return None
        self._coherence.touched(scope)
        self._heat.again(key, scope)
        return found[0], found[1], kind

    def _allows(self, scope: bytes, epochs: Epochs, token: bytes | None) -> bool:
        needed = None if token is None else read_token(token)
        return (needed is not None or token is None) and self._coherence.allows(scope, epochs, needed)

    def note(self, request: bytes, target: Target) -> None:
        """Remember what a request asked for."""
        now_ns = int(self._clock.monotonic() * 1e9)
        note = _NOTE.pack(_KINDS.index(target.kind), target.slot, target.scope_id.bytes, target.key)
        self._requests.put(request, note, 0, 0, 0, 0, _NEVER_NS, now_ns)

    def look(self, kind: Kind, key: bytes, scope_id: UUID, slot: int) -> Answer | None:
        """A finished answer that is still good, or None."""
        scope_epoch, global_epoch = self._coherence.current(slot)
        now_ns = int(self._clock.monotonic() * 1e9)
        found = self._caches[kind].get_entry(key, scope_epoch, global_epoch, now_ns)
        if found is None:
            return None
        self._coherence.served(scope_id)
        state = self._coherence.floor(scope_id, Epochs(slot, scope_epoch, global_epoch)) if kind == "get" else None
        return Answer(found[0], found[1], "hot", scope_version=state)

    def keep(self, kind: Kind, key: bytes, scope_id: UUID, epochs: Epochs, answer: Answer) -> None:
        """Keep an answer whose snapshot was taken after `epochs` were read."""
        now_ns = int(self._clock.monotonic() * 1e9)
        deadline_ns = _NEVER_NS
        if answer.expires_at is not None:
            left_s = (answer.expires_at - self._clock.now()).total_seconds()
            deadline_ns = min(now_ns + int(left_s * 1e9), _NEVER_NS)
        if deadline_ns > now_ns and self._coherence.holds(epochs):
            self._coherence.copied(scope_id, epochs, answer.state)
            self._caches[kind].put(
                key, answer.body, epochs.slot, epochs.scope, epochs.every, answer.version, deadline_ns, now_ns
            )

    async def answer(
        self,
        kind: Kind,
        key: bytes,
        scope_id: UUID,
        compute: Callable[[Epochs], Awaitable[Answer]],
        *,
        needs_store: bool = True,
    ) -> Answer:
        """The kept answer, or the one that `compute` gives; equal questions of one epoch are computed once.

        `compute` gets the epochs that were read before anything else, and must take its snapshot after that. Without
        `needs_store` it can give an answer while the store is away.
        """
        epochs = self._coherence.epochs(scope_id)
        found = self.look(kind, key, scope_id, epochs.slot)
        if found is not None:
            return found
        flight = self._flights.get((key, epochs))
        if flight is None or not flight.open:
            if needs_store and (self._shared is None or kind != "search"):  # else it may be there, and needs no room
                self._require_room()
            flight = Flight(self._compute(kind, key, scope_id, epochs, compute))
            if len(self._flights) < _FLIGHTS_MAX:
                self._flights[key, epochs] = flight
                flight.task.add_done_callback(partial(self._landed, (key, epochs), flight))
        return await flight.join()

    def _landed(self, key: tuple[bytes, Epochs], flight: Flight[Answer], _task: asyncio.Task[Answer]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _compute(
        self,
        kind: Kind,
        key: bytes,
        scope_id: UUID,
        epochs: Epochs,
        compute: Callable[[Epochs], Awaitable[Answer]],
    ) -> Answer:
        shared = self._shared if kind == "search" else None
        answer = None if shared is None else await shared.look(key, scope_id, epochs)
        if answer is None:
            started = self._clock.monotonic()
            answer = await compute(epochs)
            if shared is not None and self._coherence.holds(epochs):
                shared.offer(key, scope_id, answer, self._clock.monotonic() - started)
        self.keep(kind, key, scope_id, epochs, answer)
        return answer

    def stats(self) -> dict[str, CacheStats]:
        """Counters of each cache."""
        return {**{kind: cache.stats() for kind, cache in self._caches.items()}, "requests": self._requests.stats()}

    def resize(self, sizes_bytes: Mapping[str, int], entries: int) -> bool:
        """Let each cache take so many bytes and entries; a bounded number of answers leaves at a call.

        Args:
            sizes_bytes: by kind, and of `requests`.
            entries: answers, or requests, of each at most.

        Returns:
            Whether all are as large as that; else another call goes on.
        """
        caches: dict[str, ByteCache] = {"requests": self._requests}
        caches |= dict(self._caches.items())
        done = [caches[name].resize(size, entries, _RELEASE_STEPS) for name, size in sizes_bytes.items()]
        return all(done)

    def ages(self) -> dict[str, CacheAges]:
        """How long each cache has held its entries."""
        now_ns = int(self._clock.monotonic() * 1e9)
        ages: dict[str, CacheAges] = {kind: cache.ages(now_ns) for kind, cache in self._caches.items()}
        return {**ages, "requests": self._requests.ages(now_ns)}

    @property
    def nbytes(self) -> int:
        """Bytes that all caches hold."""
        return sum(cache.stats().bytes for cache in self._all())

    def release(self, wanted_bytes: int) -> int:
        """Let expired, then cold answers go; a bounded number at a call. Returns the bytes that went."""
        now_ns = int(self._clock.monotonic() * 1e9)
        released = 0
        for cache in sorted(self._all(), key=lambda cache: cache.stats().bytes, reverse=True):
            if released < wanted_bytes:
                keep = max(0, cache.stats().bytes - (wanted_bytes - released))
                released += cache.shrink_to(keep, now_ns, _RELEASE_STEPS)
        return released

    def sweep(self) -> None:
        """Drop some of what has expired or is void; a bounded number at a call."""
        now_ns = int(self._clock.monotonic() * 1e9)
        for cache in self._caches.values():
            cache.sweep(now_ns, _SWEEP_STEPS, self._coherence.slots)
        self._requests.sweep(now_ns, _SWEEP_STEPS)

    def _all(self) -> tuple[ByteCache, ...]:
        return (*self._caches.values(), self._requests)

    def held(self, slot: int) -> int:
        """Answers for a scope's slot, good or void."""
        return sum(cache.count_slot(slot) for cache in self._caches.values())

    def forget(self, slot: int) -> int:
        """Drop the answers for a scope's slot, void ones too; returns how many."""
        return sum(cache.drop_slot(slot) for cache in self._caches.values())

    def clear(self) -> None:
        """Drop every answer of this worker."""
        for cache in self._all():
            cache.clear()
