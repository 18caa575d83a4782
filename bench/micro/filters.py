"""What a filter costs a warm search.

    python bench/micro/filters.py [--gate] [--pairs 9] [--calls 20] [--rows 10000] [--planted]

Each pair times the same searches without a filter and then with one; printed are the medians and the median ratio, and
for filters on JSON the first search, which reads it. With --gate the exit code is 1 when a ratio is over its limit.
--planted forgets what was read, to show that the gate catches it.
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

from memfast.config import LimitsConfig  # noqa: E402 - the same
from memfast.filters import reads_json  # noqa: E402 - the same
from memfast.index.shard import Shard, ShardIdentity  # noqa: E402 - the same
from memfast.model import Memory  # noqa: E402 - the same
from memfast.service.filters import read_filter  # noqa: E402 - the same
from memfast.service.limits import Limits  # noqa: E402 - the same

WIDTH = 256
NOW_US = 1_800_000_000_000_000
FILTERS = [
    ("one of seven kinds", {"kind": "kind 3"}, 4),
    ("a tag", {"tags": "tag 3"}, 6),
    ("two ranges", {"importance": {"gt": 0.5}, "created_at": {"gt": "2026-01-01T01:00:00Z"}}, 4),
    ("metadata, two values", {"metadata.state": "open"}, 6),
    ("metadata, all different", {"metadata.number": {"gt": 5000}}, 30),
    ("source, all different", {"source": {"contains": "/99"}}, 30),
]
"""Names, filters and the most that a search with one may take, in searches without one."""


def memory(number: int) -> Memory:
    """Make a memory whose fields have few, many or as many different values as there are memories."""
    metadata = {"number": number, "state": "open" if number % 2 else "closed", "place": {"city": "Turin"}}
    created = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return Memory(
        id=UUID(int=(1 << 76) | number),
        user_id="user-1",
        text=f"The user said in conversation {number} that the deployment runs on Thursdays.",
        kind=f"kind {number % 7}",
        tags=[f"tag {number % 11}", f"other {number % 3}"],
        entities=[f"entity {number % 50}"],
        importance=number % 100 / 100,
        metadata=msgspec.Raw(msgspec.json.encode(metadata)),
        agent_id=None,
        run_id=f"run {number % 1000}",
        source=f"file:///notes/{number}",
        created_at=created,
        updated_at=created,
        expires_at=None,
        version=number + 1,
    )


def shard_of(rows: int) -> tuple[Shard, np.ndarray]:
    """Build a shard; return it and queries."""
    points = np.random.default_rng(7).standard_normal((rows + 32, WIDTH))
    vectors = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    identity = ShardIdentity(UUID(int=1), UUID(int=2), 1, WIDTH)
    memories = [memory(number) for number in range(rows)]
    return Shard.build(memories, vectors[:rows].copy(), identity=identity, version=rows), vectors[rows:]


def milliseconds(shard: Shard, queries: np.ndarray, calls: int, where, *, planted: bool = False) -> float:
    """Time searches over changing queries; return the mean CPU time."""
    start = time.thread_time()
    for number in range(calls):
        if planted:
            shard.base.columns.clear()
        shard.search(queries[number % len(queries)], 10, now_us=NOW_US, where=where)
    return (time.thread_time() - start) / calls * 1e3


def main() -> int:
    """Print the table; return 1 when a limit is missed and --gate is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gate", action="store_true", help="exit with 1 when a limit is missed")
    parser.add_argument("--planted", action="store_true", help="read the JSON at every search")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    shard, queries = shard_of(options.rows)
    limits = Limits(LimitsConfig(), WIDTH)
    print(f"{options.rows} memories, ten hits, CPU time, ms")
    missed = False
    for name, written, limit in FILTERS:
        where = read_filter(written, limits, "$.filter")
        first = milliseconds(shard, queries, 1, where)
        pairs = [
            (
                milliseconds(shard, queries, options.calls, None),
                milliseconds(shard, queries, options.calls, where, planted=options.planted),
            )
            for _ in range(options.pairs)
        ]
        without, filtered = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(with_it / alone for alone, with_it in pairs)
        missed |= ratio > limit
        begun = f"   first {first:6.2f}" if reads_json(where) else ""
        print(f"{name:24} {without:6.3f} -> {filtered:6.3f}   x{ratio:5.2f} (at most {limit}){begun}")
    return 1 if options.gate and missed else 0


if __name__ == "__main__":
    sys.exit(main())
