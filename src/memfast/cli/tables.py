"""Plain tables on standard output: readable in a terminal, easy to cut in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

__all__ = ["print_table"]


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their columns."""
    console = Console(soft_wrap=True)
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*row)
    if not console.is_terminal:
        console.width = 10_000  # a pipe has no width to fit into
    console.print(table)
