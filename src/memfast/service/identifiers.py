"""New ids: UUIDs of version 7 (RFC 9562), rising within a process."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from memfast.ports import Clock

__all__ = ["Identifiers"]

_COUNTER_BITS = 12 + 30  # rand_a and the head of rand_b count within a millisecond (RFC 9562, 6.2, method 1)
_TAIL_BITS = 32
_TAIL_MASK = (1 << _TAIL_BITS) - 1
_TAILS = 64  # drawn at once: asking the system for a few bits costs as much as the rest of an id


class Identifiers:
    """Draws ids in rising order, also when the wall clock stands still or steps back.

    Args:
        clock: gives the milliseconds.
        random_bits: n → a random integer of n bits, e.g. `secrets.randbits`.
    """

    def __init__(self, clock: Clock, random_bits: Callable[[int], int]) -> None:
        self._clock = clock
        self._random_bits = random_bits
        self._unix_ms = 0
        self._counter = 0
        self._tails: list[int] = []

    def next(self) -> UUID:
        """The next id, greater than every one before it."""
        unix_ms = int(self._clock.now().timestamp() * 1000)
        if unix_ms > self._unix_ms:
            self._unix_ms = unix_ms
            self._counter = self._random_bits(_COUNTER_BITS - 1)  # the top bit is free: room to count
        else:
            self._counter += 1
            if self._counter >> _COUNTER_BITS:
                self._unix_ms += 1
                self._counter = self._random_bits(_COUNTER_BITS - 1)
        high, low = divmod(self._counter, 1 << 30)
        value = self._unix_ms << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low << 32
        if not self._tails:
            drawn = self._random_bits(_TAILS * _TAIL_BITS)
            self._tails = [drawn >> place * _TAIL_BITS & _TAIL_MASK for place in range(_TAILS)]
        return UUID(int=value | self._tails.pop())
