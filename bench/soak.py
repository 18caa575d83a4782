"""A service over PostgreSQL and Redis under load, with a fault every few seconds, for as long as it is let.

    python -m bench.soak [--minutes N] [--every SECONDS] [--seed N] [--json FILE]

Writers create, change and delete and keep account, readers compare every answer with what it was in full health. After
each fault the writers pause: what was acknowledged must stand, every breaker must have closed by itself, and descriptors
and tasks of the worker must be what they were before the first fault. What a fault's writers left is forgotten, so that
nothing grows by what it holds; over the last two thirds the worker's memory must not grow either.

    redis stopped, killed, emptied      it takes connections and says nothing; nobody listens; it knows nothing any more
    postgres stopped, backend killed    SIGSTOP of all its processes; kill -9 of one, which takes every connection with it
    network cut, silent, slow           connections to PostgreSQL break; packets vanish; each takes 50 ms longer
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import msgspec
import numpy as np
import psutil

from bench.durability.clients import Client, read_back, writing
from bench.durability.journal import DIMENSIONS, Account, Journal
from bench.harness.load import run
from bench.harness.proxy import BlackHole, Delay, Proxy
from bench.harness.redis_server import RedisServer
from bench.harness.report import Figure, Report, finish, options
from bench.harness.service import Plantable, Service, scratch_dir
from memfast.store.embedded import Cluster
from memfast.store.embedded.process import read_postmaster

__all__ = ["FAULTS", "measure"]

FAULTS = (
    "redis stopped",
    "postgres stopped",
    "network cut",
    "redis emptied",
    "network silent",
    "redis killed",
    "backend killed",
    "network slow",
)
FAULT_S = 4.0
"""How long a fault lasts that has an end, in seconds."""
SETTLE_S = 20.0
"""Seconds after a fault in which everything must be as it was."""
SPARE = 2
"""Descriptors and tasks that may be more than before: a connection for checks that was not needed before."""
GROWTH = 1.02
"""Memory of the worker at the end ÷ after the first third."""
LONG = 18
"""Faults from which on memory is judged."""

_WRITERS, _READERS, _KNOWN, _MEMORIES, _QUESTIONS = 3, 2, 40, 60, 6
_POLL_S = 0.1
_SETTINGS = {
    "embedding.provider": "none",
    "embedding.dimensions": DIMENSIONS,
    "postgres.pool_min": 6,
    "postgres.pool_max": 6,
    "redis.pool_min": 4,
    "redis.pool_max": 4,
    "redis.min_cost_ms": 0,
    "cache.ttl_s": 2,
    "cache.memory_mb": 8,
    "index.memory_mb": 1,
    "links.similar": 0,  # the model knows every version: none may come by itself
    "links.entities": 0,
}
"""Small layers, so that they are full soon, and short lives, so that every tier is asked."""


@dataclass
class _Reads:
    """What readers were told."""

    tiers: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Sample:
    """The worker after a fault, when it had settled, or had had its time."""

    fault: str
    descriptors: int
    tasks: int
    resident_bytes: int
    stuck: list[str]


class _Place:
    """The service and what it stands on."""

    def __init__(self, service: Service, cluster_dir: Path, redis: RedisServer, proxy: Proxy) -> None:
        self.service = service
        self.redis = redis
        self.proxy = proxy
        self._pgdata = cluster_dir / "postgres"

    @property
    def address(self) -> tuple[str, int]:
        return self.service.address

    def worker(self) -> psutil.Process:
        (worker,) = psutil.Process(self.service.pid).children()
        return worker

    def servers(self) -> list[psutil.Process]:
        """Every process of PostgreSQL, the first one first."""
        postmaster = read_postmaster(self._pgdata)
        assert postmaster is not None
        first = psutil.Process(postmaster.pid)
        return [first, *first.children()]

    async def hurt(self, fault: str) -> None:
        """Do what the fault says; those that last are ended after `FAULT_S`."""
        lasting: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "redis stopped": (self.redis.freeze, self.redis.thaw),
            "redis killed": (self.redis.kill, self.redis.start),
            "postgres stopped": (
                lambda: [each.suspend() for each in self.servers()],
                lambda: [each.resume() for each in self.servers()],
            ),
            "network silent": (lambda: self.proxy.faults.append(BlackHole()), self._reconnect),
            "network slow": (lambda: self.proxy.faults.append(Delay(0.05)), self.proxy.faults.clear),
        }
        once: dict[str, Callable[[], Any]] = {
            "redis emptied": lambda: self.redis.do("FLUSHALL"),
            "network cut": self.proxy.cut,
            "backend killed": self._kill_backend,
        }
        if fault in once:
            once[fault]()
            return
        begin, end = lasting[fault]
        begin()
        try:
            await asyncio.sleep(FAULT_S)
        finally:
            end()

    def _reconnect(self) -> None:
        self.proxy.cut()
        self.proxy.faults.clear()

    def _kill_backend(self) -> None:
        backends = [each for each in self.servers()[1:] if "[local]" in "".join(each.cmdline())]
        os.kill(backends[0].pid, signal.SIGKILL)


def measure(
    *,
    faults: tuple[str, ...],
    every_s: float,
    seed: int = 1,
    planted: Plantable | None = None,
    settle_s: float = SETTLE_S,
) -> Report:
    """Run one fault after another, each within `every_s` seconds or as long as it takes."""
    with scratch_dir() as root:
        return run(_measure(root, faults, every_s, seed, planted, settle_s))


async def _measure(
    root: Path, faults: tuple[str, ...], every_s: float, seed: int, planted: Plantable | None, settle_s: float
) -> Report:
    total, reads, samples = Account(), _Reads(), list[_Sample]()
    async with _opened(root, planted) as place:
        worker = place.worker().pid
        right = await _prepare(place)
        readers = [asyncio.create_task(_read(place, right, reads, random.Random(seed + n))) for n in range(_READERS)]
        try:
            before = await _settled(place, "none", None, settle_s, await _cycle(place, "", 0, every_s / 2, total))
            for number, fault in enumerate(faults, 1):
                took_s = await _cycle(place, fault, seed + number, every_s, total)
                samples.append(await _settled(place, fault, before, settle_s, took_s))
                print(samples[-1], f"{total.acknowledged} acknowledged, {len(reads.wrong)} wrong", flush=True)
                for reader in readers:
                    if reader.done():
                        reader.result()
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        same = place.worker().pid == worker
    return _report(total, reads, before, samples, same=same)


@asynccontextmanager
async def _opened(root: Path, planted: Plantable | None) -> AsyncIterator[_Place]:
    """Everything started; nothing of it is left."""
    cluster = Cluster(root / "server")
    async with AsyncExitStack() as stack:
        endpoint = await asyncio.to_thread(cluster.start)
        stack.push_async_callback(asyncio.to_thread, cluster.stop)
        connection = await asyncpg.connect(**endpoint.connect_arguments())
        await connection.execute("CREATE DATABASE soak")
        await connection.close()
        (root / "redis").mkdir()
        redis = await asyncio.to_thread(RedisServer, root / "redis")
        stack.callback(redis.close)
        target = endpoint.socket_dir / f".s.PGSQL.{endpoint.port}"
        proxy = await stack.enter_async_context(Proxy(target, root / ".s.PGSQL.5432"))
        dsn = (
            f"postgresql://{endpoint.user}:{quote(endpoint.password)}@/soak?host={quote(str(root), safe='')}&port=5432"
        )
        settings = _SETTINGS | {"postgres.dsn": dsn, "redis.url": redis.url}
        words = tuple(word for name, value in settings.items() for word in ("--set", f"{name}={value}"))
        service = Service(root / "data", settings=words, planted=planted)
        await asyncio.to_thread(service.__enter__)
        stack.push_async_callback(asyncio.to_thread, service.__exit__)
        yield _Place(service, root / "server", redis, proxy)


async def _prepare(place: _Place) -> dict[tuple[str, str], bytes]:
    """Users that never change, and the right answers to questions about them."""
    rng, client = np.random.default_rng(4), Client(place.address)

    def vector() -> str:
        return base64.b64encode(rng.standard_normal(DIMENSIONS).astype("<f4").tobytes()).decode()

    right = {}
    try:
        for user in (f"known-{number}" for number in range(_KNOWN)):
            memories = [{"text": f"{n} of {user}", "embedding": vector()} for n in range(_MEMORIES)]
            status, _, told = await client.ask("POST", "/v1/memories/batch", {"user_id": user, "memories": memories})
            assert status == 200, told
            for question in (vector() for _ in range(_QUESTIONS)):
                status, _, told = await client.ask("POST", "/v1/search", {"user_id": user, "embedding": question})
                assert status == 200, told
                right[user, question] = told
    finally:
        client.close()
    return right


async def _read(place: _Place, right: dict[tuple[str, str], bytes], reads: _Reads, chance: random.Random) -> None:
    """Ask for ever; every answer that is given must be the right one."""
    client, asked = Client(place.address), list(right)
    try:
        while True:
            user, question = key = chance.choice(asked)
            status, _, told = await client.ask("POST", "/v1/search", {"user_id": user, "embedding": question})
            if status == 200 and told == right[key]:
                reads.tiers[client.tier] = reads.tiers.get(client.tier, 0) + 1
            elif status in {503, 504}:
                reads.refused += 1
            else:
                reads.wrong.append(f"{status}: {told[:200]!r}")
            await asyncio.sleep(0.01)
    finally:
        client.close()


async def _cycle(place: _Place, fault: str, seed: int, every_s: float, total: Account) -> float:
    """Write, suffer, write on; then compare, and forget. Returns the seconds since the fault was over."""
    journal, users = Journal(), [f"cycle-{seed}-{number}" for number in range(3)]
    began = time.monotonic()
    async with writing(place.address, journal, users, writers=_WRITERS, seed=seed):
        await asyncio.sleep(every_s / 4)
        if fault:
            await place.hurt(fault)
        over = time.monotonic()
        await asyncio.sleep(max(1.0, began + every_s - over))
    await read_back(place.address, journal)
    total.add(journal.account)
    await _forget(place, journal.users())
    return time.monotonic() - over


async def _forget(place: _Place, users: list[str]) -> None:
    client = Client(place.address)
    try:
        for user in users:
            async with asyncio.timeout(SETTLE_S):
                while (await client.ask("DELETE", f"/v1/users/{user}"))[0] not in {200, 404}:
                    await asyncio.sleep(_POLL_S)
    finally:
        client.close()


async def _settled(place: _Place, fault: str, before: _Sample | None, settle_s: float, since_s: float) -> _Sample:
    """The worker once it is as before, or when its time is over."""
    client, worker = Client(place.address), place.worker()
    until = time.monotonic() + max(2.0, settle_s - since_s)
    try:
        while True:
            health = await _asked(client, "/v1/health")
            tasks = (await _asked(client, "/v1/background"))["tasks"]
            stuck = [each["name"] for each in health["breakers"] if each["state"] != "closed"]
            stuck += [] if health["mode"] == "full" else [f"mode {health['mode']}"]
            memory = worker.memory_info()
            sample = _Sample(fault, worker.num_fds(), tasks, memory.rss - memory.shared, stuck)
            calm = before is None or (
                sample.descriptors <= before.descriptors + SPARE and sample.tasks <= before.tasks + SPARE
            )
            if (calm and not stuck) or time.monotonic() > until:
                return sample
            await asyncio.sleep(_POLL_S)
    finally:
        client.close()


async def _asked(client: Client, path: str) -> dict[str, Any]:
    while True:
        with contextlib.suppress(ConnectionError):
            status, _, told = await client.ask("GET", path)
            if status == 200 or (status == 503 and path == "/v1/health"):
                return msgspec.json.decode(told)
        await asyncio.sleep(_POLL_S)


def _report(total: Account, reads: _Reads, before: _Sample, samples: list[_Sample], *, same: bool) -> Report:
    for told in (*total.told[:5], *reads.wrong[:5]):
        print(told)
    figures = [
        Figure("faults", len(samples), at_least=1),
        Figure("acknowledged", total.acknowledged, at_least=1),
        Figure("acknowledged and lost, or otherwise not as it was told", total.wrong, at_most=0),
        Figure("reads compared", sum(reads.tiers.values()), at_least=1),
        Figure("wrong answers", len(reads.wrong), at_most=0),
        Figure("faults after which a breaker or a mode stayed", sum(bool(each.stuck) for each in samples), at_most=0),
        Figure("descriptors at the end above the start", samples[-1].descriptors - before.descriptors, at_most=SPARE),
        Figure("tasks at the end above the start", samples[-1].tasks - before.tasks, at_most=SPARE),
        Figure("workers that were replaced", int(not same), at_most=0),
    ]
    if len(samples) >= LONG:
        sixth = len(samples) // 6
        first, last = (
            statistics.median(each.resident_bytes for each in part)
            for part in (samples[2 * sixth : 3 * sixth], samples[-sixth:])
        )
        figures.append(Figure("memory at the end ÷ after the first third", last / first, at_most=GROWTH))
    return Report(
        figures, {"samples": [vars(each) for each in samples], "tiers": reads.tiers, "refused": reads.refused}
    )


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--minutes", type=float, default=30.0, help="how long")
        parser.add_argument("--every", type=float, default=20.0, help="seconds from one fault to the next")
        parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")

    chosen = options(__doc__ or "", more, timed=False)
    count = max(1, round(chosen.minutes * 60 / chosen.every))
    faults = tuple(FAULTS[number % len(FAULTS)] for number in range(count))
    return finish(measure(faults=faults, every_s=chosen.every, seed=chosen.seed), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
