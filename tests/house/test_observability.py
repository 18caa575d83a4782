"""The page on observability lists the metrics that there are."""

from __future__ import annotations

import os
from pathlib import Path

from memfast.metrics import FAMILIES, STAGES
from memfast.metrics.families import Family, operation_families

PAGE = Path(__file__).resolve().parents[2] / "docs" / "observability.md"
START = "<!-- metrics: made from src/memfast/metrics/families.py, checked by a test -->"
END = "<!-- /metrics -->"


def _labels(family: Family) -> str:
    if family.name == "memfast_request_duration_seconds":
        return "`method`, `route`, `tier` (hot, warm, redis, cold, none), `status` (2xx, 4xx, 5xx)"
    if family.name == "memfast_slow_operations":
        return f"`method`, `route`, `stage` ({', '.join((*STAGES, 'none'))})"
    told = [
        f"`{name}` ({', '.join(dict.fromkeys(series[place] for series in family.series))})"
        for place, name in enumerate(family.labels)
    ]
    return ", ".join([*told, *(["`worker`"] if family.over == "worker" else [])])


def _table() -> str:
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for family in (*operation_families([]), *FAMILIES):
        over = ", the largest of the workers'" if family.over == "max" else ""
        rows.append(f"| `{family.name}` | {family.kind}{over} | {_labels(family)} | {family.text} |")
    rows.append(
        "| `memfast_build_info` | gauge | `version`, `kernels`, `python` | Always 1; what runs stands in the labels. |"
    )
    return "\n".join(rows)


def test_the_table_of_metrics_is_current():
    """The page has the metrics that the code defines; UPDATE_README=1 rewrites it."""
    text = PAGE.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    current = f"{before}{START}\n{_table()}\n{END}{after}"
    if os.environ.get("UPDATE_README") == "1":
        PAGE.write_text(current)
    assert PAGE.read_text() == current
