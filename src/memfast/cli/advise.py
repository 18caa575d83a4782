"""`memfast advise`: settings and indexes that a running service should have, with the figures that say so."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, Literal, TypeVar
from uuid import UUID

import httpx
import msgspec
from msgspec import Struct
from rich.markup import escape

from memfast.advice import Advice, Database, NotJudged, Snapshot
from memfast.advice import advise as judge
from memfast.bootstrap import improve_database, look_at_database
from memfast.cli.client import detail_of, open_client, service_url
from memfast.cli.tables import print_table
from memfast.config import Config, Effective, settings
from memfast.errors import CommandFailed, MemfastError
from memfast.metrics.uses import StatsAnswer

__all__ = ["ADVICE", "NOT_JUDGED", "Outcome", "advise", "show"]

ADVICE = 10
"""Exit code where there is advice that was not applied."""

NOT_JUDGED = 11
"""Exit code where there is none, but not everything could be judged."""

_T = TypeVar("_T")


class _Setting(Struct):
    value: float


class _Settings(Struct):
    settings: dict[str, _Setting]


class _Health(Struct):
    lineage: UUID


class Outcome(Struct, frozen=True):
    """A piece of advice, and what became of it: `live` could be applied with --apply, `failed` says why in `detail`."""

    advice: Advice
    state: Literal["applied", "live", "needs a restart", "yours to do", "failed"]
    detail: str = ""


def advise(effective: Effective, arguments: argparse.Namespace) -> int:
    """Read what the service and its database count, and say what should be otherwise; with --apply do what is safe."""
    config = effective.config
    with open_client(config, arguments.url) as client:
        snapshot, lineage, reason = _snapshot(config, arguments, client)
        report = judge(snapshot)
        outcomes = [_outcome(each) for each in report.advice]
        if arguments.apply:
            outcomes = [_applied(config, client, lineage, each) for each in outcomes]
    not_judged = [
        NotJudged(each.subject, reason or each.reason) if each.subject == "database" else each
        for each in report.not_judged
    ]
    if arguments.json or not sys.stdout.isatty():
        document = {"advice": [_document(each) for each in outcomes], "not_judged": not_judged}
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        show(outcomes, not_judged)
    if any(each.state != "applied" for each in outcomes):
        return ADVICE
    return NOT_JUDGED if not_judged else 0


def _snapshot(config: Config, arguments: argparse.Namespace, client: httpx.Client) -> tuple[Snapshot, UUID, str]:
    """What rules look at, whose database it is, and why that was not asked, if it was not."""
    stats = _asked(config, arguments, client, "/v1/stats", StatsAnswer)
    live = _asked(config, arguments, client, "/v1/settings", _Settings)
    lineage = _asked(config, arguments, client, "/v1/health", _Health).lineage
    database, reason = _database(config, lineage)
    snapshot = Snapshot(
        process=stats.process,
        pool=stats.pool,
        layers={layer.layer: layer for layer in stats.caches},
        warm=stats.warm,
        window=next(each for each in stats.windows if each.minutes == arguments.minutes),
        settings={key: each.value for key, each in live.settings.items()},
        database=database,
    )
    return snapshot, lineage, reason


def _asked(config: Config, arguments: argparse.Namespace, client: httpx.Client, path: str, kind: type[_T]) -> _T:
    try:
        response = client.get(path)
    except httpx.TransportError as error:
        raise CommandFailed(f"no service answers at {service_url(config, arguments.url)}: {error}") from error
    if response.status_code not in {200, 503}:  # a health that is bad is an answer too
        raise CommandFailed(f"the service refused: {detail_of(response)} (MEMFAST_API_KEY must be an admin key)")
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.DecodeError as error:
        raise CommandFailed(f"what answers at {path} is not of this version: {error}") from error


def _database(config: Config, lineage: UUID) -> tuple[Database | None, str]:
    try:
        return look_at_database(config, lineage, _say), ""
    except MemfastError as error:
        return None, str(error)


def _outcome(advice: Advice) -> Outcome:
    if advice.apply != "none":
        return Outcome(advice, "live")
    if not advice.settings:
        return Outcome(advice, "yours to do")
    return Outcome(advice, "needs a restart", f"set {_kept(advice.settings)}")


def _applied(config: Config, client: httpx.Client, lineage: UUID, outcome: Outcome) -> Outcome:
    """Do what can be done beside a serving service; anything else stays as it is."""
    advice = outcome.advice
    does: dict[str, Callable[[], None]] = {
        "settings": lambda: _set(client, advice.settings),
        "index": lambda: improve_database(config, lineage, advice.names, (), _say),
        "analyze": lambda: improve_database(config, lineage, (), advice.names, _say),
    }
    if advice.apply not in does:
        return outcome
    try:
        does[advice.apply]()
    except MemfastError as error:
        return Outcome(advice, "failed", str(error))
    kept = f"until the next start; to keep it set {_kept(advice.settings)}" if advice.settings else ""
    return Outcome(advice, "applied", kept)


def _set(client: httpx.Client, values: dict[str, float]) -> None:
    body = {key: int(value) if float(value).is_integer() else value for key, value in values.items()}
    try:
        response = client.patch("/v1/settings", json=body)
    except httpx.TransportError as error:
        raise CommandFailed(f"the service broke off: {error}") from error
    if response.status_code != 200:
        raise CommandFailed(f"the service refused: {detail_of(response)}")


def _kept(values: dict[str, float]) -> str:
    """Settings as they are written down, in the file or as variables."""
    variables = {setting.key: setting.variable for setting in settings()}
    return ", ".join(f"{key} = {value:g} ({variables[key]}={value:g})" for key, value in values.items())


def _document(outcome: Outcome) -> dict[str, Any]:
    return {**msgspec.to_builtins(outcome.advice), "state": outcome.state, "detail": outcome.detail}


def show(outcomes: list[Outcome], not_judged: list[NotJudged]) -> None:
    """Print a table for people."""
    if outcomes:
        print_table(("what", "evidence", "what to do", "state"), [_row(each) for each in outcomes])
    elif not not_judged:
        print("nothing to advise")
    for each in not_judged:
        print(f"{each.subject}: {each.reason}")


def _row(outcome: Outcome) -> tuple[str, ...]:
    advice = outcome.advice
    figures = "\n".join(f"{each.what}: {each.value} ({each.source})" for each in advice.evidence)
    state = f"{outcome.state}: {outcome.detail}" if outcome.detail else outcome.state
    does = f"{advice.action}\nexpected: {advice.expected}"
    return tuple(escape(cell) for cell in (f"{advice.subject}: {advice.finding}", figures, does, f"{state}\n"))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
