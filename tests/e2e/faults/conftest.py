"""A real service over a real PostgreSQL, with a proxy between them that fails on demand."""

import asyncio
import base64
import contextlib
import shutil
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import httpx
import numpy as np
import psutil
import pytest
import pytest_asyncio

from memfast.store.embedded import Cluster

sys.path.insert(0, str(Path(__file__).parents[3]))  # `bench` stands beside `tests` and is not installed

from bench.harness.proxy import Proxy

DIMENSIONS = 8
BOUND_S = 40.0
"""How long a test waits for anything before it fails."""


@pytest.fixture(scope="module")
def server(new_server, session_base):
    """A PostgreSQL of this module's own, which it may kill and stop."""
    cluster = Cluster(session_base / "faults", major=18)
    yield new_server(cluster)
    cluster.stop()


def vector(number):
    """A vector as base64, the same for the same number."""
    return base64.b64encode(np.random.default_rng(number).standard_normal(DIMENSIONS).astype("<f4").tobytes()).decode()


class World:
    """A service, clients that never stop asking it, and what they were told."""

    def __init__(self, service, server, dsn, proxy):
        self.service = service
        self.server = server
        self.proxy = proxy
        self.client = httpx.AsyncClient(base_url=service.url, timeout=30.0, trust_env=False, verify=False)
        self.acknowledged = {}
        self.refused = []
        self.reads = []
        self.cold = []
        self.wrong = []
        self.dsn = dsn
        self._tasks = []

    async def prepare(self):
        """One user of whom everything is kept and warm; then begin to ask."""
        items = [{"text": f"m{n}", "embedding": vector(n)} for n in range(20)]
        (await self.client.post("/v1/memories/batch", json={"user_id": "known", "memories": items})).raise_for_status()
        (await self.client.post("/v1/warm", json={"users": ["known"]})).raise_for_status()
        self._kept = {"user_id": "known", "embedding": vector(100)}
        self._kept_bytes = (await self.client.post("/v1/search", json=self._kept)).content
        self.workers = self.service.workers()
        loops = (self._write, self._write, self._read, *[self._read_cold] * 6)
        self._tasks = [asyncio.create_task(loop(number)) for number, loop in enumerate(loops)]
        await self.until(lambda: len(self.acknowledged) >= 20)

    def forget(self):
        """What was told so far belongs to another test."""
        for told in (self.refused, self.reads, self.cold, self.wrong):
            told.clear()

    async def until(self, condition):
        """Wait until something is so, at most `BOUND_S`; gives the seconds that took."""
        began = time.monotonic()
        while not condition():
            for task in self._tasks:
                if task.done():
                    task.result()
            assert time.monotonic() < began + BOUND_S, f"did not happen: {self.refused[-3:]} {self.reads[-3:]}"
            await asyncio.sleep(0.01)
        return time.monotonic() - began

    def written_since(self, moment):
        return any(at > moment for at in self.acknowledged.values())

    def modes_since(self, moment):
        return {mode for at, mode, _ in self.reads if at > moment}

    async def lost(self):
        """Acknowledged memories that the database does not have."""
        acknowledged = set(self.acknowledged)  # now: more come in while the database is read
        connection = await asyncpg.connect(self.dsn)
        try:
            rows = await connection.fetch("SELECT id::text FROM memories WHERE deleted_at IS NULL")
        finally:
            await connection.close()
        return acknowledged - {row["id"] for row in rows}

    async def pause(self):
        """Ask no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def end(self):
        await self.pause()
        await self.client.aclose()

    async def _write(self, number):
        while True:
            began = time.monotonic()
            body = {"user_id": f"writer {number}", "text": "written", "embedding": vector(number)}
            answer = await self.client.post("/v1/memories", json=body)
            took_s = time.monotonic() - began
            if answer.status_code == 201:
                self.acknowledged[answer.json()["id"]] = time.monotonic()
            else:
                self.refused.append((began, answer.status_code, answer.json()["detail"], took_s))
            await asyncio.sleep(0.01)

    async def _read(self, _number):
        asked = 1000
        while True:
            asked += 1
            kept = await self.client.post("/v1/search", json=self._kept)
            warm = await self.client.post("/v1/search", json={"user_id": "known", "embedding": vector(asked)})
            if kept.content != self._kept_bytes or warm.status_code != 200 or len(warm.json()["results"]) != 10:
                self.wrong.append((kept.text, warm.text))
            for answer in (kept, warm):
                self.reads.append((time.monotonic(), answer.headers.get("memfast-mode"), answer.headers.get("age")))
            await asyncio.sleep(0.01)

    async def _read_cold(self, number):
        asked = 0
        while True:
            asked += 1
            answer = await self.client.post(
                "/v1/search", json={"user_id": f"cold {number} {asked}", "embedding": vector(asked)}
            )
            self.cold.append((time.monotonic(), answer.status_code))
            await asyncio.sleep(0.02)

    def processes(self):
        """Every process of PostgreSQL, the first one first."""
        first = psutil.Process(self.server.cluster._child.pid)
        return [first, *first.children(recursive=True)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(server, serve_module):
    """A service that reaches PostgreSQL through the proxy, under way. Its times are short: tests wait for them."""
    name = f"faults_{time.monotonic_ns()}"
    dsn = server.new_database(name)
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="mfp-"))
    target = server.endpoint.socket_dir / f".s.PGSQL.{server.endpoint.port}"
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        proxy = await stack.enter_async_context(Proxy(target, folder / ".s.PGSQL.5432"))
        through = dsn.partition("?")[0] + f"?host={folder}&port=5432"
        service = serve_module(
            postgres_dsn=through,
            postgres_pool_min=4,
            postgres_pool_max=8,
            read_timeout_s=1.2,
            write_timeout_s=4.0,
            resilience_slow_read_s=0.9,
            embedding_provider="none",
            embedding_dimensions=DIMENSIONS,
        )
        await asyncio.to_thread(service.wait_until_ready)
        made = World(service, server, dsn, proxy)
        stack.push_async_callback(made.end)
        await made.prepare()
        yield made
        await made.end()
        await asyncio.to_thread(service.stop)
