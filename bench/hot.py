"""Hot search through the whole service beside a handler that only sends the same headers and bytes.

    python -m bench.hot [--quick] [--planted] [--json FILE]

Fifty searches by text were answered before; each is asked again and again, with an API key, and every answer must say
that it was hot. The floor is Litestar's cheapest handler on the same server with the same settings: it reads the body
and sends the service's own answer. Then the same with many users: one search of each of 10,000, beside ten.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.harness.corpus import fill, sentences, unit_vectors
from bench.harness.floor import Floor, save_answer
from bench.harness.load import MSGPACK, Connection, call, connections, encode, run
from bench.harness.pairs import interleaved, median_ratio
from bench.harness.report import Figure, Report, finish, number, options, print_table
from bench.harness.service import READY, Planted, Program, Service, scratch_dir
from bench.harness.turns import Turn, ask, authorized, cpu_us, open_loop, per_second, take_turn

__all__ = ["make_key", "measure"]

CPU_GATE = 1.3
RATE_GATE = 0.8
P99_GATE_MS = 1.0
"""Milliseconds that a hot search may take beyond the floor, at the 99th percentile of an open loop."""
USERS_GATE = 1.25
"""CPU time of a hot search among 10,000 users by that among ten."""

PLANTED = Planted(request_s=30e-6)
CLIENTS = 8
QUESTIONS = 50
_USER = "hot"
_SETTINGS = (
    "--set",
    "cache.entries=50000",
    "--set",
    "cache.idle_s=3000",
    "--set",
    "index.memory_mb=4096",
    "--set",
    "memory.budget_mb=8192",
)


def measure(*, quick: bool = False, planted: bool = False) -> Report:
    """Measure against the floor in a closed and in an open loop, then with many users."""
    report = Report([])
    with scratch_dir() as root, Service(root / "data", settings=_SETTINGS, planted=PLANTED if planted else None) as hot:
        run(_fill(hot, root / "answer", users=1_000 if quick else 10_000))
        key = make_key(hot)
        with Floor(root / "answer") as floor:
            floor.wait_for(READY)
            run(_beside_floor(hot, floor, key, report, pairs=41 if quick else 101, requests=400))
        if not planted:
            run(_many_users(hot, key, report, users=1_000 if quick else 10_000, pairs=7))
    return report


def make_key(service: Service) -> str:
    """A first API key: from when the service knows it, every request needs one."""
    command = [sys.executable, "-m", "memfast", "keys", "create", "--data-dir", str(service.data_dir)]
    made = subprocess.run(command, check=True, capture_output=True, text=True)
    run(_until_refused(service))
    return made.stdout.strip()


async def _until_refused(service: Service) -> None:
    async with connections(service.address, 1) as (connection,):
        for _ in range(10_000):
            if (await connection.send(encode("GET", "/v1/users")))[0] == 401:
                return
    raise RuntimeError("the service did not learn of the key")


async def _fill(service: Service, answer_file: Path, *, users: int) -> None:
    rng = np.random.default_rng(17)
    async with connections(service.address, 1) as (connection,):
        await fill(connection, _USER, 1_000, rng)
        request = _questions()[0]
        for _ in range(2):
            body = await ask(connection, request)
        save_answer(connection, body, answer_file)
        for start in range(0, users, 10):
            await _fill_users(connection, range(start, start + 10), rng)


async def _fill_users(connection: Connection, users: range, rng: np.random.Generator) -> None:
    """A hundred memories for each of ten users, in one request."""
    items = [
        {"user_id": f"user-{user}", "text": text, "embedding": vector.tobytes()}
        for user in users
        for text, vector in zip(sentences(rng, 100), unit_vectors(rng, 100), strict=True)
    ]
    answer = await call(connection, "POST", "/v1/memories/batch", {"memories": items}, media_type=MSGPACK)
    assert all(result["status"] == "created" for result in answer["results"])


def _questions() -> list[bytes]:
    texts = sentences(np.random.default_rng(18), QUESTIONS)
    return [encode("POST", "/v1/search", {"user_id": _USER, "query": text, "limit": 10}) for text in texts]


async def _beside_floor(
    service: Service, floor: Program, key: str, report: Report, *, pairs: int, requests: int
) -> None:
    asked = [authorized(question, key) for question in _questions()]
    work = list(itertools.islice(itertools.cycle(asked), requests))
    async with connections(service.address, CLIENTS) as here, connections(floor.address, CLIENTS) as there:
        for request in asked * 3:
            await ask(here[0], request)

        async def hot(_number: int) -> Turn:
            return await take_turn(service, here, work, b"hot")

        async def bare(_number: int) -> Turn:
            return await take_turn(floor, there, work)

        await interleaved(hot, bare, 5)
        _add_closed(report, await interleaved(hot, bare, pairs))

        async def paced(opened: list[Connection]) -> float:
            return (await open_loop(opened, work, rate)).percentile_ms(99)

        rate = max([(await bare(0)).run.per_second for _ in range(3)]) / 2
        async with connections(service.address, 64) as wide, connections(floor.address, 64) as wide_floor:
            measured = await interleaved(lambda _n: paced(wide), lambda _n: paced(wide_floor), pairs)
    _add_open(report, rate, measured)


def _add_closed(report: Report, measured: list[tuple[Turn, Turn]]) -> None:
    hot, bare = ([pair[side] for pair in measured] for side in (0, 1))
    ratio = median_ratio([turn.cpu_us for turn in hot], [turn.cpu_us for turn in bare])
    rate = median_ratio([turn.run.per_second for turn in hot], [turn.run.per_second for turn in bare])
    report.figures.append(Figure("hot search: CPU ÷ floor", ratio, at_most=CPU_GATE))
    report.figures.append(Figure("hot search: requests/s ÷ floor", rate, at_least=RATE_GATE))
    rows = {"hot search": hot, "floor": bare}
    print(f"hot search, {CLIENTS} clients")
    print_table(
        ("", "CPU us", "requests/s"),
        [(name, number(cpu_us(turns)), number(per_second(turns))) for name, turns in rows.items()],
    )
    report.details["hot"] = {
        name: {"CPU us": [turn.cpu_us for turn in turns], "requests/s": [turn.run.per_second for turn in turns]}
        for name, turns in rows.items()
    }


def _add_open(report: Report, rate: float, measured: list[tuple[float, float]]) -> None:
    beyond_ms = statistics.median(hot - bare for hot, bare in measured)
    name = "hot search: p99 beyond the floor's, open loop at half its maximum"
    report.figures.append(Figure(name, beyond_ms, "ms", at_most=P99_GATE_MS))
    report.details["open loop"] = {"requests/s": rate, "p99 ms": measured}
    hot_ms, bare_ms = (statistics.median(pair[side] for pair in measured) for side in (0, 1))
    print(f"open loop at {rate:,.0f} requests/s: p99 {number(hot_ms)} ms, floor {number(bare_ms)} ms\n")


async def _many_users(service: Service, key: str, report: Report, *, users: int, pairs: int) -> None:
    def questions(count: int) -> list[bytes]:
        bodies = ({"user_id": f"user-{user}", "query": "Who painted the blue kitchen?"} for user in range(count))
        return [authorized(encode("POST", "/v1/search", body), key) for body in bodies]

    many = questions(users)
    few = [*many[:10]] * (users // 10)
    async with connections(service.address, CLIENTS) as opened:
        for _ in range(2):
            await take_turn(service, opened, many)

        async def among(work: list[bytes]) -> Turn:
            return await take_turn(service, opened, work, b"hot")

        measured = await interleaved(lambda _n: among(many), lambda _n: among(few), pairs)
    ratio = median_ratio([pair[0].cpu_us for pair in measured], [pair[1].cpu_us for pair in measured])
    name = f"hot search of {users:,} users of 100 memories: CPU ÷ of 10 such users"
    report.figures.append(Figure(name, ratio, at_most=USERS_GATE))
    report.details[name] = [(pair[0].cpu_us, pair[1].cpu_us) for pair in measured]


def main() -> int:
    """Run from the command line; 1 when a gate is missed."""
    chosen = options(__doc__)
    return finish(measure(quick=chosen.quick, planted=chosen.planted), chosen.json)


if __name__ == "__main__":
    sys.exit(main())
