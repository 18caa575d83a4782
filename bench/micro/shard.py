"""What a warm search costs besides its kernel.

    python bench/micro/shard.py [--gate] [--pairs 9] [--calls 200] [--width 256]

Each pair times the kernel alone and then `Shard.search` with `encode_rows` on the same queries; printed are the
medians, and the median of the differences. With --gate the exit code is 1 when a difference is over the limit.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import msgspec  # noqa: E402 - BLAS reads its number of threads when it is loaded
import numpy as np  # noqa: E402 - the same

from memfast import kernels  # noqa: E402 - the same
from memfast.index.shard import Shard, ShardIdentity  # noqa: E402 - the same
from memfast.index.snapshot import load, save  # noqa: E402 - the same
from memfast.model import Delta, Memory  # noqa: E402 - the same
from memfast.search.encode import encode_rows  # noqa: E402 - the same

LIMIT_US = 10.0
"""What search and encoding may add to a kernel for ten hits."""
NOW_US = 1_800_000_000_000_000


def unit_rows(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    """Make random unit vectors."""
    points = rng.standard_normal((rows, width))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def memory(number: int) -> Memory:
    """Make a memory of about 450 bytes of JSON."""
    created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return Memory(
        id=UUID(int=(1 << 76) | number),
        user_id="user-1",
        text=f"The user said in conversation {number} that the deployment runs on Thursdays.",
        kind="fact",
        tags=["work", f"tag-{number % 50}"],
        entities=["deployment"],
        importance=0.5,
        metadata=msgspec.Raw(b'{"source":"chat"}'),
        agent_id="agent-1",
        run_id=f"run-{number % 500}",
        source=None,
        created_at=created,
        updated_at=created,
        expires_at=None,
        version=number + 1,
    )


def shard_of(rng: np.random.Generator, rows: int, width: int) -> tuple[Shard, float]:
    """Build a shard; return it and the seconds that it took."""
    identity = ShardIdentity(UUID(int=1), UUID(int=2), 1, width)
    memories = [memory(number) for number in range(rows)]
    vectors = unit_rows(rng, rows, width)
    start = time.perf_counter()
    shard = Shard.build(memories, vectors, identity=identity, version=rows)
    return shard, time.perf_counter() - start


def with_tail(rng: np.random.Generator, shard: Shard, rows: int) -> Shard:
    """Add rows one write at a time."""
    for _ in range(rows):
        version = shard.version + 1
        delta = Delta(
            since=version - 1,
            version=version,
            purged_to=0,
            memories=[memory(version - 1)],
            vectors=unit_rows(rng, 1, shard.identity.dimensions),
        )
        shard = shard.apply(delta)
    return shard


def disk_s(shard: Shard) -> tuple[float, float]:
    """Save a shard and load it; return the seconds of both."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "shard"
        start = time.perf_counter()
        save(shard, path)
        saved = time.perf_counter()
        assert load(path, shard.identity) is not None
        return saved - start, time.perf_counter() - saved


def microseconds(call, queries: np.ndarray, calls: int) -> float:
    """Time calls over changing queries; return the mean."""
    start = time.perf_counter()
    for i in range(calls):
        call(queries[i % len(queries)])
    return (time.perf_counter() - start) / calls * 1e6


def measure(shard: Shard, queries: np.ndarray, options: argparse.Namespace) -> tuple[float, float, float]:
    """Return the medians of the kernels, of the whole, and of what is between them."""

    def kernel(query: np.ndarray) -> None:
        kernels.search_rows(shard.base.vectors, query, 10, quantised=shard.base.quantised)
        if len(shard.tail):
            kernels.search_rows(shard.tail.vectors, query, 11, mask=shard.tail_live)

    def whole(query: np.ndarray) -> bytes:
        hits = shard.search(query, 10, now_us=NOW_US)
        return encode_rows(hits.blocks, hits.rows, hits.scores, shard.version)

    kernel_us, whole_us = [], []
    for _ in range(options.pairs):
        kernel_us.append(microseconds(kernel, queries, options.calls))
        whole_us.append(microseconds(whole, queries, options.calls))
    added = [both - alone for both, alone in zip(whole_us, kernel_us, strict=True)]
    return statistics.median(kernel_us), statistics.median(whole_us), statistics.median(added)


def main() -> int:
    """Print the table; return 1 when the limit is missed and --gate is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gate", action="store_true", help="exit with 1 when the limit is missed")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    rng = np.random.default_rng(7)
    print(f"kernels {kernels.IMPL}, {kernels.simd()}; ten hits, one thread, us")
    queries = unit_rows(rng, 64, options.width)
    missed = False
    for rows in (50, 1_000, 10_000):
        shard, build_s = shard_of(rng, rows, options.width)
        start = time.perf_counter()
        tailed = with_tail(rng, shard, 100)
        write_us = (time.perf_counter() - start) / 100 * 1e6
        start = time.perf_counter()
        tailed.rebuilt()
        rebuild_s = time.perf_counter() - start
        print(
            f"{rows:6} rows: {shard.nbytes / rows:5.0f} bytes a row, built in {build_s * 1e3:.1f} ms, "
            f"a write {write_us:.0f} us, rebuilt in {rebuild_s * 1e3:.1f} ms"
        )
        save_s, load_s = disk_s(shard)
        print(f"       saved in {save_s * 1e3:.1f} ms, loaded in {load_s * 1e3:.1f} ms")
        for name, each in (("base alone", shard), ("with tail", tailed)):
            kernel, whole, added = measure(each, queries, options)
            missed |= added > LIMIT_US and each is shard
            print(f"       {name:11} kernel {kernel:7.1f}   search and encode {whole:7.1f}   added {added:5.1f}")
    return 1 if options.gate and missed else 0


if __name__ == "__main__":
    sys.exit(main())
