"""What the edge counts of its requests, and what it logs of slow ones."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from memfast.config import LogConfig
from memfast.http.exchange import Exchange
from memfast.http.routing import Route, Surface
from memfast.kernels import Counter, Histogram, Trace
from memfast.metrics import OTHER, REQUESTS, STAGES, Meter, Operation
from memfast.metrics.families import SLOW
from memfast.metrics.tracing import WRITE_STAGES, trace_id
from memfast.service.answers import Kind

__all__ = ["Measures", "operations_of"]

_log = logging.getLogger("memfast.slow")

_PARAMETER = re.compile(r"{\w+}")


def operations_of(routes: Sequence[Route], pages: Sequence[str], surfaces: Sequence[Surface]) -> list[Operation]:
    """Everything that is served, in the order of its numbers: another protocol is one operation."""
    served = [Operation(route.method, route.path, route.kind is not None, _stages_of(route)) for route in routes]
    others = [Operation("any", surface.prefix, stages=STAGES) for surface in surfaces]
    return [*served, *(Operation("GET", page) for page in pages), *others]


def _stages_of(route: Route) -> tuple[str, ...]:
    if route.group == "search":
        return STAGES
    if route.streams:  # is never slow
        return ()
    return ("sql",) if route.method == "GET" or route.reads else WRITE_STAGES


class Measures:
    """Counts requests by their route, tier and status.

    Args:
        meter: the worker's.
        routes: what is served.
        pages: paths of what is served beside the routes.
        surfaces: other protocols.
        log: what is slow.
    """

    def __init__(
        self, meter: Meter, routes: Sequence[Route], pages: Sequence[str], surfaces: Sequence[Surface], log: LogConfig
    ) -> None:
        self._operations = operations = [*operations_of(routes, pages, surfaces), OTHER]
        self._meter = meter
        self._slow = [_slow(meter, operation) for operation in operations]
        self._slow_s = [log.slow_ms / 1000] * len(operations)
        for number, route in enumerate(routes):
            if route.streams:
                self._slow_s[number] = math.inf
            elif route.group == "search":
                self._slow_s[number] = log.slow_search_ms / 1000
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

    def hot(self, scope: Mapping[str, Any], kind: Kind, request_id: bytes, started: float) -> int:
        """A request was answered by the bytes of a finished answer, of a kind that only one route with parameters has.

        Args:
            scope: the request.
            kind: of the answer.
            request_id: of the request.
            started: seconds of `time.perf_counter`, as everywhere here.

        Returns:
            The number of its operation, as everywhere here.
        """
        took_s = perf_counter() - started
        number = self._direct.get((scope["method"], scope["path"]))
        if number is None:
            number = self._direct.get(("any", scope["path"]))
        if number is None:
            number = self._by_kind[kind]
        self._hot[number].observe(took_s)
        if took_s >= self._slow_s[number]:
            self._tell(number, took_s, {"status": 200, "tier": "hot", "request_id": request_id.decode()})
        return number

    def ended(self, exchange: Exchange, started: float) -> int:
        """A request has its answer."""
        took_s = perf_counter() - started
        status, number = exchange.status, exchange.operation
        if number is None:
            number = exchange.operation = self._number(exchange.method, exchange.path)
        series = self._series[number]
        (series.get(exchange.tier if status < 400 else _status(status)) or series["none"]).observe(took_s)
        self._meter.ended(exchange.trace)
        if took_s >= self._slow_s[number]:
            self._tell(number, took_s, _about(exchange), _longest(exchange.trace))
        return number

    def refused(
        self, scope: Mapping[str, Any], exchange: Exchange | None, _named: Trace, status: int, started: float
    ) -> int:
        """A request was refused, maybe before it was read: then only its trace says what it is called."""
        if exchange is not None:
            exchange.status = status
            return self.ended(exchange, started)
        number = self._number(scope["method"], scope["path"])
        self._series[number][_status(status)].observe(perf_counter() - started)
        return number

    def abandoned(self, _scope: Mapping[str, Any], _exchange: Exchange | None, _started: float) -> None:
        """The client left before there was an answer."""
        self._abandoned.add()

    def _tell(self, number: int, took_s: float, about: dict[str, Any], stage: str = "none") -> None:
        """An operation was slow: one line of the log, which names nobody and says nothing of what memories say."""
        (self._slow[number].get(stage) or self._slow[number]["none"]).add()
        operation = self._operations[number]
        name = f"{operation.method} {operation.route}"
        fields = {"operation": name, "took_ms": round(took_s * 1000, 3), **about}
        _log.warning("%s took %.0f ms", name, took_s * 1000, extra={"fields": fields})

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


def _slow(meter: Meter, operation: Operation) -> dict[str, Counter]:
    """Of one route, by the stage that took longest."""
    own = (operation.method, operation.route)
    return {labels[2]: meter.counter(SLOW, *labels) for labels in meter.layout.places(SLOW) if labels[:2] == own}


def _longest(trace: Trace) -> str:
    """The stage that took most of the time."""
    spent = trace.spent[: len(STAGES)]
    most = max(spent)
    return "none" if most < 0 else STAGES[spent.index(most)]


def _about(exchange: Exchange) -> dict[str, Any]:
    """What a line of the log says of a request: the user as the keyed hash that the database knows."""
    trace = exchange.trace
    about: dict[str, Any] = {"status": exchange.status, "tier": exchange.tier, "request_id": trace.request_id.decode()}
    if trace.parent is not None:
        about["trace_id"] = trace_id(trace.parent)
    if trace.scope_id is not None:
        about["scope"] = trace.scope_id.hex
    if exchange.version is not None:
        about["version"] = exchange.version
    if trace.degraded:
        about["degraded"] = list(trace.degraded)
    stages = {name: round(spent * 1000, 3) for name, spent in zip(STAGES, trace.spent, strict=True) if spent >= 0}
    return about | ({"stages_ms": stages} if stages else {})


def _status(status: int) -> str:
    return "none" if status < 400 else "4xx" if status < 500 else "5xx"
