"""Beside the table of times: what MemMimic reports for the same work, where it says with how many memories."""

from __future__ import annotations

from typing import Any

from bench.harness.report import print_table

__all__: list[str] = []

PUBLISHED = (
    ("test_retain_single", "store", 0.10, "without fsync; its target is 1 ms"),
    ("test_get", "retrieve by id", 0.05, "its target is 0.18 ms"),
    ("test_recall_warm", "search by LIKE", 1.6, "finds no paraphrase; its target is 0.19 ms"),
    ("test_searches_at_once[10]", "10 users at once, each", 4.0, "250 operations/s"),
    ("test_searches_at_once[50]", "50 users at once, each", 0.35, "its target"),
)
"""Test, operation, mean milliseconds that MemMimic measured or promises for 5,000 memories, and what they leave out."""


def pytest_terminal_summary(config: Any) -> None:
    """Print each measured median beside the published figure; searches at once by the time of one."""
    session = getattr(config, "_benchmarksession", None)
    medians_ms = {each.name: each.stats.median * 1e3 for each in session.benchmarks} if session else {}
    rows = [
        (operation, f"{medians_ms[name] / _searches(name):.3f}", f"{theirs_ms:.2f}", remark)
        for name, operation, theirs_ms, remark in PUBLISHED
        if name in medians_ms
    ]
    if rows:
        print_table(("5,000 memories, in the process", "median ms", "MemMimic ms", "MemMimic"), rows)


def _searches(name: str) -> int:
    _, bracket, rest = name.partition("[")
    return int(rest.rstrip("]")) if bracket else 1
