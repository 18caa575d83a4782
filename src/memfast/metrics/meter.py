"""What a worker counts with: the series of every family, by the values of their labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

from memfast.kernels import Counter, Histogram, Trace
from memfast.metrics.board import CELLS, RESERVED, Board, Row
from memfast.metrics.families import FAMILIES, LEGS, Family, Operation, operation_families
from memfast.metrics.tracing import STAGES, WRITE_STAGES, Work

__all__ = ["Layout", "Meter", "Mirror", "unread"]

_log = logging.getLogger("memfast.metrics")


class Layout:
    """Where the cells of every series are: the same in all workers of one version of the service.

    Raises:
        ValueError: a row has not so many cells.
    """

    def __init__(self, operations: Sequence[Operation] = ()) -> None:
        self.families = {family.name: family for family in (*operation_families(operations), *FAMILIES)}
        self._places: dict[str, dict[tuple[str, ...], int]] = {}
        place = RESERVED
        for family in self.families.values():
            own = self._places[family.name] = {}
            for series in family.series:
                own[series] = place
                place += family.cells
        if place > CELLS:
            raise ValueError(f"the metrics need {place} cells of a row, which has {CELLS}: raise board.CELLS")

    def places(self, name: str) -> dict[tuple[str, ...], int]:
        """The first cell of each series of a family, in their order."""
        return self._places[name]

    def place(self, name: str, labels: tuple[str, ...]) -> tuple[Family, int]:
        """The family, and the first cell of the series with these values.

        Raises:
            KeyError: there is no such series.
        """
        return self.families[name], self._places[name][labels]


class Mirror:
    """A series that follows counts which somebody else keeps, and which begin at 0 with every new keeper."""

    __slots__ = ("_counter", "_last")

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._last = 0.0

    def show(self, value: float) -> None:
        """It stands at this now. What is lower than before was begun anew."""
        self._counter.add(value - self._last if value >= self._last else value)
        self._last = value


class Meter:
    """The series of one worker.

    Args:
        board: where its row is; the worker's alone where all rows are taken.
        operations: the routes.
    """

    def __init__(self, board: Board, operations: Sequence[Operation] = ()) -> None:
        row = board.claim()
        if row is None:
            _log.warning("every row of the metrics is taken: this worker counts for itself alone")
            board.close()
            board = Board.private()
            row = board.claim()
            assert row is not None
        self.board = board
        self.row: Row = row
        self.layout = Layout(operations)
        self._stages = {
            Work.SEARCH: self._stage_histograms("memfast_search_stage_duration_seconds", STAGES),
            Work.WRITE: self._stage_histograms("memfast_write_stage_duration_seconds", WRITE_STAGES),
        }
        self._degraded = {leg: self.counter("memfast_degraded_searches", leg) for leg in LEGS}

    def ended(self, trace: Trace) -> None:
        """A search, or whatever it was, is over: count where its time went, and what it went without."""
        stages = None if trace.work is None else self._stages.get(trace.work)
        if stages is not None:
            trace.publish(stages)
        if trace.degraded:
            for leg in trace.degraded:
                self._degraded[leg].add()

    def _stage_histograms(self, name: str, own: Sequence[str]) -> tuple[Histogram | None, ...]:
        """By the numbers of the stages; None for those that the family does not have."""
        return tuple(self.histogram(name, stage) if stage in own else None for stage in STAGES)

    def counter(self, name: str, *labels: str) -> Counter:
        """The series of a counter or a gauge with these values of its labels, in their order.

        Raises:
            KeyError: it is not among the definitions.
        """
        return Counter(self.row.cells, self.layout.place(name, labels)[1])

    def histogram(self, name: str, *labels: str) -> Histogram:
        """The series of a histogram; as `counter`."""
        family, place = self.layout.place(name, labels)
        return Histogram(self.row.cells, place, family.bounds)

    def mirror(self, name: str, *labels: str) -> Mirror:
        """A series of a counter that follows another count; as `counter`."""
        return Mirror(self.counter(name, *labels))

    def cell_mirrors(self, name: str, *labels: str) -> list[Mirror]:
        """One for each cell of a histogram whose values somebody else counts: each bucket, what is above, the sum."""
        family, place = self.layout.place(name, labels)
        return [Mirror(Counter(self.row.cells, place + cell)) for cell in range(family.cells)]

    def close(self) -> None:
        """Give the row up."""
        self.board.close(self.row.number)


@cache
def unread() -> Meter:
    """A meter that nobody reads, for parts that run by themselves."""
    return Meter(Board.private())
