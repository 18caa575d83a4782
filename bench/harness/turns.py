"""What a server takes for a number of requests: CPU time of its worker, requests per second, latencies at a fixed rate."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from bench.harness.load import Connection, Run, closed_loop
from bench.harness.service import Program

__all__ = ["Turn", "ask", "authorized", "cpu_us", "open_loop", "paced", "per_second", "take_turn"]

_T = TypeVar("_T")
_TIMER_S = 0.002
"""How much too late or too early a timer of the loop may be: it counts whole milliseconds."""


@dataclass(frozen=True)
class Turn:
    """One side of a pair: its run, and microseconds of CPU time of the server's worker for a request."""

    run: Run
    cpu_us: float


def authorized(request: bytes, key: str) -> bytes:
    """The request with an API key."""
    return request.replace(b"\r\n", b"\r\nauthorization: Bearer %b\r\n" % key.encode(), 1)


async def ask(connection: Connection, request: bytes, tier: bytes = b"") -> bytes:
    """Send a request and return the body of its answer, which must be one of success, from this tier.

    Raises:
        RuntimeError: it is not.
    """
    status, body = await connection.send(request)
    if status >= 300 or (tier and b"memfast-tier: " + tier not in connection.head):
        raise RuntimeError(f"not answered by {tier!r}: {connection.head!r} {body[:300]!r}")
    return body


async def take_turn(
    program: Program, opened: Sequence[Connection], requests: Sequence[bytes], tier: bytes = b"", *, strays: float = 0.0
) -> Turn:
    """Send the requests over the connections, the next one as soon as an answer has come.

    Args:
        program: the server.
        opened: connections to it.
        requests: as `load.encode` makes them.
        tier: what must have answered.
        strays: the share of answers that may come from another tier.
    """
    others = 0

    def client(connection: Connection):
        async def send(request: bytes) -> None:
            nonlocal others
            status, body = await connection.send(request)
            if status >= 300:
                raise RuntimeError(f"answered with {status}: {body[:300]!r}")
            if tier and b"memfast-tier: " + tier not in connection.head:
                others += 1

        return send

    before_s = program.worker_cpu_s()
    run = await closed_loop(requests, [client(connection) for connection in opened])
    spent_s = program.worker_cpu_s() - before_s
    if others > strays * len(requests):
        raise RuntimeError(f"{others} of {len(requests)} answers did not come from {tier.decode()}")
    return Turn(run, spent_s / len(requests) * 1e6)


async def open_loop(opened: Sequence[Connection], requests: Sequence[bytes], rate: float) -> Run:
    """Send requests at a fixed rate, whatever the answers do; latencies count from when a request was due.

    Requests are due in groups, one a millisecond. One that finds every connection busy waits, and its wait counts.
    """
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for connection in opened:
        free.put_nowait(connection)
    latencies_ms: list[float] = []

    async def send(request: bytes, due: float) -> None:
        connection = await free.get()
        status, _ = await connection.send(request)
        latencies_ms.append((time.perf_counter() - due) * 1000)
        free.put_nowait(connection)
        assert status == 200

    arrivals = ((math.ceil((number + 1) / rate * 1000) / 1000, request) for number, request in enumerate(requests))
    began = time.perf_counter()
    await paced(arrivals, send, began=began)
    return Run(time.perf_counter() - began, np.array(latencies_ms))


async def paced(
    arrivals: Iterable[tuple[float, _T]],
    send: Callable[[_T, float], Coroutine[Any, Any, None]],
    *,
    began: float,
    exact: bool = False,
) -> None:
    """Begin to send each thing when it is due, whatever became of those before; end when all have been answered.

    Args:
        arrivals: seconds after the begin and what to send then, in order.
        send: is given it, and when it was due by `time.perf_counter`: its time counts from then on.
        began: the begin, by the same clock.
        exact: turn the loop for the last milliseconds before something is due, which timers of a whole millisecond
            cannot wait for. It costs the processor time.
    """
    async with asyncio.TaskGroup() as group:
        latest = -1.0
        for offset_s, thing in arrivals:
            due = began + offset_s
            if offset_s > latest:
                await asyncio.sleep(max(0.0, due - time.perf_counter() - (_TIMER_S if exact else 0.0)))
                while exact and time.perf_counter() < due:
                    await asyncio.sleep(0)
            latest = offset_s
            group.create_task(send(thing, due))


def cpu_us(turns: Sequence[Turn]) -> float:
    """The median CPU time of a request, in microseconds."""
    return statistics.median(turn.cpu_us for turn in turns)


def per_second(turns: Sequence[Turn]) -> float:
    """The median of requests per second."""
    return statistics.median(turn.run.per_second for turn in turns)
