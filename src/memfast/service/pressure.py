"""Keeping a worker within its share of memory: copies leave before the machine has to choose a process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct

__all__ = ["Evictable", "Pressure", "PressureCounts"]

_log = logging.getLogger("memfast.pressure")

CLEAN_UP_SHARE = 0.80
"""From here on expired and cold copies leave in the background."""

EMERGENCY_SHARE = 0.95
"""From here on cold copies leave at once, down to `TARGET_SHARE`."""

TARGET_SHARE = 0.70
STEP_BYTES = 4 * 1024 * 1024
"""What one step lets go: a step takes well under 2 ms."""

STEPS_MAX = 4096
"""Steps of one emergency."""


class Evictable(Protocol):
    """A layer of copies."""

    @property
    def nbytes(self) -> int:
        """What it holds now."""
        ...

    def sweep(self) -> None:
        """Drop some of what has expired, in less than 2 ms."""
        ...

    def release(self, wanted_bytes: int) -> int:
        """Let expired, then cold entries go, in less than 2 ms; returns the bytes that went."""
        ...


class PressureCounts(Struct):
    """What happened since the start, and the last reading."""

    clean_ups: int = 0
    emergencies: int = 0
    released_bytes: int = 0
    resident_bytes: int = 0


class Pressure:
    """Watches the memory of one worker.

    Args:
        budget_bytes: the worker's share.
        resident: reads the bytes that the worker has resident.
        layers: what may be let go, largest first each time.
        give_back: returns freed memory to the system.
    """

    def __init__(
        self,
        budget_bytes: int,
        resident: Callable[[], int],
        layers: tuple[Evictable, ...],
        give_back: Callable[[], None],
    ) -> None:
        self.budget_bytes = budget_bytes
        self._resident = resident
        self._layers = layers
        self._give_back = give_back
        self.counts = PressureCounts()

    def level(self) -> Literal["calm", "high", "critical"]:
        """How full the share is now."""
        self.counts.resident_bytes = self._resident()
        if self.counts.resident_bytes >= EMERGENCY_SHARE * self.budget_bytes:
            return "critical"
        return "high" if self.counts.resident_bytes >= CLEAN_UP_SHARE * self.budget_bytes else "calm"

    async def relieve(self) -> None:
        """Look once, and let go what must go."""
        level = self.level()
        if level == "calm":
            return
        before = self.counts.resident_bytes
        if level == "high":
            self.counts.clean_ups += 1
            self._release(STEP_BYTES)
            await asyncio.to_thread(self._give_back)  # of a heap in pieces that takes milliseconds
            return
        self.counts.emergencies += 1
        excess = before - int(TARGET_SHARE * self.budget_bytes)
        for _ in range(STEPS_MAX):
            released = self._release(min(STEP_BYTES, excess))
            excess -= released
            if excess <= 0 or released == 0:
                break
            await asyncio.sleep(0)
        self._give_back()
        _log.warning(
            "memory pressure: %d of %d MiB were resident; now %d",
            before >> 20,
            self.budget_bytes >> 20,
            self._resident() >> 20,
        )

    async def watch(self, interval_s: float) -> None:
        """Relieve for ever."""
        while True:
            await asyncio.sleep(interval_s)
            try:
                for layer in self._layers:
                    layer.sweep()
                await self.relieve()
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("the watch over memory failed")

    def _release(self, wanted_bytes: int) -> int:
        released = 0
        for layer in sorted(self._layers, key=lambda layer: layer.nbytes, reverse=True):
            if released >= wanted_bytes:
                break
            released += layer.release(wanted_bytes - released)
        self.counts.released_bytes += released
        return released
