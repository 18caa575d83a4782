"""What a search by words costs, beside the scan of vectors.

    python bench/micro/lexical.py [--gate] [--rows 10000] [--pairs 9] [--calls 200]

Memories of 20 words, drawn as words of a language are: few that stand everywhere, many that stand once. Queries are six
words of one of them. Each pair times all ways on the same queries; printed are the medians of CPU time, and the medians
of the ratios to the scan. With --gate the exit code is 1 when the search by words takes longer than the scan.
"""

import argparse
import os
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import msgspec  # noqa: E402 - BLAS reads its number of threads when it is loaded
import numpy as np  # noqa: E402 - the same

from memfast import kernels  # noqa: E402 - the same
from memfast.index.shard import Shard, ShardIdentity  # noqa: E402 - the same
from memfast.model import Delta, Memory  # noqa: E402 - the same
from memfast.search.words import Words  # noqa: E402 - the same

LIMIT = 1.0
"""What a search by words may take of a scan of the same memories' vectors."""
TAIL_ROWS = 100
WIDTH = 256
WORDS = 20
VOCABULARY = 30_000
NOW_US = 1_800_000_000_000_000


def texts(rng: np.random.Generator, count: int) -> list[str]:
    """Make texts of made-up words, the r-th of them about as frequent as 1 / (r + 2.7) (Mandelbrot)."""
    letters = np.array(list("etaoinshrdlucmfwyp"))
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(VOCABULARY)]
    shares = 1 / (np.arange(VOCABULARY) + 2.7)
    return [" ".join(rng.choice(words, WORDS, p=shares / shares.sum())) for _ in range(count)]


def memory(number: int, text: str) -> Memory:
    """Make a memory, one of 20 in its run."""
    created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)
    return Memory(
        id=UUID(int=(1 << 76) | number),
        user_id="user-1",
        text=text,
        kind="fact",
        tags=[],
        entities=[],
        importance=0.5,
        metadata=msgspec.Raw(b"{}"),
        agent_id=None,
        run_id=f"run-{number // 20}",
        source=None,
        created_at=created,
        updated_at=created,
        expires_at=None,
        version=number + 1,
    )


def unit_rows(rng: np.random.Generator, rows: int) -> np.ndarray:
    """Make random unit vectors."""
    points = rng.standard_normal((rows, WIDTH))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def shard_of(rng: np.random.Generator, memories: list[Memory]) -> tuple[Shard, Shard]:
    """Build a shard of all but the last memories, and one with these in its tail."""
    rows = len(memories) - TAIL_ROWS
    identity = ShardIdentity(UUID(int=1), UUID(int=2), 1, WIDTH)
    shard = Shard.build(memories[:rows], unit_rows(rng, rows), identity=identity, version=rows)
    delta = Delta(
        since=rows, version=len(memories), purged_to=0, memories=memories[rows:], vectors=unit_rows(rng, TAIL_ROWS)
    )
    tailed = shard.apply(delta)
    assert tailed is not None
    return shard, tailed


def microseconds(call, arguments: list, calls: int) -> float:
    """Time calls over changing arguments; return the mean CPU time."""
    start = time.thread_time()
    for i in range(calls):
        call(arguments[i % len(arguments)])
    return (time.thread_time() - start) / calls * 1e6


def analysis(memories: list[Memory], queries: list[str]) -> dict[str, float]:
    """Time the making of terms; the best of several rounds."""
    fresh = Words()
    first_us = microseconds(fresh.of_memory, memories, len(memories))
    rounds = [
        (
            microseconds(fresh.of_memory, memories[:500], 500),
            microseconds(fresh.of_query, queries, len(queries)),
        )
        for _ in range(9)
    ]
    return {
        "terms of a memory, words met first": first_us,
        "terms of a memory": min(each for each, _ in rounds),
        "terms of a query": min(each for _, each in rounds),
    }


def by_words(shard: Shard, query: tuple) -> np.ndarray:
    """Rank by a query's words, and score the rows that vectors found."""
    _, scores_of, _ = shard.ranked(query[0], len(query[0]), 100, now_us=NOW_US)
    return scores_of(query[2])


def ways(shard: Shard, tailed: Shard, vectors: np.ndarray, options: argparse.Namespace) -> dict:
    """Name what is timed, each with its arguments of one query: the scan first."""
    nearest = [np.array(shard.search(vector, 100, now_us=NOW_US).rows) for vector in vectors]
    asked = list(zip(options.terms, vectors, nearest, strict=True))
    base = shard.base
    return {
        "vector scan, int8, top 100": (
            lambda query: kernels.search_rows(base.vectors, query[1], 100, quantised=base.quantised),
            asked,
        ),
        "lexical, top 100": (lambda query: by_words(shard, query), asked),
        f"lexical, {TAIL_ROWS} rows in the tail": (lambda query: by_words(tailed, query), asked),
        "vector_scores of 100 rows": (lambda query: shard.vector_scores(query[1], query[2]), asked),
        "neighbours of 100 rows": (lambda query: shard.neighbours(query[2], now_us=NOW_US), asked),
        f"neighbours, {TAIL_ROWS} rows in the tail": (lambda query: tailed.neighbours(query[2], now_us=NOW_US), asked),
    }


def main() -> int:
    """Print the table; return 1 when the limit is missed and --gate is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gate", action="store_true", help="exit with 1 when the limit is missed")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    rng = np.random.default_rng(7)
    memories = [memory(number, text) for number, text in enumerate(texts(rng, options.rows + TAIL_ROWS))]
    shard, tailed = shard_of(rng, memories)
    queries = [" ".join(memories[row].text.split()[:6]) for row in rng.integers(0, options.rows, 64)]
    print(f"kernels {kernels.IMPL}, {kernels.simd()}; {options.rows} memories of {WORDS} words, {WIDTH} numbers; us")
    for name, taken_us in analysis(memories, queries).items():
        print(f"{name:36} {taken_us:8.1f}")
    size = (shard.postings.nbytes + shard.by_run.nbytes) / options.rows
    print(f"{'postings, bytes a memory':36} {size:8.1f}   {size / (4 * WIDTH):6.2f} of its vector")
    options.terms = [Words().of_query(query) for query in queries]
    timed = ways(shard, tailed, unit_rows(rng, len(queries)), options)
    taken: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(options.pairs):
        for name, (way, asked) in timed.items():
            taken[name].append(microseconds(way, asked, options.calls))
    scan, *others = taken
    print(f"{scan:36} {statistics.median(taken[scan]):8.1f}")
    ratios = {
        name: statistics.median(own / base for own, base in zip(taken[name], taken[scan], strict=True))
        for name in others
    }
    for name in others:
        print(f"{name:36} {statistics.median(taken[name]):8.1f}   {ratios[name]:6.2f} of the scan")
    missed = [name for name in others if name.startswith("lexical, ") and ratios[name] > LIMIT]
    for name in missed:
        print(f"{name} takes more than {LIMIT} of the scan: MISSED")
    return 1 if options.gate and missed else 0


if __name__ == "__main__":
    sys.exit(main())
