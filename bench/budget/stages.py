"""Where the time of searches goes inside the service, by its own metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from bench.harness.load import connections, encode
from bench.harness.turns import ask
from memfast.metrics import STAGES

__all__ = ["MEASURES", "Histogram", "StageRow", "scraped", "stage_rows"]

MEASURES = ("mean", "p50", "p95", "p99")
_FAMILY = "memfast_search_stage_duration_seconds"


@dataclass(frozen=True)
class Histogram:
    """Values by bucket: upper bounds, ascending and the last one infinite, and how many values were at most so much."""

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()
    total: float = 0.0

    def since(self, before: Histogram) -> Histogram:
        """What came after `before` was read."""
        counts = zip(self.counts, before.counts or (0.0,) * len(self.counts), strict=True)
        return Histogram(self.bounds, tuple(now - then for now, then in counts), self.total - before.total)

    def told(self, measure: str) -> float | None:
        """The mean, or a percentile as Prometheus estimates it: evenly spread within a bucket. None without values."""
        count = self.counts[-1] if self.counts else 0
        if not count:
            return None
        if measure == "mean":
            return self.total / count
        wanted = count * float(measure[1:]) / 100
        lower, below = 0.0, 0.0
        for bound, up_to in zip(self.bounds[:-1], self.counts, strict=False):
            if up_to >= wanted:
                return lower + (bound - lower) * (wanted - below) / (up_to - below)
            lower, below = bound, up_to
        return lower


@dataclass(frozen=True)
class StageRow:
    """One measure of a search for one client: microseconds by stage, and of the whole request as the client saw it."""

    search: str
    measure: str
    stages_us: tuple[float | None, ...]
    whole_us: float


async def scraped(address: tuple[str, int]) -> dict[str, Histogram]:
    """The stages' histograms of a service, by name."""
    async with connections(address, 1) as (connection,):
        text = (await ask(connection, encode("GET", "/metrics"))).decode()
    buckets: dict[str, dict[float, float]] = defaultdict(dict)
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples if family.name == _FAMILY else ():
            if sample.name.endswith("_bucket"):
                buckets[sample.labels["stage"]][float(sample.labels["le"])] = sample.value
            elif sample.name.endswith("_sum"):
                sums[sample.labels["stage"]] = sample.value
    return {
        stage: Histogram(tuple(sorted(found)), tuple(found[bound] for bound in sorted(found)), sums[stage])
        for stage, found in buckets.items()
    }


def stage_rows(
    search: str, before: Mapping[str, Histogram], after: Mapping[str, Histogram], whole_us: Mapping[str, float]
) -> list[StageRow]:
    """A row for each measure of what happened between two readings."""
    spent = {stage: after[stage].since(before[stage]) for stage in STAGES}
    rows = []
    for measure in MEASURES:
        told = [spent[stage].told(measure) for stage in STAGES]
        stages_us = tuple(None if value is None else value * 1e6 for value in told)
        rows.append(StageRow(search, measure, stages_us, whole_us[measure]))
    return rows
