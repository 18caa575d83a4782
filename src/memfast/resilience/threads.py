"""What a thread may do for itself. Linux."""

from __future__ import annotations

import contextlib
import os
import threading

__all__ = ["lower_priority"]

NICE = 10


def lower_priority() -> None:
    """Let the calling thread give way to all others; where that is not allowed, it does not."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
