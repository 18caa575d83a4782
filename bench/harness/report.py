"""Figures with their gates: printed as one table, written as JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Figure", "Report", "finish", "options", "print_table"]


@dataclass(frozen=True)
class Figure:
    """One number. A gate is a bound on it, or there is none and it is for reading only."""

    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the gate holds; None without one."""
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def row(self, *, known: bool = False) -> tuple[str, str, str, str]:
        """Name, measured, gate, pass; a miss that is known is marked as one."""
        bounds = [
            f"{sign} {bound:g}" for sign, bound in ((">=", self.at_least), ("<=", self.at_most)) if bound is not None
        ]
        verdict = {None: "", True: "yes", False: "NO, known" if known else "NO"}[self.passed]
        return self.name, f"{number(self.value)}{self.unit and ' ' + self.unit}", " and ".join(bounds), verdict


@dataclass(frozen=True)
class Report:
    """What a benchmark found: its figures, and everything behind them for the JSON file."""

    figures: list[Figure]
    details: dict[str, Any] = field(default_factory=dict)


def number(value: float) -> str:
    """Three digits that matter, or all of a whole number."""
    if abs(value) >= 100 or isinstance(value, int):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is left-aligned, the others right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip(), flush=True)
    print(flush=True)


def options(
    description: str, add: Callable[[argparse.ArgumentParser], None] | None = None, *, timed: bool = True
) -> argparse.Namespace:
    """The command line of one benchmark; `timed` ones have rounds and a planted slow-down."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and what is behind them")
    if timed:
        parser.add_argument("--quick", action="store_true", help="fewer rounds: for a look, not for a verdict")
        parser.add_argument("--planted", action="store_true", help="with a planted slow-down: the gates must fail")
    if add is not None:
        add(parser)
    return parser.parse_args()


def finish(report: Report, json_file: Path | None, known_misses: Collection[str] = ()) -> int:
    """Print the figures; return 1 when a gate is missed whose name does not begin with one of `known_misses`."""
    known = {figure.name for figure in report.figures if figure.name.startswith(tuple(known_misses))}
    rows = [figure.row(known=figure.name in known) for figure in report.figures]
    print_table(("figure", "measured", "gate", "pass"), rows)
    if json_file is not None:
        figures = [
            {
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "at_least": figure.at_least,
                "at_most": figure.at_most,
                "passed": figure.passed,
            }
            for figure in report.figures
        ]
        json_file.write_bytes(msgspec.json.encode({"figures": figures, "details": report.details}))
    return int(any(figure.passed is False and figure.name not in known for figure in report.figures))
