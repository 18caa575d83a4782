"""`memfast reembed`: another embedding model, while the service serves."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from memfast.bootstrap import inspect_generations, with_reembedding
from memfast.cli.tables import print_table
from memfast.config import Config, Effective
from memfast.errors import ConfigError
from memfast.service.reembed import Reembed

__all__ = ["reembed"]


def reembed(effective: Effective, arguments: argparse.Namespace) -> int:
    """Move to the model that is configured or named, say how far that is, or give it up."""
    config = _target(effective, arguments)
    if arguments.status:
        return _show(config)
    if arguments.rollback:
        given_up = asyncio.run(_run(config, lambda work: work.roll_back()))
        _say("the move was given up, nothing has changed" if given_up else "there is no move to give up")
        return 0
    if config.embedding.provider == "none":
        raise ConfigError("embedding.provider = none makes no vectors: name the model to move to, e.g. by --provider")
    moved = asyncio.run(_run(config, lambda work: work.run(from_text=arguments.from_text)))
    if not moved:
        _say("the database is there already")
        return 0
    _say("the database was moved, and a running service follows; let its configuration say embedding.* so too")
    return 0


def _target(effective: Effective, arguments: argparse.Namespace) -> Config:
    """The configuration; an endpoint that is named here is never given the key of the configured one."""
    config = effective.config
    if getattr(arguments, "embedding.base_url") is None:
        return config
    embedding = msgspec.structs.replace(config.embedding, api_key=config.embedding.next_api_key)
    return msgspec.structs.replace(config, embedding=embedding)


async def _run(config: Config, work: Callable[[Reembed], Awaitable[bool]]) -> bool:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("memories, {task.fields[rate]:.0f}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, tuple[TaskID, int]] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total, rate=0.0), done
            task, first = tasks[what]
            elapsed_s = progress.tasks[task].elapsed or 0.001
            progress.update(task, completed=min(done, total), total=total, rate=max(0, done - first) / elapsed_s)

        return await with_reembedding(config, work, show, _say)


def _show(config: Config) -> int:
    columns = ("generation", "state", "model", "dimensions", "vectors")
    found = asyncio.run(inspect_generations(config, _say))
    rows = [
        (str(each.number), each.state, each.model, str(each.dimensions), str(vectors))
        for each, vectors in found
        if each.state != "erased"
    ]
    print_table(columns, rows)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
