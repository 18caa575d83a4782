"""`memfast warm`: snapshots on disk, and a running service that has them in memory."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import suppress

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from memfast.bootstrap import with_snapshots
from memfast.cli.client import detail_of, each_worker
from memfast.cli.tables import print_table
from memfast.config import Config, Effective
from memfast.errors import CommandFailed
from memfast.model import HotScope
from memfast.service.warmup import SnapshotWriter

__all__ = ["warm"]

_MIB = 1024 * 1024
_WARM_TIMEOUT_S = 600.0


def warm(effective: Effective, arguments: argparse.Namespace) -> int:
    """Save scopes, hottest first, then tell a running service to load them."""

    async def work(writer: SnapshotWriter) -> list[HotScope]:
        chosen = await writer.choose(
            namespace=arguments.namespace, user_ids=arguments.users, limit=arguments.limit, unread=arguments.all
        )
        if not arguments.dry_run:
            await _save(writer, chosen, arguments.budget_mb * _MIB)
        return chosen

    chosen: list[HotScope] = asyncio.run(with_snapshots(effective.config, work, _say))
    if arguments.dry_run:
        rows = [(hot.scope.namespace, hot.scope.user_id, str(hot.memories), str(hot.reads)) for hot in chosen]
        print_table(("namespace", "user", "memories", "reads"), rows)
        return 0
    _tell_service(effective.config, arguments)
    return 0


async def _save(writer: SnapshotWriter, chosen: list[HotScope], budget_bytes: int) -> None:
    """Save each scope; those that are saved at their present version are passed over, so a second run goes on."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("users, {task.fields[rows]} memories, {task.fields[mb]:.1f} MB, {task.fields[rate]:.0f} memories/s"),
        TimeRemainingColumn(),
    )
    rows = size = 0
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("warming", total=len(chosen), rows=0, mb=0.0, rate=0.0)
        for hot in chosen:
            written = await writer.write(hot)
            if budget_bytes and size + written > budget_bytes:
                progress.console.print(f"stopped at {size / _MIB:.1f} MB: the next user would be over the budget")
                break
            rows, size = rows + hot.memories, size + written
            elapsed_s = progress.tasks[0].elapsed or 0.001
            progress.update(task, advance=1, rows=rows, mb=size / _MIB, rate=rows / elapsed_s)


def _tell_service(config: Config, arguments: argparse.Namespace) -> None:
    """Warm every worker of a service that runs on the configured address."""
    headers = {"Memfast-Timeout-Ms": str(int(config.server.timeout_max_s * 1000))}
    request = {"limit": arguments.limit, "queries": arguments.queries}
    if arguments.users:
        request["users"] = arguments.users
    seen = 0
    with suppress(httpx.TransportError):
        for _, client in each_worker(config, None):
            _warm_worker(client, headers, request)
            seen += 1
    if not seen:
        _say("no service runs there; its next start loads what was saved")


def _warm_worker(client: httpx.Client, headers: dict[str, str], request: dict[str, object]) -> None:
    response = client.post("/v1/warm", json=request, headers=headers, timeout=_WARM_TIMEOUT_S)
    if response.status_code != 200:
        raise CommandFailed(
            f"the service refused to warm up: {detail_of(response)} (MEMFAST_API_KEY must be an admin key)"
        )
    answer = response.json()
    full = "" if answer["complete"] else "; its memory is full"
    _say(f"worker {answer['pid']} holds {answer['users']} users with {answer['memories']} memories{full}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
