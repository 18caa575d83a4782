"""The Grafana dashboards, as data and the few lines that make JSON of it.

    python ops/dashboards.py [FOLDER]

writes them into `ops/grafana/dashboards`, or into the folder. What is committed there is what this makes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders.common import VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT = 8, 8


class Query(NamedTuple):
    """An expression and how its series are called; `$of` in it stands for the services that were chosen."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """A chart: its title, what it says, its unit in Grafana's words, and its series."""

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]


def rate(metric: str, by: str, labels: str = "", legend: str = "") -> Query:
    """A counter's rise a second, summed."""
    return Query(f"sum by ({by}) (rate({metric}{{$of{labels}}}[$__rate_interval]))", legend or f"{{{{{by}}}}}")


def gauge(metric: str, by: str, labels: str = "", legend: str = "") -> Query:
    """A gauge, summed."""
    return Query(f"sum by ({by}) ({metric}{{$of{labels}}})", legend or f"{{{{{by}}}}}")


def quantiles(histogram: str, labels: str = "") -> tuple[Query, ...]:
    """The median, and what one in twenty and one in a hundred exceed."""
    return tuple(quantile(share, histogram, "", labels, f"p{share * 100:.0f}") for share in (0.5, 0.95, 0.99))


def quantile(share: float, histogram: str, by: str, labels: str = "", legend: str = "") -> Query:
    """A quantile of a histogram, by a label or of all."""
    groups = f"le, {by}" if by else "le"
    inner = f"sum by ({groups}) (rate({histogram}_bucket{{$of{labels}}}[$__rate_interval]))"
    return Query(f"histogram_quantile({share}, {inner})", legend or f"{{{{{by}}}}}")


def share(part: str, whole: str, by: str, legend: str = "") -> Query:
    """A gauge divided by another, each summed."""
    return Query(f"{gauge(part, by).expression} / {gauge(whole, by).expression}", legend or f"{{{{{by}}}}}")


def hit_rate() -> Query:
    """Look-ups of each cache that found something, of all."""
    hits, misses = (rate(f"memfast_cache_{what}_total", "layer").expression for what in ("hits", "misses"))
    return Query(f"{hits} / ({hits} + {misses})", "{{layer}}")


REQUESTS = "memfast_request_duration_seconds"
SLOW = rate("memfast_slow_operations_total", "route, stage").expression
NONE = 'label_replace(vector(0), "route", "none", "", "")'
"""One series, so that a chart of what is rare says that there is none."""
SEARCHES = ', route="/v1/search", status="2xx"'

OVERVIEW: dict[str, tuple[Panel, ...]] = {
    "Requests": (
        Panel("Requests", "By route.", "reqps", (rate(f"{REQUESTS}_count", "route"),)),
        Panel("Time of requests", "Of those that succeeded.", "s", quantiles(REQUESTS, ', status="2xx"')),
        Panel("Errors", "4xx are the clients', 5xx the service's.", "reqps", (rate(f"{REQUESTS}_count", "status"),)),
        Panel(
            "Slow operations",
            "By route and the stage that took longest; the log has a line for each.",
            "reqps",
            (Query(f"{SLOW} > 0 or on () {NONE}", "{{route}} {{stage}}"),),
        ),
    ),
    "Searches": (
        Panel("Searches", "By what answered them.", "reqps", (rate(f"{REQUESTS}_count", "tier", SEARCHES),)),
        Panel("Time of searches", "", "s", quantiles(REQUESTS, SEARCHES)),
        Panel("Time by tier", "95 of 100 are faster.", "s", (quantile(0.95, REQUESTS, "tier", SEARCHES),)),
        Panel("Hits", "Share of look-ups that found something good.", "percentunit", (hit_rate(),)),
        Panel(
            "Time by stage",
            "95 of 100 are faster. Answers that were finished have no stages.",
            "s",
            (quantile(0.95, "memfast_search_stage_duration_seconds", "stage"),),
        ),
        Panel("Without a leg", "Searches that lack one.", "reqps", (rate("memfast_degraded_searches_total", "leg"),)),
    ),
    "Writes": (
        Panel("Changes", "By what became of them.", "wps", (rate("memfast_writes_total", "result"),)),
        Panel("Wait for a transaction", "", "s", quantiles("memfast_write_wait_seconds")),
        Panel(
            "Time by stage",
            "95 of 100 are faster; sql is the transaction.",
            "s",
            (quantile(0.95, "memfast_write_stage_duration_seconds", "stage"),),
        ),
        Panel("Changes of a transaction", "", "short", quantiles("memfast_flush_changes")),
    ),
    "How it stands": (
        Panel("Mode", "Workers in each.", "short", (gauge("memfast_mode", "mode"),)),
        Panel(
            "Breakers",
            "Workers whose breaker is in each state.",
            "short",
            (gauge("memfast_breaker_state", "breaker, state", legend="{{breaker}} {{state}}"),),
        ),
        Panel("Workers", "", "short", (Query("memfast_workers{$of}", "{{instance}}"),)),
    ),
}

INSIDE: dict[str, tuple[Panel, ...]] = {
    "Caches": (
        Panel("Entries", "", "short", (gauge("memfast_cache_entries", "layer"),)),
        Panel("Memory", "", "bytes", (gauge("memfast_cache_bytes", "layer"),)),
        Panel(
            "Mean age of entries",
            "From when they were kept.",
            "s",
            (
                share("memfast_cache_age_seconds", "memfast_cache_entries", "layer"),
                share("memfast_warm_age_seconds", "memfast_warm_users", "instance", "users in memory"),
            ),
        ),
        Panel(
            "Oldest entries",
            "",
            "s",
            (
                Query("max by (layer) (memfast_cache_oldest_seconds{$of})", "{{layer}}"),
                Query("max(memfast_warm_oldest_seconds{$of})", "users in memory"),
            ),
        ),
        Panel(
            "Entries that left",
            "For want of room, because of their age, because their user was written to.",
            "ops",
            tuple(
                rate(f"memfast_cache_{why}_total", "layer", legend=f"{{{{layer}}}} {why}")
                for why in ("evictions", "expirations", "invalidations")
            ),
        ),
    ),
    "Warm index": (
        Panel("Users in memory", "", "short", (gauge("memfast_warm_users", "instance"),)),
        Panel("Memory", "", "bytes", (gauge("memfast_warm_bytes", "instance"),)),
        Panel(
            "Work",
            "Loads, deltas and rebuilds; evictions in between mean that index.memory_mb is small.",
            "ops",
            (
                rate("memfast_warm_loads_total", "result", legend="load {{result}}"),
                rate("memfast_warm_deltas_total", "instance", legend="deltas"),
                rate("memfast_warm_rebuilds_total", "instance", legend="rebuilds"),
                rate("memfast_warm_evictions_total", "instance", legend="evictions"),
            ),
        ),
    ),
    "PostgreSQL": (
        Panel(
            "Connections",
            "",
            "short",
            (
                gauge("memfast_pool_connections", "pool, state", legend="{{pool}} {{state}}"),
                gauge("memfast_pool_limit_connections", "pool", legend="{{pool}} limit"),
            ),
        ),
        Panel("Wait for a connection", "", "s", quantiles("memfast_pool_acquire_duration_seconds")),
        Panel(
            "Waiting, refused, sent again",
            "",
            "short",
            (
                gauge("memfast_pool_waiting", "pool", legend="{{pool}} waiting"),
                rate("memfast_pool_refused_total", "pool", legend="{{pool}} refused a second"),
                rate("memfast_store_retries_total", "instance", legend="reads sent again a second"),
            ),
        ),
    ),
    "Embedding": (
        Panel("Time of a call", "", "s", quantiles("memfast_embedding_duration_seconds")),
        Panel("Texts of a call", "", "short", quantiles("memfast_embedding_batch_texts")),
        Panel("Failures", "", "ops", (rate("memfast_embedding_failures_total", "instance"),)),
    ),
    "Queues": (
        Panel("Changes that wait", "", "short", (gauge("memfast_write_queue_changes", "priority"),)),
        Panel(
            "Background",
            "",
            "short",
            (
                gauge("memfast_background_queue_tasks", "instance", legend="waiting"),
                gauge("memfast_background_running_tasks", "instance", legend="running"),
            ),
        ),
        Panel("Ends of background tasks", "", "ops", (rate("memfast_background_tasks_total", "result"),)),
        Panel("Steps that wait for the graph", "", "short", (gauge("memfast_outbox_steps", "instance"),)),
        Panel("How far the graph is behind", "", "s", (Query("memfast_outbox_lag_seconds{$of}", "{{instance}}"),)),
        Panel("Steps told", "", "ops", (rate("memfast_outbox_applied_steps_total", "instance"),)),
    ),
    "Processes": (
        Panel(
            "Memory",
            "Of each worker, and what it may take.",
            "bytes",
            (
                Query("memfast_worker_resident_memory_bytes{$of}", "worker {{worker}}"),
                Query("memfast_worker_memory_budget_bytes{$of}", "worker {{worker}} may take"),
            ),
        ),
        Panel("Processors", "", "percentunit", (rate("memfast_worker_cpu_seconds_total", "mode"),)),
        Panel("How late the event loop is", "", "s", quantiles("memfast_event_loop_delay_seconds")),
        Panel("Open files", "", "short", (Query("memfast_worker_open_fds{$of}", "worker {{worker}}"),)),
        Panel(
            "Disk",
            "",
            "bytes",
            (
                Query("memfast_data_disk_free_bytes{$of}", "{{instance}} free"),
                Query("memfast_data_disk_bytes{$of}", "{{instance}} size"),
            ),
        ),
    ),
}

DASHBOARDS = {"memfast": ("memfast", OVERVIEW), "memfast-inside": ("memfast, inside", INSIDE)}
"""By file and uid: title, and panels by row."""


def build(uid: str) -> dict[str, Any]:
    """A dashboard as Grafana reads it."""
    title, rows = DASHBOARDS[uid]
    board = (
        Dashboard(title)
        .uid(uid)
        .tags(["memfast"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            QueryVariable("instance")
            .label("Service")
            .datasource(SOURCE)
            .query("label_values(memfast_build_info, instance)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
            .all_value(".+")
        )
    )
    for row, panels in rows.items():
        board = board.with_row(Row(row))
        for panel in panels:
            board = board.with_panel(_chart(panel))
    return json.loads(JSONEncoder(sort_keys=True).encode(board.build()))  # type: ignore[no-any-return]


def _chart(panel: Panel) -> Timeseries:
    legend = VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    chart = Timeseries().title(panel.title).unit(panel.unit).datasource(SOURCE).height(HEIGHT).span(WIDTH)
    chart = chart.min(0).fill_opacity(10).legend(legend.show_legend(True))
    if panel.text:
        chart = chart.description(panel.text)
    for number, query in enumerate(panel.queries):
        expression = query.expression.replace("$of", 'instance=~"$instance"')
        chart = chart.with_target(Dataquery().expr(expression).legend_format(query.legend).ref_id(chr(65 + number)))
    return chart


def write(folder: Path) -> None:
    """Write every dashboard into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for uid in DASHBOARDS:
        (folder / f"{uid}.json").write_text(json.dumps(build(uid), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
