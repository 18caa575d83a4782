"""`memfast graph`: the copy of the links in Neo4j."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memfast.bootstrap import inspect_copy, rebuild_graph, switch_graph_off
from memfast.cli.tables import print_table
from memfast.config import Config, Effective

__all__ = ["off", "rebuild", "status"]


def rebuild(effective: Effective, arguments: argparse.Namespace) -> int:
    """Build the copy anew from PostgreSQL, beside a running service or alone."""
    users = _rebuild_told(effective.config) if arguments.json else _rebuild_shown(effective.config)
    _say(f"the graph is a copy of {users} users")
    return 0


def status(effective: Effective, arguments: argparse.Namespace) -> int:
    """Show whether there is a copy, what it bears, and what waits for it."""
    found = asyncio.run(inspect_copy(effective.config, _say))
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return 0
    backlog = found.backlog
    done = found.users - found.users_to_come - min(backlog.loads, found.users - found.users_to_come)
    rows = [
        ("state", backlog.state + (", building" if backlog.building or backlog.loads else "")),
        ("epoch", str(backlog.epoch)),
        ("graph", found.graph + (f": {found.detail}" if found.detail else "")),
        ("users", f"{done} of {found.users} loaded" if backlog.state == "on" else str(found.users)),
        ("steps waiting", str(backlog.pending - backlog.loads)),
        ("oldest", f"{backlog.oldest_s:.1f} s"),
    ]
    print_table(("what", "value"), rows)
    return 0


def off(effective: Effective, _arguments: argparse.Namespace) -> int:
    """Keep nothing for the copy any more, and delete what waits for it."""
    asyncio.run(switch_graph_off(effective.config, _say))
    _say("nothing is kept for the graph any more, until a service with graph.uri starts")
    return 0


def _rebuild_shown(config: Config) -> int:
    columns = (TextColumn("building"), BarColumn(), MofNCompleteColumn(), TextColumn("users"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("building", total=None)
        return _rebuilt(config, lambda done, total: progress.update(task, completed=done, total=total))


def _rebuild_told(config: Config) -> int:
    def tell(done: int, total: int) -> None:
        print(msgspec.json.encode({"users": done, "users_total": total}).decode(), flush=True)

    return _rebuilt(config, tell)


def _rebuilt(config: Config, progress: Callable[[int, int], None]) -> int:
    return asyncio.run(rebuild_graph(config, progress, _say))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
