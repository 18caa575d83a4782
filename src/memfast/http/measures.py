"""What the edge counts of its requests."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from memfast.http.exchange import Exchange
from memfast.http.routing import Route, Surface
from memfast.kernels import Histogram
from memfast.metrics import OTHER, REQUESTS, Meter, Operation
from memfast.service.answers import Kind

__all__ = ["Measures", "operations_of"]

_PARAMETER = re.compile(r"{\w+}")


def operations_of(routes: Sequence[Route], pages: Sequence[str], surfaces: Sequence[Surface]) -> list[Operation]:
    """Everything that is served, in the order of its numbers: another protocol is one operation."""
    served = [Operation(route.method, route.path, route.kind is not None) for route in routes]
    others = [Operation("any", surface.prefix) for surface in surfaces]
    return [*served, *(Operation("GET", page) for page in pages), *others]


class Measures:
    """Counts requests by their route, tier and status.

    Args:
        meter: the worker's.
        routes: what is served.
        pages: paths of what is served beside the routes.
        surfaces: other protocols.
    """

    def __init__(
        self, meter: Meter, routes: Sequence[Route], pages: Sequence[str], surfaces: Sequence[Surface]
    ) -> None:
        operations = [*operations_of(routes, pages, surfaces), OTHER]
        self._meter = meter
        self._abandoned = meter.counter("memfast_requests_abandoned")
        self._series = [_series(meter, operation) for operation in operations]
        self._hot = [series.get("hot", series["none"]) for series in self._series]
        self._direct = {
            (each.method, each.route): number for number, each in enumerate(operations) if "{" not in each.route
        }
        self._other = len(operations) - 1
        self._surfaces = tuple(surface.prefix for surface in surfaces)
        self._patterns = [
            (each.method, re.compile(_PARAMETER.sub("[^/]+", each.route)), number)
            for number, each in enumerate(operations)
            if "{" in each.route
        ]
        self._by_kind: dict[Kind, int] = {
            route.kind: number for number, route in enumerate(routes) if route.kind is not None and "{" in route.path
        }

    def hot(self, scope: Mapping[str, Any], kind: Kind, started: float) -> None:
        """A request was answered by the bytes of a finished answer, of a kind that only one route with parameters has.

        Args:
            scope: the request.
            kind: of the answer.
            started: seconds of `time.perf_counter`, as everywhere here.
        """
        number = self._direct.get((scope["method"], scope["path"]))
        if number is None:
            number = self._direct.get(("any", scope["path"]))
        self._hot[self._by_kind[kind] if number is None else number].observe(perf_counter() - started)

    def ended(self, exchange: Exchange, started: float) -> None:
        """A request has its answer."""
        took_s = perf_counter() - started
        status = exchange.status
        number = exchange.operation
        if number is None:
            number = exchange.operation = self._number(exchange.method, exchange.path)
        series = self._series[number]
        series.get(exchange.tier if status < 400 else _status(status), series["none"]).observe(took_s)
        self._meter.ended(exchange.trace)

    def refused(self, scope: Mapping[str, Any], exchange: Exchange | None, status: int, started: float) -> None:
        """A request was refused, maybe before it was read."""
        if exchange is not None:
            exchange.status = status
            self.ended(exchange, started)
            return
        number = self._number(scope["method"], scope["path"])
        self._series[number][_status(status)].observe(perf_counter() - started)

    def abandoned(self) -> None:
        """The client left before there was an answer."""
        self._abandoned.add()

    def _number(self, method: str, path: str) -> int:
        number = self._direct.get((method, path))
        if number is None and path.startswith(self._surfaces):
            return self._direct["any", next(prefix for prefix in self._surfaces if path.startswith(prefix))]
        if number is None:
            found = (each for own, pattern, each in self._patterns if own == method and pattern.fullmatch(path))
            number = next(found, self._other)
        return number


def _series(meter: Meter, operation: Operation) -> dict[str, Histogram]:
    """Of one route, by tier or, for errors, by status."""
    found = {}
    for labels in meter.layout.places(REQUESTS):
        if labels[:2] == (operation.method, operation.route):
            found[labels[2] if labels[3] == "2xx" else labels[3]] = meter.histogram(REQUESTS, *labels)
    return found


def _status(status: int) -> str:
    return "none" if status < 400 else "4xx" if status < 500 else "5xx"
