"""The real clock: `ports.Clock`."""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["SystemClock"]


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        """See `ports.Clock.now`."""
        return datetime.now(UTC)

    monotonic = staticmethod(time.monotonic)
    """See `ports.Clock.monotonic`; every request asks for it several times."""
