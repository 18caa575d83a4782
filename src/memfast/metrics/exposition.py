"""The cells of all workers as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from prometheus_client import openmetrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from memfast.metrics.board import Board
from memfast.metrics.families import REQUESTS, Family
from memfast.metrics.meter import Layout

__all__ = ["OPENMETRICS", "PLAIN", "BoardCollector", "render"]

PLAIN = CONTENT_TYPE_PLAIN_0_0_4


class BoardCollector(Collector):
    """Reads a board with each scrape.

    Args:
        board: the cells.
        layout: where they are.
        now_s: the clock of `Board.beat`.
        about: labels of the one series `memfast_build_info`.
    """

    def __init__(self, board: Board, layout: Layout, now_s: Callable[[], float], about: Mapping[str, str]) -> None:
        self._board = board
        self._layout = layout
        self._now_s = now_s
        self._about = about

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        info = GaugeMetricFamily(
            "memfast_build_info", "Always 1; what runs stands in the labels.", labels=[*self._about]
        )
        info.add_metric([*self._about.values()], 1.0)
        yield info
        totals = self._board.totals()
        alive = self._board.alive(self._now_s())
        living = self._board.rows[alive].copy()
        for family in self._layout.families.values():
            places = self._layout.places(family.name)
            if family.kind == "counter":
                yield _counter(family, places, totals)
            elif family.kind == "histogram":
                yield _histogram(family, places, totals)
            elif family.name == "memfast_workers":
                yield GaugeMetricFamily(family.name, family.text, value=len(alive))
            else:
                yield _gauge(family, places, living, alive)


def render(collector: BoardCollector, accept: str) -> tuple[bytes, str]:
    """The text of a scrape and its content type: OpenMetrics for whoever takes it, else Prometheus's own."""
    if "application/openmetrics-text" in accept:
        return openmetrics.exposition.generate_latest(collector), OPENMETRICS  # type: ignore[no-untyped-call]  # the library's
    return generate_latest(collector), PLAIN


def _counter(family: Family, places: Mapping[tuple[str, ...], int], totals: NDArray[np.float64]) -> Metric:
    metric = CounterMetricFamily(family.name, family.text, labels=family.labels)
    for labels, place in places.items():
        metric.add_metric(labels, float(totals[place]))
    return metric


def _gauge(
    family: Family, places: Mapping[tuple[str, ...], int], living: NDArray[np.float64], alive: list[int]
) -> Metric:
    metric = GaugeMetricFamily(
        family.name, family.text, labels=(*family.labels, "worker") if family.over == "worker" else family.labels
    )
    for labels, place in places.items():
        values = living[:, place].tolist()
        if family.over == "worker":
            for worker, value in zip(alive, values, strict=True):
                metric.add_metric((*labels, str(worker)), value)
        else:
            metric.add_metric(labels, max(values, default=0.0) if family.over == "max" else sum(values))
    return metric


def _histogram(family: Family, places: Mapping[tuple[str, ...], int], totals: NDArray[np.float64]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.text, labels=family.labels)
    bounds = [*map(floatToGoString, family.bounds), "+Inf"]
    for labels, place in places.items():
        *counts, total = totals[place : place + family.cells].tolist()
        if family.name == REQUESTS and not any(counts):  # a route that nobody asks would be most of the text
            continue
        metric.add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), sum_value=total)
    return metric
