"""Cells that are counted in, and the stopwatch of a request: the twin of `_metrics.pyx`, and its type declaration.

A cell is a float64 of a mapping that other processes read. It has one writer, so nothing here is atomic but the store
of eight bytes: a reader may see a histogram's count without its sum.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from time import perf_counter
from typing import Any
from uuid import UUID

__all__ = ["BOUNDS_MAX", "STAGES_MAX", "Counter", "Histogram", "Trace"]

BOUNDS_MAX = 32
"""Bounds of a histogram, at most."""

STAGES_MAX = 8
"""Stages that a trace tells apart."""


class Counter:
    """One cell.

    Args:
        cells: float64, writable, one-dimensional, C-contiguous.
        place: which of them.

    Raises:
        IndexError: there is no such cell.
    """

    __slots__ = ("_cells", "_place")

    def __init__(self, cells: Any, place: int) -> None:
        self._cells: Any = memoryview(cells)
        self._place = require_cells(self._cells, place, 1)

    def add(self, amount: float = 1.0) -> None:
        """Add to it."""
        self._cells[self._place] += amount

    def set(self, value: float) -> None:
        """Replace it: for what may also fall."""
        self._cells[self._place] = value

    @property
    def value(self) -> float:
        """What it shows."""
        return float(self._cells[self._place])


class Histogram:
    """Cells in a row: one a bound for what was at most that and above the one before, one for the rest, and the sum.

    Args:
        cells: as `Counter`.
        place: the first of them.
        bounds: ascending, 1 to `BOUNDS_MAX`.

    Raises:
        IndexError: there are not as many cells.
        ValueError: the bounds are not as they must be.
    """

    __slots__ = ("_bounds", "_cells", "_place", "_sum")

    def __init__(self, cells: Any, place: int, bounds: Sequence[float]) -> None:
        self._cells: Any = memoryview(cells)
        self._bounds = require_bounds(bounds)
        self._place = require_cells(self._cells, place, len(self._bounds) + 2)
        self._sum = place + len(self._bounds) + 1

    def observe(self, value: float) -> None:
        """Count a value; what is below 0 or no number is left out."""
        if value >= 0:
            self._cells[self._place + bisect_left(self._bounds, value)] += 1
            self._cells[self._sum] += value


class Trace:
    """What one request is called, and where its time goes: each lap adds what passed since the one before to a stage.

    Args:
        request_id: as it stands in the answer.
        parent: the caller's `traceparent`, if it sent a valid one.

    Attributes:
        scope_id: whose memories it is about.
        degraded: legs that a search goes without.
        work: what the stages are of, e.g. a search; None where nobody counts them.
        whole: the trace of the request that this one is a part of; None where it is the request's own.
        span: for whoever makes a span of it.
    """

    __slots__ = (
        "_begun",
        "_last",
        "_parent",
        "_request_id",
        "_spent",
        "degraded",
        "scope_id",
        "span",
        "whole",
        "work",
    )

    def __init__(self, request_id: bytes, parent: bytes | None = None) -> None:
        self._request_id = request_id
        self._parent = parent
        self.scope_id: UUID | None = None
        self.degraded: Sequence[str] = ()
        self.work: str | None = None
        self.whole: Trace | None = None
        self.span: object = None
        self._spent = [-1.0] * STAGES_MAX
        self._begun = [-1.0] * STAGES_MAX
        self._last = perf_counter()

    @property
    def request_id(self) -> bytes:
        """As it stands in the answer."""
        return self._request_id

    @property
    def parent(self) -> bytes | None:
        """The caller's `traceparent`, if it sent a valid one."""
        return self._parent

    def start(self) -> None:
        """Begin a lap: what passed since the last one belongs to no stage."""
        self._last = perf_counter()

    def lap(self, stage: int) -> None:
        """End a lap, of a stage from 0 to `STAGES_MAX` - 1; of any other nothing is kept."""
        now = perf_counter()
        if 0 <= stage < STAGES_MAX:
            if self._spent[stage] < 0:
                self._begun[stage] = self._last
            self._spent[stage] = max(self._spent[stage], 0.0) + now - self._last
        self._last = now

    def add(self, stage: int, seconds: float, ago: float = 0.0) -> None:
        """Add to a stage what was measured beside the laps: where several things are done at once.

        Args:
            stage: from 0 to `STAGES_MAX` - 1; of any other nothing is kept.
            seconds: how long it took.
            ago: seconds since it ended.
        """
        if 0 <= stage < STAGES_MAX:
            if self._spent[stage] < 0:
                self._begun[stage] = perf_counter() - ago - seconds
            self._spent[stage] = max(self._spent[stage], 0.0) + seconds

    @property
    def spent(self) -> tuple[float, ...]:
        """Seconds by stage; -1 where there was no lap."""
        return tuple(self._spent)

    @property
    def begun(self) -> tuple[float, ...]:
        """When each stage began first, by `time.perf_counter`; -1 where there was no lap."""
        return tuple(self._begun)

    def publish(self, stages: tuple[Histogram | None, ...]) -> None:
        """Count each stage that had a lap in its histogram, where it has one."""
        for seconds, histogram in zip(self._spent, stages, strict=False):
            if histogram is not None:
                histogram.observe(seconds)


def require_cells(cells: memoryview, place: int, count: int) -> int:
    """The place, where there are so many cells of the right kind; else raise."""
    if cells.format != "d" or cells.ndim != 1 or cells.readonly or not cells.c_contiguous:
        raise ValueError("cells must be float64, writable, one-dimensional and C-contiguous")
    if not 0 <= place <= len(cells) - count:
        raise IndexError(f"cells {place} to {place + count - 1} are not all of 0 to {len(cells) - 1}")
    return place


def require_bounds(bounds: Sequence[float]) -> list[float]:
    """The bounds, where they are as they must be; else raise."""
    checked = [float(bound) for bound in bounds]
    if not 1 <= len(checked) <= BOUNDS_MAX or checked != sorted(set(checked)):
        raise ValueError(f"bounds must be 1 to {BOUNDS_MAX} ascending numbers; they are {checked}")
    return checked
