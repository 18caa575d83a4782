"""What a pool of connections counts."""

from __future__ import annotations

import math

from memfast.kernels import Histogram

__all__ = ["Counts"]

_SLOW_ACQUIRE_S = 0.1
"""An acquisition that takes longer is logged, at most one a second."""


class Counts:
    """What happened since the pool was opened; each wait for a connection is counted in `waits` too."""

    def __init__(self, waits: Histogram | None = None) -> None:
        self._waits = waits
        self.created = self.acquired = self.refused = 0
        self.acquire_s = self.acquire_s_max = 0.0
        self._logged_at = -math.inf

    def took(self, seconds: float, now: float) -> bool:
        """An acquisition ended; whether it is worth a line of the log."""
        self.acquired += 1
        self.acquire_s += seconds
        if self._waits is not None:
            self._waits.observe(seconds)
        self.acquire_s_max = max(self.acquire_s_max, seconds)
        if seconds <= _SLOW_ACQUIRE_S or now < self._logged_at + 1.0:
            return False
        self._logged_at = now
        return True
