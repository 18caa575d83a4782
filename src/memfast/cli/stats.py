"""`memfast stats`: how a running service is, and how it does."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import httpx
import msgspec

from memfast.cli import memories
from memfast.cli.client import detail_of, open_client
from memfast.cli.tables import print_table
from memfast.config import Effective
from memfast.errors import CommandFailed

__all__ = ["stats"]

_MIB = 1024 * 1024


def stats(effective: Effective, arguments: argparse.Namespace) -> int:
    """Show how it is; with --minutes how all its workers did, as a table, and as JSON to a pipe."""
    if arguments.minutes is None:
        return memories.stats(effective, arguments)
    try:
        with open_client(effective.config, arguments.url) as client:
            response = client.get("/v1/stats")
    except httpx.TransportError as error:
        where = arguments.url or f"{effective.config.server.host}:{effective.config.server.port}"
        raise CommandFailed(f"no service answers at {where}: {error}") from error
    if response.status_code != 200:
        raise CommandFailed(f"the service refused: {detail_of(response)}")
    answer = response.json()
    if arguments.json or not sys.stdout.isatty():
        print(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    else:
        window = next(each for each in answer["windows"] if each["minutes"] == arguments.minutes)
        _show(answer, window)
    return 0


def _show(answer: dict[str, Any], window: dict[str, Any]) -> None:
    process, pool = answer["process"], answer["pool"]
    hits = ", ".join(f"{layer} {rate:.0%}" for layer, rate in window["hit_rates"].items())
    print(f"last {window['seconds'] / 60:.1f} min: {window['requests']} requests, {window['per_second']:g}/s,", end=" ")
    print(f"{window['error_rate']:.2%} failed, {window['slow']} slow; {answer['total']['requests']} since the start")
    print(f"{process['workers']} workers, {window['cpu_cores']:g} cores busy,", end=" ")
    print(f"{process['resident_bytes'] / _MIB:.0f} MiB, {process['open_files']} open files,", end=" ")
    print(f"{pool['used']} of {pool['limit']} connections in use, {pool['waiting']} wait for one")
    print(f"hits: {hits or 'no cache was asked'}\n")
    print_table(
        ("operation", "requests", "/s", "mean ms", "p50 ms", "p95 ms", "p99 ms", "refused", "failed", "slow", "tiers"),
        [_row(operation) for operation in window["operations"]],
    )


def _row(operation: dict[str, Any]) -> list[str]:
    return [
        f"{operation['method']} {operation['route']}",
        *(f"{operation[name]:g}" for name in ("requests", "per_second", "mean_ms", "p50_ms", "p95_ms", "p99_ms")),
        *(str(operation[name]) for name in ("refused", "failed")),
        _counted(operation["slow_stages"]),
        _counted(operation["tiers"]),
    ]


def _counted(counts: dict[str, int]) -> str:
    return " ".join(f"{name} {count}" for name, count in counts.items())
