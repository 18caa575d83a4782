"""The floor of a start: the same PostgreSQL from the same launcher, then an empty application on the same server.

python -m bench.harness.bare <data dir> <port>
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from granian import Granian
from granian.constants import Interfaces, Loops
from granian.log import LogLevels
from litestar import Litestar, get

from memfast.store.embedded import Cluster, DataDirLock

__all__ = ["load"]


@get("/v1/health/ready", sync_to_thread=False)
def ready() -> str:
    """Answer."""
    return "ready"


def load() -> Litestar:
    """The application of the worker."""
    return Litestar(route_handlers=[ready], openapi_config=None, logging_config=None)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _serve(port: int) -> None:
    server: Any = Granian(
        "bench.harness.bare",
        port=port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        websockets=False,
        log_level=LogLevels.warning,
    )
    server.serve(target_loader=load, wrap_loader=False)


def main(data_dir: Path, port: int) -> None:
    """Run until told to stop."""
    signal.signal(signal.SIGTERM, _interrupt)
    with DataDirLock.acquire(data_dir, 10.0):
        cluster = Cluster(data_dir)
        cluster.start()
        try:
            _serve(port)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
