"""The service with a gigabyte that nobody needs and a thread that never rests, to show that gates catch both.

python -m bench.harness.heavy serve …
"""

from __future__ import annotations

import sys
import threading
import time

from memfast.cli import main

__all__: list[str] = []

_BALLAST_BYTES = 1 << 30
_PERIOD_S = 0.1
_BUSY_SHARE = 0.05


def _fidget() -> None:
    while True:
        until = time.perf_counter() + _BUSY_SHARE * _PERIOD_S
        while time.perf_counter() < until:
            pass
        time.sleep(_PERIOD_S)


if __name__ == "__main__":
    ballast = bytearray(b"\1") * _BALLAST_BYTES
    threading.Thread(target=_fidget, daemon=True).start()
    sys.exit(main(sys.argv[1:]))
