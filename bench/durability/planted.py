"""The service as it must not run: what is acknowledged need not be on disk. The harness must find losses in it.

    python -m bench.durability.planted <synchronous_commit | fsync> serve …

The service has no such switches and refuses a server that does; so the embedded server is started with the setting
off, and what the service is told of it is untrue.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

from memfast.cli import main
from memfast.store import database, pool
from memfast.store.embedded import cluster

__all__ = ["Unsafe"]


@dataclass(frozen=True)
class Unsafe:
    """Which promise PostgreSQL breaks."""

    setting: Literal["synchronous_commit", "fsync"]

    def program(self) -> list[str]:
        """The module that runs such a service, and its first argument."""
        return ["bench.durability.planted", self.setting]


class _Told:
    """A connection to a server that says of itself what is wanted."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetchrow(self, statement: str) -> dict[str, Any]:
        return {**await self._connection.fetchrow(statement), "fsync": "on"}


def _plant(setting: str) -> None:
    """Workers are forked from this process, and inherit what is changed."""
    start, settings, inspect = subprocess.Popen.__init__, pool._session_settings, pool.inspect_server

    def unsafe_start(self: Any, words: Any, *more: Any, **options: Any) -> None:
        if not isinstance(words, str) and f"{setting}=on" in words:
            words = [f"{setting}=off" if word == f"{setting}=on" else word for word in words]
        start(self, words, *more, **options)

    def unsafe_settings(command_timeout_s: float) -> dict[str, str]:
        return {**settings(command_timeout_s), **({setting: "off"} if setting == "synchronous_commit" else {})}

    async def credulous(connection: Any) -> Any:
        return await inspect(_Told(connection))

    subprocess.Popen.__init__ = unsafe_start  # type: ignore[method-assign]
    pool._session_settings = unsafe_settings
    database.inspect_server = credulous
    cluster._DURABLE.clear()


if __name__ == "__main__":
    _plant(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
