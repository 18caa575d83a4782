"""`memfast remember`, `recall`, `list`, `get` and `stats`: memories through a running service.

On a terminal they print tables, in a pipe (or with --json) one JSON object a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from memfast.cli.client import service_url
from memfast.cli.lines import STDIO
from memfast.client import Client, Hits, Memory
from memfast.config import Config, Effective
from memfast.errors import CommandFailed, ConfigError, ServiceUnreachable

__all__ = ["get", "list_memories", "recall", "remember", "stats"]

_T = TypeVar("_T")


def remember(effective: Effective, arguments: argparse.Namespace) -> int:
    """Store a memory and show it."""
    text = sys.stdin.read().strip() if arguments.text == STDIO else arguments.text
    fields = _given(arguments, "kind", "importance", "metadata", "agent_id", "run_id", "source", "expires_at")
    fields |= {name: value for name in ("tags", "entities") if (value := getattr(arguments, name))}
    if arguments.dedupe:
        fields["dedupe"] = True
    memory = _ask(effective.config, arguments, lambda client: client.add(arguments.user, text, **fields))
    if _as_json(arguments):
        _print_lines([memory])
    else:
        print(f"{memory.status} {memory.id}")
    return 0


def recall(effective: Effective, arguments: argparse.Namespace) -> int:
    """Search, and show the hits by falling score."""
    options = _given(arguments, "limit", "mode", "min_score", "filter")
    if arguments.tags:
        options |= {"tags": arguments.tags, "tags_mode": "any_strict"}
    hits: Hits = _ask(
        effective.config, arguments, lambda client: client.search(arguments.user, arguments.query, **options)
    )
    if _as_json(arguments):
        _print_lines(hits)
    else:
        rows = [(f"{hit.score:.3f}", hit.text, ", ".join(hit.tags), str(hit.id)) for hit in hits]
        _print_table(("score", "text", "tags", "id"), rows)
    if hits.degraded:
        print(f"memfast: found without {', '.join(hits.degraded)}, which is away", file=sys.stderr)
    return 0


def list_memories(effective: Effective, arguments: argparse.Namespace) -> int:
    """Show memories, newest first."""
    which = _given(arguments, "kind", "tag", "entity", "agent_id", "run_id", "filter", "order")

    def show(client: Client) -> None:
        memories = client.list(arguments.user, limit=arguments.limit or None, **which)
        if _as_json(arguments):
            _print_lines(memories)
        else:
            _print_table(("text", "tags", "created", "id"), [_row(memory) for memory in memories])

    _ask(effective.config, arguments, show)
    return 0


def get(effective: Effective, arguments: argparse.Namespace) -> int:
    """Show all of a memory."""
    memory = _ask(effective.config, arguments, lambda client: client.get(arguments.user, arguments.id))
    if _as_json(arguments):
        _print_lines([memory])
    else:
        _print_table(("field", "value"), [(name, _shown(value)) for name, value in _fields(memory)])
    return 0


def stats(effective: Effective, arguments: argparse.Namespace) -> int:
    """Show how the service is, or with a user what there is of it."""
    if arguments.user is None:
        told: Any = _ask(effective.config, arguments, lambda client: client.health())
    else:
        told = _ask(effective.config, arguments, lambda client: client.user(arguments.user))
    if _as_json(arguments):
        _print_lines([told])
    else:
        _print_table(("field", "value"), [(name, _shown(value)) for name, value in _fields(told)])
    return 0


def _ask(config: Config, arguments: argparse.Namespace, question: Callable[[Client], _T]) -> _T:
    """What a question to the service gives."""
    with Client(service_url(config, arguments.url)) as client:
        try:
            return question(client)
        except ServiceUnreachable as error:
            raise CommandFailed(f"{error}; start one with `memfast serve`, or name it with --url") from error


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Options that were given, with JSON and times as what they say.

    Raises:
        ConfigError: one does not say such a thing.
    """
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    for name in given.keys() & {"metadata", "filter"}:
        try:
            given[name] = msgspec.json.decode(given[name], type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ConfigError(f"--{name}: must be a JSON object: {error}") from error
    if "expires_at" in given:
        try:
            at = datetime.fromisoformat(given["expires_at"])
        except ValueError as error:
            raise ConfigError(f"--expires-at: must be a time, e.g. 2027-01-31T12:00:00Z: {error}") from error
        given["expires_at"] = at if at.tzinfo else at.replace(tzinfo=UTC)
    return given


def _as_json(arguments: argparse.Namespace) -> bool:
    return arguments.json or not sys.stdout.isatty()


def _print_lines(items: Iterable[Any]) -> None:
    for item in items:
        print(msgspec.json.encode(item).decode())


def _row(memory: Memory) -> tuple[str, ...]:
    return memory.text, ", ".join(memory.tags), _shown(memory.created_at), str(memory.id)


def _fields(value: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(value, name)) for name in value.__struct_fields__]


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone():%Y-%m-%d %H:%M}"
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ", ".join(value)
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    return "" if value is None else str(value)


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal: texts are folded, ids are not."""
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in {"score", "created", "id", "field"})
    for row in rows:
        table.add_row(*(Text(_plain(cell)) for cell in row))
    console.print(table)


def _plain(text: str) -> str:
    """A text without what a terminal would obey."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
