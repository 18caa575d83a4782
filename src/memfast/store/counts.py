"""What a pool of connections counts."""

from __future__ import annotations

import math
from typing import NamedTuple

from memfast.kernels import Histogram

__all__ = ["Counts", "PoolMeters"]

_SLOW_ACQUIRE_S = 0.1
"""An acquisition that takes longer is logged, at most one a second."""


class PoolMeters(NamedTuple):
    """Where each use of a pool is counted: its wait for a connection in seconds, and how many were in use then."""

    waits: Histogram
    busy: Histogram


class Counts:
    """What happened since the pool was opened; each use is counted in `meters` too."""

    def __init__(self, meters: PoolMeters | None = None) -> None:
        self._meters = meters
        self.created = self.acquired = self.refused = 0
        self.acquire_s = self.acquire_s_max = 0.0
        self._logged_at = -math.inf

    def took(self, seconds: float, now: float, busy: int) -> bool:
        """An acquisition ended, and so many are in use; whether it is worth a line of the log."""
        self.acquired += 1
        self.acquire_s += seconds
        if self._meters is not None:
            self._meters.waits.observe(seconds)
            self._meters.busy.observe(busy)
        self.acquire_s_max = max(self.acquire_s_max, seconds)
        if seconds <= _SLOW_ACQUIRE_S or now < self._logged_at + 1.0:
            return False
        self._logged_at = now
        return True
