"""The service as it must not run: what it acknowledges need not stand. The harness must find losses in it.

    python -m bench.durability.planted <synchronous_commit | fsync | outcome> serve …

The service has no such switches and refuses a server that does. So for the first two the embedded server is started
with the setting off, and what the service is told of it is untrue. With `outcome` a service takes every COMMIT whose
answer it did not get for done.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import asyncpg

from memfast.cli import main
from memfast.store import database
from memfast.store.commit import Commit
from memfast.store.embedded import cluster

__all__ = ["Unsafe"]


@dataclass(frozen=True)
class Unsafe:
    """Which promise is broken."""

    setting: Literal["synchronous_commit", "fsync", "outcome"]

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
    start, connect, create_pool = subprocess.Popen.__init__, asyncpg.connect, asyncpg.create_pool
    inspect = database.inspect_server

    def unsafe_start(self: Any, words: Any, *more: Any, **options: Any) -> None:
        if not isinstance(words, str) and "fsync=on" in words:  # the server itself
            words = [f"{setting}=off" if word == f"{setting}=on" else word for word in words]
            words += ["-c", "wal_writer_delay=10s"]  # who does not wait for the log finds it long unwritten
        start(self, words, *more, **options)

    def unsafe(opens: Callable[..., Any]) -> Callable[..., Any]:
        def opened(*arguments: Any, **options: Any) -> Any:
            settings = options.get("server_settings", {})
            if setting in settings:
                options["server_settings"] = {**settings, setting: "off"}
            return opens(*arguments, **options)

        return opened

    async def credulous(connection: Any) -> Any:
        return await inspect(_Told(connection))

    async def done(_self: Any, _cause: BaseException) -> None: ...

    subprocess.Popen.__init__ = unsafe_start  # type: ignore[method-assign]
    asyncpg.connect, asyncpg.create_pool = unsafe(connect), unsafe(create_pool)
    database.inspect_server = credulous
    cluster._DURABLE.clear()
    if setting == "outcome":
        Commit.resolve = done  # type: ignore[method-assign]


if __name__ == "__main__":
    _plant(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
