"""Whether a service that was knocked over stands up again by itself, under the load that it had: see `bench.overload`.

The load is four fifths of what the service can do with everything warm, sent by the clock whether answers come or not.
Half of it are questions that were asked before, half are new ones about users who are in memory. The trigger takes
every copy, kills every worker and stops PostgreSQL for a while; cold, the service cannot do what it is asked for. What
keeps such a state alive after its trigger has gone (retries, queues of requests that nobody waits for any more, copies
that are never made because nothing is answered in time) would keep it alive here too.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from bench.durability.clients import Client
from bench.harness.corpus import fill, unit_vectors
from bench.harness.load import closed_loop, connections, run
from bench.harness.report import Figure, Report, number, print_table
from bench.harness.service import Service, scratch_dir
from memfast.store.embedded.process import read_postmaster

__all__ = ["measure"]

SHARE = 0.8
TIMES = 2.0
"""How many times its former 99th percentile the service may take when it has recovered."""
BACK_S = 10.0
"""Seconds after the end of the trigger by which it must have."""

USERS, MEMORIES, KEPT = 60, 300, 10
LINES = 256
CLIENTS = 8
WINDOW_S = 1.0
_AFTER_S = 25.0
_UNSENT = -1
_STEADY = 3
"""Windows in a row that must be good."""


@dataclass
class _Load:
    """What became of requests: when each was due, its milliseconds from then on, and its status, 0 without an answer."""

    began: float = field(default_factory=time.perf_counter)
    told: list[tuple[float, float, int]] = field(default_factory=list)

    def window(self, start: float) -> tuple[float, float]:
        """The 99th percentile of those due in the second after `start`, in ms, and the share that was answered.

        Who was not answered waits for ever: below 99 percent answered there is no 99th percentile.
        """
        taken = self.between(start, start + WINDOW_S)
        if not taken:
            return float("inf"), 0.0
        times = [ms if status == 200 else float("inf") for ms, status in taken]
        p99_ms = float(np.percentile(times, 99, method="higher"))
        return p99_ms, sum(status == 200 for _, status in taken) / len(taken)

    def between(self, start: float, end: float) -> list[tuple[float, int]]:
        """Milliseconds and status of each that was due in this time."""
        return [(ms, status) for due, ms, status in self.told if start <= due < end]


def measure(*, quick: bool = False) -> Report:
    """Knock a service over and watch it."""
    with (
        scratch_dir() as root,
        Service(root / "data", settings=("--set", "server.workers=2", "--set", "server.backlog=4096")) as service,
    ):
        return run(_measure(service, stall_s=3.0 if quick else 10.0, calm_s=5.0 if quick else 15.0))


async def _measure(service: Service, *, stall_s: float, calm_s: float) -> Report:
    rng = np.random.default_rng(33)
    users = [f"user-{number}" for number in range(USERS)]
    async with connections(service.address, 1) as (line,):
        for user in users:
            await fill(line, user, MEMORIES, rng)
    lines = [Client(service.address) for _ in range(LINES)]
    work = _questions(users, rng)
    try:
        rate = SHARE * await _capacity(lines[:CLIENTS], work)
        load = _Load()
        sending = asyncio.create_task(_send(lines, work, rate, load))
        await asyncio.sleep(calm_s)
        knocked = time.perf_counter()
        await _knock_over(service, lines[0], stall_s)
        over = time.perf_counter()
        await asyncio.sleep(_AFTER_S)
        sending.cancel()
        await asyncio.wait([sending])
    finally:
        for each in lines:
            each.close()
    return _report(load, rate, calm_s, knocked, over)


def _questions(users: list[str], rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Requests without end: one of a few that are asked again and again, then one that nobody asked."""
    chance = random.Random(5)

    def body(vector: Any) -> dict[str, Any]:
        return {"user_id": chance.choice(users), "embedding": base64.b64encode(vector.tobytes()).decode(), "limit": 10}

    kept = [body(vector) for vector in unit_vectors(rng, USERS * KEPT)]
    while True:
        for vector in unit_vectors(rng, 1000):
            yield chance.choice(kept)
            yield body(vector)


async def _capacity(lines: list[Client], work: Iterator[dict[str, Any]]) -> float:
    """Answers a second of a closed loop, once everything is warm."""

    def sender(line: Client) -> Any:
        async def send(body: dict[str, Any]) -> None:
            status, _, told = await line.ask("POST", "/v1/search", body)
            assert status == 200, told[:300]

        return send

    senders = [sender(line) for line in lines]
    for count in (3000, 3000):
        done = await closed_loop(list(itertools.islice(work, count)), senders)
    return done.per_second


async def _send(lines: list[Client], work: Iterator[dict[str, Any]], rate: float, load: _Load) -> None:
    """Send by the clock for ever. What is due when no line is free was not answered."""
    free = list(lines)
    under_way: set[asyncio.Task[None]] = set()

    async def ask(line: Client, due: float) -> None:
        status = 0
        with contextlib.suppress(ConnectionError):
            status, _, _ = await line.ask("POST", "/v1/search", next(work))
        load.told.append((due, (time.perf_counter() - due) * 1000, status))
        free.append(line)

    sent, began = 0, time.perf_counter()
    try:
        while True:
            while (due := began + sent / rate) <= time.perf_counter():
                sent += 1
                if not free:
                    load.told.append((due, 0.0, _UNSENT))
                    continue
                under_way.add(task := asyncio.create_task(ask(free.pop(), due)))
                task.add_done_callback(under_way.discard)
            await asyncio.sleep(0.001)
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _knock_over(service: Service, line: Client, stall_s: float) -> None:
    """Take every copy, kill every worker, stop PostgreSQL for a while."""
    spare = Client(service.address)
    await spare.ask("POST", "/v1/cache/clear")
    spare.close()
    postmaster = read_postmaster(service.data_dir / "postgres")
    assert postmaster is not None
    first = psutil.Process(postmaster.pid)
    stopped = [first, *first.children()]
    try:
        for each in stopped:
            each.suspend()
        for worker in psutil.Process(service.pid).children():
            if worker.name() != "postgres":
                os.kill(worker.pid, signal.SIGKILL)
        await asyncio.sleep(stall_s)
    finally:
        for each in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()


def _report(load: _Load, rate: float, calm_s: float, knocked: float, over: float) -> Report:
    before = [load.window(knocked - 1 - n * WINDOW_S)[0] for n in range(int(calm_s) - 2)]
    calm_ms = float(np.median(before))
    after = [load.window(over + n * WINDOW_S / 2) for n in range(int(2 * (_AFTER_S - 1)))]
    good = [p99_ms <= TIMES * calm_ms for p99_ms, _ in after]
    steady = (n for n in range(len(good)) if all(good[n : n + 2 * _STEADY]))
    back_s = next((n * WINDOW_S / 2 for n in steady), float("inf"))
    print(f"{number(rate)} searches a second, half of them new; the trigger took {over - knocked:.1f} s")
    parts = [
        ("before", load.between(knocked - calm_s, knocked)),
        ("during", load.between(knocked, over)),
        *((f"{n} to {n + 5} s after", load.between(over + n, over + n + 5)) for n in range(0, 20, 5)),
    ]
    for name, part in parts:
        statuses = Counter("not sent" if status == _UNSENT else status or "cut off" for _, status in part)
        print(f"{name}: {dict(statuses)}")
    rows = [
        (f"{n / 2:.1f}", number(p99_ms), f"{share:.1%}") for n, (p99_ms, share) in enumerate(after[:30]) if n % 2 == 0
    ]
    print_table(("s after the trigger", "p99 ms", "answered"), rows)
    return Report(
        [
            Figure("before the trigger: p99 by second, median", calm_ms, "ms"),
            Figure(f"after it: seconds until p99 is {TIMES:g} times that at most", back_s, "s", at_most=BACK_S),
        ],
        {"rate": rate, "before_ms": before, "after": after},
    )
