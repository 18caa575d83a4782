"""A tool's call over MCP beside the same request over HTTP: CPU time of the service's worker.

    python -m bench.mcp [--quick] [--planted] [--json FILE]

1,000 memories of a user. `recall` and a search of questions that were asked before (hot), and of new ones (warm); `get`
and a read of one memory; `remember` and a create with `dedupe`, of new texts. MCP is spoken as the stateless revision
has it, which says most with every message.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.harness.corpus import fill, sentences
from bench.harness.load import Connection, call, connections, encode, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.planted_mcp import PlantedMcp
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Service, scratch_dir
from bench.harness.turns import Turn, ask, cpu_us, take_turn

__all__ = ["measure"]

GATE = 1.5
PLANTED = PlantedMcp(message_s=2e-3)
CLIENTS = 4
ROWS = 1_000
QUESTIONS = 50
_USER = "mcp"
_VERSION = "2026-07-28"
_META = {
    "io.modelcontextprotocol/protocolVersion": _VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
}


@dataclass(frozen=True)
class _Pair:
    """One thing that is done over both: the requests of a turn, and whence HTTP must be answered."""

    name: str
    mcp: Callable[[], list[bytes]]
    http: Callable[[], list[bytes]]
    tier: bytes = b""


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure on a service of its own."""
    report = Report([])
    settings = ("--set", "mcp.hosts=bench")
    with scratch_dir() as root, Service(root / "data", settings=settings, planted=PLANTED if planted else None) as it:
        run(_measure(it, report, pairs=9 if quick else 31, requests=200))
    return report


def _tool(name: str, **arguments: Any) -> bytes:
    params = {"name": name, "arguments": {"user_id": _USER} | arguments, "_meta": _META}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {"mcp-protocol-version": _VERSION, "mcp-method": "tools/call", "mcp-name": name}
    return encode("POST", "/mcp", message, headers=headers)


def _search(text: str) -> bytes:
    return encode("POST", "/v1/search", {"user_id": _USER, "query": text, "limit": 10})


def _create(text: str) -> bytes:
    return encode("POST", "/v1/memories", {"user_id": _USER, "text": text, "dedupe": True})


def _pairs(rng: np.random.Generator, ids: list[str], requests: int) -> Iterator[_Pair]:
    asked = sentences(rng, QUESTIONS)
    numbers = itertools.count(1)

    def again(values: list[str]) -> list[str]:
        return list(itertools.islice(itertools.cycle(values), requests))

    def new() -> list[str]:
        return [f"{text} {next(numbers)}" for text in sentences(rng, requests)]

    def read(target: str) -> bytes:
        return encode("GET", f"/v1/memories/{target}?user_id={_USER}")

    yield _Pair(
        "hot search",
        lambda: [_tool("recall", query=text) for text in again(asked)],
        lambda: [_search(text) for text in again(asked)],
        b"hot",
    )
    yield _Pair(
        "warm search",
        lambda: [_tool("recall", query=text) for text in new()],
        lambda: [_search(text) for text in new()],
        b"warm",
    )
    yield _Pair(
        "get",
        lambda: [_tool("get", id=target) for target in again(ids)],
        lambda: [read(target) for target in again(ids)],
    )
    yield _Pair(
        "remember",
        lambda: [_tool("remember", text=text) for text in new()],
        lambda: [_create(text) for text in new()],
    )


async def _measure(service: Service, report: Report, *, pairs: int, requests: int) -> None:
    rng = np.random.default_rng(37)
    table = []
    async with connections(service.address, CLIENTS) as opened:
        await fill(opened[0], _USER, ROWS, rng)
        await _until_warm(opened[0], rng)
        page = await call(opened[0], "GET", f"/v1/memories?user_id={_USER}&limit=100")
        for pair in _pairs(rng, [memory["id"] for memory in page["memories"]], requests):
            turns = await _turns(service, opened, pair, pairs)
            sides = [[turn[side] for turn in turns] for side in (0, 1)]
            ratio = median_ratio(*([turn.cpu_us for turn in side] for side in sides))
            report.figures.append(Figure(f"MCP ÷ HTTP, {pair.name}: CPU", ratio, at_most=GATE))
            report.details[pair.name] = [[turn.cpu_us for turn in side] for side in sides]
            table.append((pair.name, *(number(cpu_us(side)) for side in sides)))
    print_table(("CPU us a call", "MCP", "HTTP"), table)


async def _turns(service: Service, opened: list[Connection], pair: _Pair, pairs: int) -> list[tuple[Turn, Turn]]:
    """Pairs of turns, the first two thrown away: questions become hot there."""

    async def mcp(_number: int) -> Turn:
        return await take_turn(service, opened, pair.mcp())

    async def http(number: int) -> Turn:
        return await take_turn(service, opened, pair.http(), pair.tier if number > 1 else b"", strays=0.02)

    for message in pair.mcp()[:1]:
        answer = json.loads(await ask(opened[0], message))
        assert answer["result"]["isError"] is False, answer
    return (await interleaved(mcp, http, pairs + 2))[2:]


async def _until_warm(connection: Connection, rng: np.random.Generator) -> None:
    for _ in range(1_000):
        await ask(connection, _search(sentences(rng, 1)[0]))
        if b"memfast-tier: warm" in connection.head:
            return
        await asyncio.sleep(0.01)
    raise RuntimeError("the user did not become warm")


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
