"""What memfast takes of the machine: memory, time to map what was saved, and rest.

    python -m bench.footprint [--quick] [--planted] [--json FILE]

Memory is PSS: a page that n processes share counts an n-th in each. Floors are what cannot be spared: a memory's
vector and its JSON, and reading the bytes of the files that are mapped. The milliseconds of pressure and of a start
with snapshots are those of this machine, and for reading only.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import asyncpg
import numpy as np
import psutil

from bench.harness.corpus import fill, unit_vectors
from bench.harness.load import Connection, call, connections, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, options
from bench.harness.service import READY, Planted, Service, scratch_dir
from bench.harness.shards import ROWS, Holder, empty_pool, made_up, scope_of
from memfast.index.pool import ShardPool
from memfast.kernels import ByteCache
from memfast.ports import Shard
from memfast.resilience.clock import SystemClock
from memfast.service.answers import KEY_BYTES, Answers
from memfast.service.coherence import Coherence
from memfast.service.heat import Heat
from memfast.service.pressure import CLEAN_UP_SHARE, Pressure

__all__ = ["measure"]

GATE_MEMORY = 1.3
"""Bytes that a warm memory may take for one byte of its vector and JSON, without int8 images."""
GATE_PICK = 3.0
"""How many times the reading of its files a fresh process may take to map all users and ask each."""
GATE_SERVICE_MB = 1024.0
"""The service with 5,000 memories, without PostgreSQL, in MiB."""
GATE_IDLE_PERCENT = 1.0
"""Of one core, while nobody asks."""

SCOPES = 1000
"""Users with 1,000 memories each."""
SNAPSHOTS = 100
"""Users that a start finds saved."""

_USERS = 5
_IDLE_S = 10.0
_SETTLE_S = 3.0
_WAIT_S = 60.0
_POLL_S = 0.01
_MIB = 1024 * 1024
_CPU_CLOCK = 2
_ENTRIES, _ENTRY_BYTES = 50_000, 4096
"""A full cache of answers: the entries of the profile high-traffic, ten hits each."""
_NEVER_NS = 2**62
_LARGE_ROWS = 20_000


class _Heavy(Planted):
    """A service that wastes a gigabyte and a twentieth of a core."""

    def program(self) -> list[str]:
        """The module that runs it."""
        return ["bench.harness.heavy"]


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure all of it, one after another."""
    report = Report([])
    with scratch_dir() as directory:
        _measure_shards(report, directory, SCOPES // 10 if quick else SCOPES, planted=planted)
        _measure_pick(report, directory, SCOPES // 10 if quick else SCOPES, pairs=5 if quick else 9, planted=planted)
    with scratch_dir() as directory:
        run(_measure_service(report, directory / "data", _Heavy() if planted else None))
    run(_measure_pressure(report, steps=200 if quick else 1000))
    with scratch_dir() as directory:
        _measure_start(report, directory / "data", SNAPSHOTS // 5 if quick else SNAPSHOTS)
    return report


def _measure_shards(report: Report, directory: Path, scopes: int, *, planted: bool) -> None:
    """Memory of shards that were built, of mapped ones, and of two processes that map the same."""

    def taken(holders: list[Holder], word: str) -> tuple[int, list[dict[str, float]]]:
        before = sum(holder.pss_bytes() for holder in holders)
        answers = [holder.tell(word) for holder in holders]
        return sum(holder.pss_bytes() for holder in holders) - before, answers

    part = min(scopes, 100)
    with Holder(directory, part, int8=True) as holder:
        size, (answer,) = taken([holder], "build")
        image = size / answer["content_bytes"]
    with Holder(directory, scopes, planted=planted) as holder:
        size, (answer,) = taken([holder], "build")
    content_bytes = answer["content_bytes"]
    ratios = {"built": size / content_bytes}
    with Holder(directory, scopes, planted=planted) as one:
        ratios["mapped"] = taken([one], "pick")[0] / content_bytes
    with Holder(directory, scopes, planted=planted) as one, Holder(directory, scopes, planted=planted) as two:
        ratios["mapped by two processes, together"] = taken([one, two], "pick")[0] / content_bytes
    named = f"memory of {scopes * ROWS:,} warm memories ÷ vectors and JSON"
    for how, ratio in ratios.items():
        report.figures.append(Figure(f"{named}: {how}", ratio, at_most=GATE_MEMORY))
    report.figures.append(Figure(f"the same of {part * ROWS:,} with int8 images: built", image))
    report.details["shards"] = {"content_bytes": content_bytes, "ratios": ratios, "int8": image}


def _measure_pick(report: Report, directory: Path, scopes: int, *, pairs: int, planted: bool) -> None:
    """Mapping and asking every user in a fresh process beside reading the same bytes in another."""

    async def subject(_number: int) -> dict[str, float]:
        with Holder(directory, scopes, planted=planted) as holder:
            return holder.tell("pick")

    async def floor(_number: int) -> dict[str, float]:
        with Holder(directory, scopes) as holder:
            return holder.tell("read")

    run(interleaved(subject, floor, 1))
    measured = run(interleaved(subject, floor, pairs))
    ratio, cpu_ratio = (
        median_ratio([pick[clock] for pick, _ in measured], [read[clock] for _, read in measured])
        for clock in ("seconds", "cpu_s")
    )
    pick_s = statistics.median(pick["seconds"] for pick, _ in measured)
    report.figures.extend(
        [
            Figure(f"mapping and asking {scopes:,} users ÷ reading their files", ratio, at_most=GATE_PICK),
            Figure("  the same by CPU time", cpu_ratio),
            Figure("  mapping and asking alone", pick_s, "s"),
        ]
    )
    report.details["pick"] = measured


async def _measure_service(report: Report, data_dir: Path, planted: Planted | None) -> None:
    """Memory and rest of a service with 5,000 warm memories."""
    rng = np.random.default_rng(5)
    with Service(data_dir, planted=planted) as service:
        async with connections(service.address, 1) as (connection,):
            for user in range(_USERS):
                await fill(connection, f"user-{user}", ROWS, rng)
            for user in range(_USERS):
                await _warm(connection, f"user-{user}", rng)
        await asyncio.sleep(_SETTLE_S)
        own, database = _processes(service)
        pss_bytes = [sum(process.memory_full_info().pss for process in part) for part in (own, database)]
        before_s = [_cpu_s(own), _cpu_s(database)]
        began = time.perf_counter()
        await asyncio.sleep(_IDLE_S)
        elapsed_s = time.perf_counter() - began
        after_s = [_cpu_s(own), _cpu_s(database)]
    idle = [(after - before) / elapsed_s * 100 for before, after in zip(before_s, after_s, strict=True)]
    named = f"the service with {_USERS * ROWS:,} memories"
    report.figures.extend(
        [
            Figure(f"{named}: memory", pss_bytes[0] / _MIB, "MiB", at_most=GATE_SERVICE_MB),
            Figure("  and its PostgreSQL", pss_bytes[1] / _MIB, "MiB"),
            Figure(f"{named}: CPU in rest", idle[0], "% of a core", at_most=GATE_IDLE_PERCENT),
            Figure("  and its PostgreSQL", idle[1], "% of a core"),
        ]
    )
    report.details["service"] = {"pss_bytes": pss_bytes, "idle_percent": idle}


async def _warm(connection: Connection, user_id: str, rng: np.random.Generator) -> None:
    """Search until the user is answered from memory, then once by text, so that the model is there too."""
    deadline = time.perf_counter() + _WAIT_S
    while b"memfast-tier: warm" not in connection.head:
        if time.perf_counter() > deadline:
            raise RuntimeError(f"{user_id} is not warm after {_WAIT_S:g} s")
        query = unit_vectors(rng, 1)[0].tolist()
        await call(connection, "POST", "/v1/search", {"user_id": user_id, "embedding": query})
    await call(connection, "POST", "/v1/search", {"user_id": user_id, "query": "Who painted the blue kitchen?"})


def _processes(service: Service) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """The service's own processes, and those of its PostgreSQL."""
    parent = psutil.Process(service.pid)
    everything = [parent, *parent.children(recursive=True)]
    database = [process for process in everything if process.name() == "postgres"]
    return [process for process in everything if process not in database], database


def _cpu_s(processes: list[psutil.Process]) -> float:
    """CPU time of processes since they were started, of the clock that each has: clock_getcpuclockid(3)."""
    return sum(time.clock_gettime(~process.pid << 3 | _CPU_CLOCK) for process in processes)


async def _measure_pressure(report: Report, *, steps: int) -> None:
    """Steps of letting answers go and of sweeping, on a cache that is full each time; then all go, and large users."""
    cache = ByteCache(2 * _ENTRIES * _ENTRY_BYTES, entry_limit=_ENTRIES, ttl_ns=2**60, idle_ns=2**60)
    requests = ByteCache(1, entry_limit=1, ttl_ns=1, idle_ns=1)
    # Neither step asks whether an answer still holds or counts a read.
    coherence = cast("Coherence", SimpleNamespace(slots=None))
    answers = Answers({"search": cache}, requests, coherence, cast("Heat", None), SystemClock())
    pressure = Pressure(1000, lambda: int(CLEAN_UP_SHARE * 1000), (answers,), lambda: None)
    keys = itertools.count()
    swept: list[_Step] = []
    for _ in range(steps):
        _fill_cache(cache, keys, time.monotonic_ns())
        with _timed(swept):
            answers.sweep()
    cache.clear()
    released: list[_Step] = []
    for _ in range(steps):
        _fill_cache(cache, keys, _NEVER_NS)
        with _timed(released):
            await pressure.relieve()
    emptied: list[_Step] = []
    while len(cache):
        with _timed(emptied):
            await pressure.relieve()
    for name, times in (
        ("release of 4 MiB of answers", released),
        ("sweep of expired answers", swept),
        ("release until none is left", emptied),
        (f"release of a user of {_LARGE_ROWS:,} memories", _large_users()),
    ):
        report.details[name] = times
        p99_ms, cpu_p99_ms = np.percentile([(step.wall_ms, step.cpu_ms) for step in times], 99, axis=0).tolist()
        report.figures.append(Figure(f"{name}: p99 of {len(times):,} steps (wanted: 2)", p99_ms, "ms"))
        report.figures.append(Figure("  the same by CPU time", cpu_p99_ms, "ms"))


@dataclass(frozen=True)
class _Step:
    """What a step took of the clock and of this thread's CPU time, which others on the machine do not lengthen."""

    wall_ms: float
    cpu_ms: float


@contextmanager
def _timed(steps: list[_Step]) -> Iterator[None]:
    began, cpu_began = time.perf_counter(), time.thread_time()
    yield
    cpu_s = time.thread_time() - cpu_began
    steps.append(_Step((time.perf_counter() - began) * 1000, cpu_s * 1000))


def _fill_cache(cache: ByteCache, keys: Iterator[int], deadline_ns: int) -> None:
    for key in itertools.islice(keys, _ENTRIES - len(cache)):
        now_ns = deadline_ns - 1 if deadline_ns < _NEVER_NS else time.monotonic_ns()
        cache.put(key.to_bytes(KEY_BYTES, "big"), bytes(_ENTRY_BYTES), 1, 0, 0, 1, deadline_ns, now_ns)


def _large_users() -> list[_Step]:
    """Letting large users go, each in one step."""
    pool = empty_pool(Path(), int8=True)
    for number in range(_USERS):
        pool.put(scope_of(number).id, _large_shard(pool, number))
    steps: list[_Step] = []
    while pool.nbytes:
        with _timed(steps):
            pool.release(1)
    return steps


def _large_shard(pool: ShardPool, number: int) -> Shard:
    return pool.build(scope_of(number), made_up(np.random.default_rng(number), number, _LARGE_ROWS))


def _measure_start(report: Report, data_dir: Path, users: int) -> None:
    """Saving users by the command, and a start that finds them, until it has loaded all."""
    with Service(data_dir) as service:
        run(_fill_users(service, users))
    command = [sys.executable, "-m", "memfast", "warm", "--data-dir", str(data_dir), "--limit", str(users)]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    saved_s = time.perf_counter() - began
    with Service(data_dir, wait=False) as service:
        ready_s = service.wait_for(READY)
        run(_until_warm(service, users))
        warm_s = time.perf_counter() - service.started_at
    named = f"{users} saved users of {ROWS:,} memories"
    report.figures.extend(
        [
            Figure(f"{named}: `memfast warm` takes", saved_s, "s"),
            Figure(f"{named}: a start until it is ready", ready_s, "s"),
            Figure(f"{named}: a start until all are warm", warm_s, "s"),
        ]
    )
    report.details["start"] = {"saved_s": saved_s, "ready_s": ready_s, "warm_s": warm_s}


async def _fill_users(service: Service, users: int) -> None:
    """Memories, and a search of each user that has reached the statistics, which name what is warmed."""
    rng = np.random.default_rng(100)
    async with connections(service.address, 1) as (connection,):
        for user in range(users):
            await fill(connection, f"user-{user}", ROWS, rng)
            query = unit_vectors(rng, 1)[0].tolist()
            await call(connection, "POST", "/v1/search", {"user_id": f"user-{user}", "embedding": query})
    database = await asyncpg.connect(**service.database())
    try:
        async with asyncio.timeout(_WAIT_S):
            while await database.fetchval("SELECT count(*) FROM access_stats") < users:
                await asyncio.sleep(_POLL_S)
    finally:
        await database.close()


async def _until_warm(service: Service, users: int) -> None:
    async with asyncio.timeout(_WAIT_S), connections(service.address, 1) as (connection,):
        while not (warming := (await call(connection, "GET", "/v1/health/ready"))["warming"])["done"]:
            await asyncio.sleep(_POLL_S)
    if warming["users"] != users:
        raise RuntimeError(f"the start warmed {warming['users']} users, not {users}")


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
