"""A round trip of the Python client beside one of a client that only sends the same bytes and waits for the answer.

    python -m bench.client [--quick] [--planted] [--json FILE]

One call after another over one connection: a hot search with ten hits, a memory by id, a write. The floor is what one
would write by hand over asyncio's streams: it reads the head up to its empty line, and as many bytes as the head names. Its
requests are the client's own, made before the clock runs, and it looks at nothing of an answer but its status and length.
Both run on uvloop, and on asyncio's own loop; the blocking client beside the floor on asyncio's. The last column of the
tables is a protocol that is called back, for reading: the least that can be done in Python.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np

from bench.harness.corpus import fill, sentences, unit_vectors
from bench.harness.load import Connection, connections, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import Service, scratch_dir
from memfast import AsyncClient, Client

__all__ = ["measure"]

GATE = 1.5
"""A round trip by that of the floor."""

PLANTED_S = 2e-3
"""What a client loses each time that it looks at the clock, where a fault is planted: twice or more a call."""

CALLS = {"hot search": 300, "get": 300, "add": 40}
"""Calls of a turn."""
_USER = "client"
_Call = tuple[str, tuple[Any, ...], dict[str, Any]]


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure both clients on both loops."""
    report = Report([])
    pairs = 5 if quick else 21
    with scratch_dir() as root, Service(root / "data") as service:
        run(_fill(service))
        for loop, start in (("uvloop", run), ("asyncio", asyncio.run)):
            start(_awaiting(service, report, loop, pairs=pairs, planted=planted))
        asyncio.run(_blocking(service, report, pairs=pairs, planted=planted))
    return report


async def _fill(service: Service) -> None:
    async with connections(service.address, 1) as (connection,):
        await fill(connection, _USER, 1_000, np.random.default_rng(23))


def _slow_clock() -> float:
    end = time.perf_counter() + PLANTED_S
    while time.perf_counter() < end:
        pass
    return time.monotonic()


def _settings(*, planted: bool) -> dict[str, Any]:
    return {"clock": _slow_clock} if planted else {}


def _calls(memory_id: str) -> dict[str, Iterator[_Call]]:
    """What is asked, for ever; no write comes twice."""
    rng = np.random.default_rng(24)
    vectors = itertools.cycle(unit_vectors(rng, 100))
    return {
        "hot search": itertools.repeat(("search", (_USER, sentences(rng, 1)[0]), {"limit": 10})),
        "get": itertools.repeat(("get", (_USER, memory_id), {})),
        "add": (("add", (f"{_USER}-written", "A text."), {"embedding": next(vectors)}) for _ in itertools.count()),
    }


def _some(what: str, calls: Iterator[_Call]) -> list[_Call]:
    return list(itertools.islice(calls, CALLS[what]))


def _requests(client: Client | AsyncClient, calls: list[_Call]) -> list[bytes]:
    """The bytes that a client sends for these calls."""
    made = []
    for name, arguments, keywords in calls:
        steps = client._session.converse(getattr(type(client), name).__wrapped__(client, *arguments, **keywords))
        made.append(next(steps).request)
        steps.close()
    return made


class _Streams:
    """A client by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; status and body of its answer."""
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = head.partition(b"\r\ncontent-length:")
        return int(head[9:12]), await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))

    async def aclose(self) -> None:
        """Close it."""
        self._writer.close()
        await self._writer.wait_closed()


async def _raw(connection: Connection | _Streams, requests: list[bytes]) -> float:
    began = time.perf_counter()
    for request in requests:
        status, _ = await connection.send(request)
        assert status < 300, status
    return (time.perf_counter() - began) / len(requests) * 1e6


async def _awaiting(service: Service, report: Report, loop: str, *, pairs: int, planted: bool) -> None:
    async with AsyncClient(f"http://127.0.0.1:{service.port}", **_settings(planted=planted)) as client:
        memory = await client.add(_USER, "One that is asked for.")

        async def timed(calls: list[_Call]) -> float:
            began = time.perf_counter()
            for name, arguments, keywords in calls:
                await getattr(client, name)(*arguments, **keywords)
            return (time.perf_counter() - began) / len(calls) * 1e6

        await _beside_floor(service, report, f"AsyncClient on {loop}", client, timed, str(memory.id), pairs)


async def _blocking(service: Service, report: Report, *, pairs: int, planted: bool) -> None:
    with Client(f"http://127.0.0.1:{service.port}", **_settings(planted=planted)) as client:
        memory = client.add(_USER, "One that is asked for.")

        async def timed(calls: list[_Call]) -> float:
            began = time.perf_counter()
            for name, arguments, keywords in calls:
                getattr(client, name)(*arguments, **keywords)
            return (time.perf_counter() - began) / len(calls) * 1e6

        await _beside_floor(service, report, "Client", client, timed, str(memory.id), pairs)


async def _beside_floor(
    service: Service,
    report: Report,
    name: str,
    client: Client | AsyncClient,
    timed: Callable[[list[_Call]], Awaitable[float]],
    memory_id: str,
    pairs: int,
) -> None:
    rows = []
    for what, calls in _calls(memory_id).items():

        async def subject(_number: int, what: str = what, calls: Iterator[_Call] = calls) -> float:
            return await timed(_some(what, calls))

        async def floor(_number: int, what: str = what, calls: Iterator[_Call] = calls) -> float:
            requests = _requests(client, _some(what, calls))
            async with aclosing(_Streams(*await asyncio.open_connection(*service.address))) as streams:
                await streams.send(requests.pop())
                return await _raw(streams, requests)

        await interleaved(subject, floor, 2)
        measured = await interleaved(subject, floor, pairs)
        above, below = ([pair[side] for pair in measured] for side in (0, 1))
        requests = [_requests(client, _some(what, calls)) for _ in range(pairs)]
        async with connections(service.address, 1) as (connection,):
            least = [await _raw(connection, each) for each in requests]
        rows.append((what, *(number(statistics.median(times)) for times in (above, below, least))))
        report.figures.append(Figure(f"{name}, {what} ÷ raw", median_ratio(above, below), at_most=GATE))
        report.details[f"{name}, {what}"] = {"client_us": above, "raw_us": below}
    print(f"{name}, microseconds a round trip")
    print_table(("", "client", "raw", "protocol"), rows)


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
