"""Settings that are changed while the service runs: those that bound copies, of which any may go at any time."""

from __future__ import annotations

import asyncio
import logging
import math
import mmap
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from memfast.config import Config, changed

__all__ = ["LIVE", "Orders", "Tuning"]

_log = logging.getLogger("memfast.tuning")

LIVE = (
    "cache.memory_mb",
    "cache.search_share",
    "cache.list_share",
    "cache.get_share",
    "cache.entries",
    "cache.embedding_entries",
    "index.memory_mb",
)
"""What can be changed without a restart. Each bounds copies: another value costs time at worst, and never an answer.
`memory.budget_mb`, which bounds all of them together, is watched as before."""

_PLACES = {key: place for place, key in enumerate(LIVE)}
_SHARES = frozenset(key for key in LIVE if key.endswith("_share"))
_FILE_BYTES = 4096
WATCH_S = 0.25
"""Time between a worker's looks at what was ordered, in seconds."""


class Orders:
    """Values of `LIVE` that were ordered since the service started: a file that its workers map, and gone with it.

    A float64 cell for each, NaN where nothing was ordered. Each is written whole; who reads while several are written
    reads the rest at the next look.
    """

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self._cells = memoryview(mapping).cast("d")

    @classmethod
    def create(cls, path: Path) -> None:
        """Make the file, without an order.

        Raises:
            OSError: there is one, or no room.
        """
        with path.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)
        orders = cls.open(path)
        orders.write(dict.fromkeys(LIVE))
        orders.close()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a file that `create` made."""
        with Path(path).open("r+b") as file:
            return cls(mmap.mmap(file.fileno(), _FILE_BYTES))

    def read(self) -> dict[str, float]:
        """What was ordered, by key."""
        return {key: value for key, value in zip(LIVE, self._cells, strict=False) if not math.isnan(value)}

    def write(self, values: Mapping[str, float | None]) -> None:
        """Order values; None takes an order back.

        Raises:
            KeyError: a setting cannot be ordered.
        """
        places = {_PLACES[key]: math.nan if value is None else value for key, value in values.items()}
        for place, value in places.items():
            self._cells[place] = value

    def close(self) -> None:
        """Look at it no more."""
        self._cells.release()
        self._mapping.close()


class Tuning:
    """Makes a worker's copies as large as was ordered.

    Args:
        orders: of all workers.
        config: what the worker was started with.
        resize: makes them as large as a configuration says, in bounded steps; False where it has to be called again.
    """

    def __init__(self, orders: Orders, config: Config, resize: Callable[[Config], bool]) -> None:
        self._orders = orders
        self._configured = config
        self._resize = resize
        self._seen: dict[str, float] = {}
        self._done = True
        self.config = config
        """What is aimed at now."""

    def order(self, values: Mapping[str, float | None]) -> None:
        """Let every worker use these values from now on, until the service stops; None: what was configured.

        Raises:
            ConfigError: a value will not do, alone or with the others; nothing is changed then.
        """
        ordered: dict[str, float | None] = {**self._orders.read(), **values}
        self._with({key: value for key, value in ordered.items() if value is not None})
        self._orders.write(values)
        self.look()

    def values(self) -> dict[str, tuple[float, float]]:
        """Each of `LIVE`: what is used now, and what was configured."""
        return {key: (_value(self.config, key), _value(self._configured, key)) for key in LIVE}

    def look(self) -> None:
        """Take up what was ordered, as far as one step comes."""
        ordered = self._orders.read()
        if ordered != self._seen:
            self.config, self._seen, self._done = self._with(ordered), ordered, False
            _log.info("from now on: %s", ", ".join(f"{key} = {value:g}" for key, value in ordered.items()) or "as set")
        if not self._done:
            self._done = self._resize(self.config)

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            try:
                self.look()
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("what was ordered could not be taken up")
            await asyncio.sleep(WATCH_S)

    def _with(self, ordered: Mapping[str, float]) -> Config:
        values: dict[str, Any] = {key: value if key in _SHARES else int(value) for key, value in ordered.items()}
        return changed(self._configured, values, "the order")


def _value(config: Config, key: str) -> float:
    section, _, name = key.partition(".")
    return float(getattr(getattr(config, section), name))
