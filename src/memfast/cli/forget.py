"""`memfast forget` and `memfast verify-forgotten`."""

from __future__ import annotations

import argparse
import sys
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from memfast.bootstrap import Finding, forget_alone, look_for_leftovers, rewrite
from memfast.cli.client import detail_of, each_worker, open_client
from memfast.cli.tables import print_table
from memfast.config import Config, Effective
from memfast.errors import CommandFailed, ConfigError

__all__ = ["FOUND", "NOT_LOOKED", "forget", "verify"]

FOUND = 10
"""Exit code of `verify-forgotten` where something was found."""

NOT_LOOKED = 11
"""Its exit code where nothing was found, but not everywhere could be looked."""

_KINDS = ("answers", "memories", "questions", "snapshots")
_TEXT_BYTES_MIN = 8


def forget(effective: Effective, arguments: argparse.Namespace) -> int:
    """Erase a user, through the service if one runs; with --rewrite from the database's files too."""
    if not arguments.yes:
        _confirm(arguments)
    receipt = _forget(effective.config, arguments)
    if receipt is not None:
        print(msgspec.json.format(msgspec.json.encode(receipt), indent=2).decode())
    else:
        _say(f"there is no user {arguments.user!r} in the namespace {arguments.namespace!r}")
        if not arguments.rewrite:
            return 1
    if arguments.rewrite:
        rewrite(effective.config, _say)
        _say("no table or index file holds what was deleted; backups and archives of before do")
    return 0


def verify(effective: Effective, arguments: argparse.Namespace) -> int:
    """Look everywhere for what should be gone: 0 where all is clean, `FOUND`, or `NOT_LOOKED`."""
    for text in arguments.text:
        if len(text.encode()) < _TEXT_BYTES_MIN:
            raise ConfigError(f"--text {text!r}: stands in files by chance; give {_TEXT_BYTES_MIN} bytes or more")
    findings = look_for_leftovers(
        effective.config, arguments.namespace, arguments.user, arguments.text, arguments.path, _say
    )
    findings.append(_service(effective.config, arguments))
    if arguments.json or not sys.stdout.isatty():
        print(msgspec.json.format(msgspec.json.encode({"layers": findings}), indent=2).decode())
    else:
        print_table(("layer", "state", "detail"), [(f.layer, f.state, f.detail) for f in findings])
    if not arguments.text:
        _say("without --text only what bears the user's name or id is looked for")
    states = {finding.state for finding in findings}
    return FOUND if "found" in states else NOT_LOOKED if "not looked" in states else 0


def _confirm(arguments: argparse.Namespace) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("memfast forget asks before it erases; where nobody can answer, give --yes")
    locked = " Every table is locked while it is rewritten." if arguments.rewrite else ""
    _say(f"This erases everything of {arguments.user!r} in the namespace {arguments.namespace!r} for good.{locked}")
    if input("Go on? [y/N] ").strip().lower() not in {"y", "yes"}:
        raise CommandFailed("nothing was erased")


def _forget(config: Config, arguments: argparse.Namespace) -> Any:
    """The receipt of the service, or where none runs our own; None where there is no such user."""
    try:
        with open_client(config, arguments.url) as client:
            response = client.delete(
                f"/v1/users/{quote(arguments.user, safe='')}",
                params={"namespace": arguments.namespace},
                headers={"Memfast-Timeout-Ms": str(int(config.server.timeout_max_s * 1000))},
            )
    except httpx.ConnectError:
        if arguments.url:
            raise CommandFailed(f"no service answers at {arguments.url}") from None
        return forget_alone(config, arguments.namespace, arguments.user, _say)
    except httpx.TransportError as error:
        raise CommandFailed(f"the service broke off, and may have erased the user: {error}; run it again") from error
    if response.status_code == 404:
        return None
    if response.status_code != 200:
        raise CommandFailed(f"the service refused: {detail_of(response)}")
    return response.json()


def _service(config: Config, arguments: argparse.Namespace) -> Finding:
    """What the workers of a running service keep in memory."""
    layer, kept, seen = "running service", list[str](), 0
    try:
        for pid, client in each_worker(config, arguments.url):
            response = client.get("/v1/cache/user", params={"user_id": arguments.user})
            if response.status_code != 200:
                why = f"{detail_of(response)} (MEMFAST_API_KEY must be an admin key of the namespace)"
                return Finding(layer, "not looked", why)
            answer = response.json()
            if answer["namespace"] != arguments.namespace:
                return Finding(layer, "not looked", f"MEMFAST_API_KEY is of the namespace {answer['namespace']!r}")
            seen += 1
            own = [f"{answer[kind]} {kind}" for kind in _KINDS if answer[kind]]
            kept += [f"worker {pid}: {', '.join(own)}"] if own else []
    except httpx.ConnectError:
        pass
    except httpx.TransportError as error:
        return Finding(layer, "not looked", f"it broke off: {error}")
    if kept:
        return Finding(layer, "found", "; ".join(kept))
    if 0 < seen < config.server.workers:
        return Finding(layer, "not looked", f"only {seen} of {config.server.workers} workers answered")
    return Finding(layer, "clean", f"{seen} workers" if seen else "none runs at the configured address")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
