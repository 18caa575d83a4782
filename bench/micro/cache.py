"""The response cache: time of a call, and what an entry really costs in memory.

    python bench/micro/cache.py [--calls 200000] [--memory]

Times include the loop around the call, which is printed as `empty loop`. With --memory fresh processes fill a
cache with values of several sizes and compare the growth of the resident set with what the cache charges: the
fixed part of the charge, `ENTRY_BYTES`, has to cover the worst of them. Half of the entries are used twice, so
that the ghosts are there too.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from memfast import kernels
from memfast._native import _cache, _cache_reference

ENTRIES = 10_000
SIZES = (40, 300, 2_480, 9_000)

FILL = """
import os, sys
import psutil
from memfast._native._cache import ByteCache
count, size = int(sys.argv[1]), int(sys.argv[2])
cache = ByteCache(2**40, entry_limit=count, ttl_ns=2**60, idle_ns=2**60)
rss = psutil.Process().memory_info().rss
for number in range(3 * count):
    key = os.urandom(32)
    cache.put(key, bytes(size), 1, 1, 1, 1, 2**61, 0)
    if number % 2:
        cache.get(key, 1, 1, 0)
print((psutil.Process().memory_info().rss - rss) / count, cache.stats().bytes / count)
"""


def nanoseconds(body, calls: int) -> float:
    """Time `body(calls)` five times; return the median per call."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        body(calls)
        taken.append((time.perf_counter() - start) / calls * 1e9)
    return statistics.median(taken)


def bodies(module) -> dict:
    """Name what is timed."""
    keys = [os.urandom(32) for _ in range(ENTRIES)]
    fresh = [os.urandom(32) for _ in range(4 * ENTRIES)]
    value = b"v" * 2_480
    cache = module.ByteCache(1 << 30, entry_limit=ENTRIES, ttl_ns=2**60, idle_ns=2**60)
    for key in keys:
        cache.put(key, value, 1, 1, 1, 1, 2**61, 0)
    hot = keys[0]

    def empty(calls):
        for _ in range(calls):
            pass

    def hit(calls):
        get = cache.get
        for _ in range(calls):
            get(hot, 1, 1, 5)

    def spread(calls):
        get = cache.get
        for i in range(calls):
            get(keys[i % ENTRIES], 1, 1, 5)

    def miss(calls):
        get = cache.get
        for i in range(calls):
            get(fresh[i % ENTRIES], 1, 1, 5)

    def replace(calls):
        put = cache.put
        for i in range(calls):
            put(fresh[i % len(fresh)], value, 1, 1, 1, 1, 2**61, 0)

    return {
        "empty loop": empty,
        "hit, one key": hit,
        f"hit, {ENTRIES} keys": spread,
        "miss": miss,
        "put that evicts": replace,
    }


def memory() -> None:
    """Print what an entry takes beside what it is charged."""
    print(f"ENTRY_BYTES is {_cache_reference.ENTRY_BYTES}; bytes an entry, in a fresh process:")
    for count in (4_200, 8_000, 33_000):
        for size in SIZES:
            command = [sys.executable, "-c", FILL, str(count), str(size)]
            taken, charged = map(
                float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            )
            print(
                f"{count:7} values of {size:6}: takes {taken:8.0f}  charged {charged:8.0f}  beside key and value {taken - size - 32:6.0f}"
            )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    print(f"kernels {kernels.IMPL}")
    for name, module in (("c", _cache), ("py", _cache_reference)):
        for what, body in bodies(module).items():
            print(f"{name:3} {what:18} {nanoseconds(body, options.calls):8.0f} ns")
    if options.memory:
        memory()
    return 0


if __name__ == "__main__":
    sys.exit(main())
