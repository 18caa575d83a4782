"""Times the scenes, one service after another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.budget.scenes import DELAY_S, SCENES, Case, Scene, World
from bench.budget.stages import MEASURES, StageRow, scraped, stage_rows
from bench.harness.endpoint import slow_endpoint
from bench.harness.load import connections
from bench.harness.redis_server import RedisServer
from bench.harness.service import Service, scratch_dir
from bench.harness.turns import take_turn

__all__ = ["CLIENTS", "PATIENCE", "Effort", "Found", "Row", "expected", "expected_stages", "measure"]

CLIENTS = (1, 16, 64)
PATIENCE = {"server.read_timeout_s": 30, "server.write_timeout_s": 30}
"""Nothing is refused because it takes long: it is timed."""

_WARM_UP = 0.1
_STRAYS = 0.05
"""The share of answers that may come from elsewhere: a copy that has just been made, or was just given up."""


@dataclass(frozen=True)
class Effort:
    """How much is measured: requests of a quick operation, and memories of the user."""

    requests: int = 2000
    memories: int = 10_000


@dataclass(frozen=True)
class Row:
    """One operation for so many clients: percentiles, requests a second, CPU time of the worker for one of them."""

    scene: str
    name: str
    tier: str
    clients: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    per_second: float
    cpu_us: float

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What it speaks of."""
        return self.scene, self.name, self.tier, self.clients


@dataclass(frozen=True)
class Found:
    """Everything that the page tells."""

    rows: list[Row]
    stages: list[StageRow]


def expected_stages(scenes: Sequence[Scene] = SCENES) -> list[tuple[str, str]]:
    """Search and measure of all rows of stages, in order."""
    searches = [_label(scene, case) for scene in scenes for case in scene.cases if _has_stages(case)]
    return [(search, measure) for search in searches for measure in MEASURES]


def expected(scenes: Sequence[Scene] = SCENES) -> list[tuple[str, str, str, int]]:
    """The keys of all rows, in order."""
    return [(scene.name, case.name, case.tier, n) for scene in scenes for case in scene.cases for n in CLIENTS]


async def measure(effort: Effort, scenes: Sequence[Scene] = SCENES) -> Found:
    """The rows of these scenes, in the order of `expected` and `expected_stages`."""
    found = Found([], [])
    for scene in scenes:
        print(f"== {scene.name}", flush=True)
        with scratch_dir() as root:
            async with _service(scene, root) as service:
                world = World(service.address, effort.memories)
                await world.prepare()
                for case in scene.cases:
                    for clients in CLIENTS:
                        await _time(scene, case, service, world, effort, clients, found)
    return found


@asynccontextmanager
async def _service(scene: Scene, root: Path) -> AsyncIterator[Service]:
    """The service of a scene, with what it needs beside it."""
    settings = {**PATIENCE, **scene.settings}
    with ExitStack() as stack:
        async with AsyncExitStack() as beside:
            if scene.needs == "redis":
                (folder := root / "redis").mkdir()
                redis = RedisServer(folder)
                stack.callback(redis.close)
                settings["redis.url"] = redis.url
            elif scene.needs == "embedder":
                settings["embedding.base_url"] = await beside.enter_async_context(slow_endpoint(DELAY_S))
            words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
            service = Service(root / "data", settings=tuple(words))
            await asyncio.to_thread(
                service.__enter__
            )  # it may ask the endpoint, which is on this loop, before it is ready
            try:
                yield service
            finally:
                await asyncio.to_thread(service.__exit__)


async def _time(
    scene: Scene, case: Case, service: Service, world: World, effort: Effort, clients: int, found: Found
) -> None:
    count = max(clients, int(effort.requests * case.share))
    before = int(count * _WARM_UP) + 1
    work = await case.work(world, before + count)
    tier = case.tier.encode()
    async with connections(service.address, clients) as opened:
        await take_turn(service, opened, work[:before], tier, strays=1.0)
        begun = await scraped(service.address)
        turn = await take_turn(service, opened, work[before:], tier, strays=_STRAYS)
        ended = await scraped(service.address)
    percentiles = [turn.run.percentile_ms(p) for p in (50, 95, 99)]
    found.rows.append(Row(scene.name, case.name, case.tier, clients, *percentiles, turn.run.per_second, turn.cpu_us))
    if clients == 1 and _has_stages(case):
        told = (float(turn.run.latencies_ms.mean()), *percentiles)
        whole_us = {measure: value * 1000 for measure, value in zip(MEASURES, told, strict=True)}
        found.stages.extend(stage_rows(_label(scene, case), begun, ended, whole_us))
    shown = ", ".join(f"{value:.2f}" for value in percentiles)
    print(f"{case.name} ({case.tier or 'write'}), {clients} clients: {shown} ms", flush=True)


def _has_stages(case: Case) -> bool:
    return case.name.startswith("search") and case.tier in {"warm", "cold"}


def _label(scene: Scene, case: Case) -> str:
    return f"{scene.name}: {case.name} ({case.tier})"
