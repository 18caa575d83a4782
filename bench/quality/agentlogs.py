"""Recorded agent runs in and out again, byte for byte, over the HTTP API.

    python -m bench.quality.agentlogs <taubench.json.gz> [--url URL] [--json FILE]

The trajectories of tau-bench (Yao et al. 2024): policies, chats, tool calls and tool answers, of a few bytes to tens
of kilobytes. A task is a user, a trial a run. Each turn is stored as it was said, or as the JSON of its message where
it is a tool call, and each trajectory once more as a whole. A text over the limit of 64 KiB is cut into parts; a
turn that says nothing is left out. All of it is listed and compared, and every turn of a user is searched for.
"""

from __future__ import annotations

import argparse
import gzip
import secrets
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec

from bench.harness.load import Connection, call, closed_loop, connections, encode, run
from bench.harness.report import Figure, Report, finish, options
from bench.quality.served import forget, served, store

__all__ = ["measure", "parts_of"]

TEXT_BYTES = 64 * 1024
"""The service's limit on a text, in bytes of UTF-8."""

_PAGE_ITEMS = 200
_CLIENTS = 4
_BEGIN = datetime(2024, 5, 15, 15, tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    """One memory: what is stored, under what, and whether a search for it is made."""

    text: str
    run_id: str
    role: str
    searched: bool = False


def measure(path: Path, *, url: str | None = None) -> Report:
    """Store, list, compare, search."""
    counts: Counter[str] = Counter()
    users = _users(msgspec.json.decode(gzip.decompress(path.read_bytes())), counts)
    with served(url) as address:
        run(_round_trip(address, users, counts))
    figures = [
        Figure(
            "agent runs: memories that came back changed or not at all",
            counts["lost or changed"],
            at_most=0,
        ),
        Figure("agent runs: searches that did not find their own text", counts["not found"], at_most=0),
    ]
    names = ("turns", "turns without text", "texts over 64 KiB", "memories", "bytes", "not ASCII", "longest, bytes")
    figures += [Figure(f"agent runs: {name}", counts[name]) for name in (*names, "searches")]
    return Report(figures, dict(counts))


def parts_of(text: str, most: int) -> list[str]:
    """Cut a text into parts of at most `most` bytes of UTF-8, between characters; together they are the text."""
    data = text.encode()
    parts: list[str] = []
    while data:
        end = min(most, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        parts.append(data[:end].decode())
        data = data[end:]
    return parts


def _users(trajectories: list[dict[str, Any]], counts: Counter[str]) -> dict[str, list[Entry]]:
    users: dict[str, list[Entry]] = {}
    for trajectory in trajectories:
        entries = users.setdefault(f"task-{trajectory['task_id']}", [])
        run_id = f"trial-{trajectory['trial']}"
        for entry in _entries(trajectory["traj"], run_id, counts):
            parts = parts_of(entry.text, TEXT_BYTES)
            counts["texts over 64 KiB"] += len(parts) > 1
            entries.extend(replace(entry, text=part) for part in parts)
    for entries in users.values():
        sizes = [len(entry.text.encode()) for entry in entries]
        counts["memories"] += len(entries)
        counts["bytes"] += sum(sizes)
        counts["not ASCII"] += sum(not entry.text.isascii() for entry in entries)
        counts["longest, bytes"] = max(counts["longest, bytes"], *sizes)
    return users


def _entries(turns: list[dict[str, Any]], run_id: str, counts: Counter[str]) -> Iterator[Entry]:
    for turn in turns:
        counts["turns"] += 1
        calls = bool(turn.get("tool_calls"))
        text = msgspec.json.encode(turn).decode() if calls else turn.get("content") or ""
        if text:
            yield Entry(text, run_id, turn["role"], searched=turn["role"] == "user")
        else:
            counts["turns without text"] += 1
    yield Entry(msgspec.json.format(msgspec.json.encode(turns)).decode(), run_id, "trajectory")


async def _round_trip(address: tuple[str, int], users: dict[str, list[Entry]], counts: Counter[str]) -> None:
    run_name = secrets.token_hex(4)
    async with connections(address, _CLIENTS) as opened:
        for name, entries in users.items():
            user_id = f"agent-{run_name}-{name}"
            try:
                await store(opened[0], user_id, [_memory(entry, place) for place, entry in enumerate(entries)])
                counts["lost or changed"] += _differences(entries, await _listed(opened[0], user_id))
                texts = list(dict.fromkeys(entry.text for entry in entries if entry.searched))
                counts["searches"] += len(texts)
                await closed_loop(texts, [partial(_find, connection, user_id, counts) for connection in opened])
            finally:
                await forget(opened[0], user_id)


def _memory(entry: Entry, place: int) -> dict[str, Any]:
    return {
        "text": entry.text,
        "run_id": entry.run_id,
        "created_at": _BEGIN + timedelta(seconds=place),
        "metadata": {"place": place, "role": entry.role},
    }


async def _listed(connection: Connection, user_id: str) -> list[dict[str, Any]]:
    parameters = {"user_id": user_id, "limit": str(_PAGE_ITEMS), "order": "created_asc"}
    memories: list[dict[str, Any]] = []
    while True:
        page = await call(connection, "GET", f"/v1/memories?{urlencode(parameters)}")
        memories += page["memories"]
        if not page["has_more"]:
            return memories
        parameters["cursor"] = page["next_cursor"]


def _differences(entries: list[Entry], memories: list[dict[str, Any]]) -> int:
    """How many of the memories are missing, out of place or not the bytes that were sent, or come unasked."""
    wrong = abs(len(memories) - len(entries))
    for place, (entry, memory) in enumerate(zip(entries, memories, strict=False)):
        same = entry.text.encode() == memory["text"].encode() and entry.run_id == memory["run_id"]
        wrong += not (same and memory["metadata"] == {"place": place, "role": entry.role})
    return wrong


async def _find(connection: Connection, user_id: str, counts: Counter[str], text: str) -> None:
    body = {"user_id": user_id, "query": text, "limit": 10, "mode": "vector"}
    status, answer = await connection.send(encode("POST", "/v1/search", body))
    if status != 200:
        raise RuntimeError(f"a search was answered with {status}: {answer[:300]!r}")
    counts["not found"] += text not in {hit["text"] for hit in msgspec.json.decode(answer)["results"]}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="tau-bench trajectories, gzipped JSON")
    parser.add_argument("--url", help="a running service; the users of the run are forgotten at its end")


def main() -> int:
    """Run from the command line; 1 when anything was lost, changed or not found."""
    chosen = options(__doc__, _arguments, timed=False)
    return finish(measure(chosen.data, url=chosen.url), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
