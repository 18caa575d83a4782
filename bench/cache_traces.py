"""Hit ratios of eviction policies on recorded traces, beside the best possible (Belady).

    python bench/cache_traces.py <data dir>

The folder holds `traces/web07.trace.xz` and `traces/web12.trace.xz` (big-endian int32 keys) and
`load/mooncake_conversation_trace.jsonl.gz` (`hash_ids`: the prefix blocks of each request, in order). All entries
count the same. A policy is worth adopting when it is never more than 0.1 points under LRU on any line, and better
on average; the exit code is 0 whichever policy wins.
"""

import argparse
import gzip
import heapq
import json
import lzma
import statistics
import sys
from collections import OrderedDict, deque
from pathlib import Path

import numpy as np

from memfast import kernels
from memfast._native._cache_reference import ENTRY_BYTES

TOLERANCE = 0.1
CASES = (("web07", 500), ("web07", 2_000), ("web12", 500), ("web12", 2_000), ("mooncake", 5_000), ("mooncake", 20_000))


def lru(trace: list[int], capacity: int) -> int:
    """Evict what was not used for the longest time."""
    cache, hits = OrderedDict(), 0
    for key in trace:
        if key in cache:
            cache.move_to_end(key)
            hits += 1
        else:
            if len(cache) >= capacity:
                cache.popitem(last=False)
            cache[key] = None
    return hits


def belady(trace: list[int], capacity: int) -> int:
    """Evict what is needed again last, if at all; a new key may be the one."""
    later = [0] * len(trace)
    seen = {}
    for place in range(len(trace) - 1, -1, -1):
        later[place] = seen.get(trace[place], len(trace) + place)
        seen[trace[place]] = place
    due, furthest, hits = {}, [], 0
    for key, again in zip(trace, later, strict=True):
        hits += key in due
        due[key] = again
        heapq.heappush(furthest, (-again, key))
        while len(due) > capacity:
            place, victim = heapq.heappop(furthest)
            if due.get(victim) == -place:
                del due[victim]
    return hits


def sieve(trace: list[int], capacity: int) -> int:
    """SIEVE (NSDI 2024): one queue, one mark, one hand that moves from old to new."""
    newer, older, marked, hits = {}, {}, {}, 0
    head = tail = hand = None
    for key in trace:
        if key in marked:
            marked[key] = True
            hits += 1
            continue
        if len(marked) >= capacity:
            at = hand if hand is not None else tail
            while marked[at]:
                marked[at] = False
                at = newer[at] if newer[at] is not None else tail
            hand = newer[at]
            up, down = newer.pop(at), older.pop(at)
            if up is None:
                head = down
            else:
                older[up] = down
            if down is None:
                tail = up
            else:
                newer[down] = up
            del marked[at]
        marked[key], newer[key], older[key] = False, None, head
        if head is not None:
            newer[head] = key
        else:
            tail = key
        head = key
    return hits


def s3_fifo(trace: list[int], capacity: int) -> int:
    """S3-FIFO (SOSP 2023): a small queue of 10 %, a main queue with re-insertion, a ghost queue."""
    small, main, ghost, uses, hits = deque(), deque(), OrderedDict(), {}, 0
    small_limit = max(1, capacity // 10)
    in_small = set()
    for key in trace:
        if key in uses:
            uses[key] = min(3, uses[key] + 1)
            hits += 1
            continue
        while len(uses) >= capacity:
            if len(small) >= small_limit or not main:
                victim = small.popleft()
                in_small.discard(victim)
                if uses[victim] > 0:
                    uses[victim] = 0
                    main.append(victim)
                else:
                    del uses[victim]
                    ghost[victim] = None
                    if len(ghost) > capacity:
                        ghost.popitem(last=False)
            else:
                victim = main.popleft()
                if uses[victim] > 0:
                    uses[victim] -= 1
                    main.append(victim)
                else:
                    del uses[victim]
        uses[key] = 0
        if key in ghost:
            del ghost[key]
            main.append(key)
        else:
            small.append(key)
            in_small.add(key)
    return hits


def arc(trace: list[int], capacity: int) -> int:
    """ARC (FAST 2003): recency and frequency lists whose shares follow the hits of their ghosts."""
    once, often, ghost_once, ghost_often = OrderedDict(), OrderedDict(), OrderedDict(), OrderedDict()
    target, hits = 0.0, 0

    def replace(from_often_ghost: bool) -> None:
        if once and (len(once) > target or (from_often_ghost and len(once) == int(target))):
            ghost_once[once.popitem(last=False)[0]] = None
        elif often:
            ghost_often[often.popitem(last=False)[0]] = None
        else:
            ghost_once[once.popitem(last=False)[0]] = None

    for key in trace:
        if key in once:
            del once[key]
            often[key] = None
            hits += 1
        elif key in often:
            often.move_to_end(key)
            hits += 1
        elif key in ghost_once:
            target = min(capacity, target + max(1.0, len(ghost_often) / len(ghost_once)))
            replace(from_often_ghost=False)
            del ghost_once[key]
            often[key] = None
        elif key in ghost_often:
            target = max(0.0, target - max(1.0, len(ghost_once) / len(ghost_often)))
            replace(from_often_ghost=True)
            del ghost_often[key]
            often[key] = None
        else:
            if len(once) + len(ghost_once) == capacity:
                if len(once) < capacity:
                    ghost_once.popitem(last=False)
                    replace(from_often_ghost=False)
                else:
                    once.popitem(last=False)
            else:
                total = len(once) + len(often) + len(ghost_once) + len(ghost_often)
                if total >= capacity:
                    if total == 2 * capacity:
                        ghost_often.popitem(last=False)
                    replace(from_often_ghost=False)
            once[key] = None
    return hits


class Sketch:
    """How often keys came lately: exact counts, halved every ten capacities (a count-min sketch without errors)."""

    def __init__(self, capacity: int) -> None:
        self.counts: dict[int, int] = {}
        self.additions = 0
        self.sample = 10 * capacity

    def add(self, key: int) -> None:
        """Count one request, up to 15."""
        self.counts[key] = min(15, self.counts.get(key, 0) + 1)
        self.additions += 1
        if self.additions >= self.sample:
            self.counts = {k: c // 2 for k, c in self.counts.items() if c > 1}
            self.additions //= 2


class TinyLfu:
    """W-TinyLFU (TOS 2017): an LRU window, then a segmented LRU that a key enters by beating its victim.

    With `climb`, the window grows and shrinks after the hit ratio, as Caffeine does it.
    """

    def __init__(self, capacity: int, *, window: float = 0.01, climb: bool = False) -> None:
        self.capacity = capacity
        self.window_limit = max(1, int(capacity * window))
        self.window, self.probation, self.protected = OrderedDict(), OrderedDict(), OrderedDict()
        self.sketch = Sketch(capacity)
        self.climb = climb
        self.step = 0.0625 * capacity
        self.period = 10 * capacity
        self.seen = self.hits_in_period = 0
        self.last_ratio = 0.0

    def request(self, key: int) -> bool:
        """Look a key up, take it in on a miss, say whether it was there."""
        self.sketch.add(key)
        hit = True
        if key in self.window:
            self.window.move_to_end(key)
        elif key in self.protected:
            self.protected.move_to_end(key)
        elif key in self.probation:
            del self.probation[key]
            self.protected[key] = None
        else:
            hit = False
            self.window[key] = None
        self.settle()
        if self.climb:
            self.adapt(hit)
        return hit

    def settle(self) -> None:
        """Bring all three lists back to their sizes."""
        main_limit = self.capacity - self.window_limit
        while len(self.protected) > max(1, int(main_limit * 0.8)):
            self.probation[self.protected.popitem(last=False)[0]] = None
        while len(self.window) > self.window_limit:
            candidate = self.window.popitem(last=False)[0]
            self.probation[candidate] = None
            if len(self.probation) + len(self.protected) > main_limit:
                self.compete(candidate)
        while len(self.probation) + len(self.protected) > main_limit:
            (self.probation or self.protected).popitem(last=False)

    def compete(self, candidate: int) -> None:
        """Drop the candidate or the coldest of the main part, whichever came less often."""
        victim = next(iter(self.probation))
        counts = self.sketch.counts
        if victim != candidate and counts.get(candidate, 0) <= counts.get(victim, 0):
            victim = candidate
        del self.probation[victim]

    def adapt(self, hit: bool) -> None:
        """Climb: go on in a direction that raised the hit ratio, else turn round; steps wear off."""
        self.seen += 1
        self.hits_in_period += hit
        if self.seen < self.period:
            return
        ratio = self.hits_in_period / self.seen
        change = ratio - self.last_ratio
        if change < 0:
            self.step = -self.step
        if abs(change) >= 0.05:
            self.step = 0.0625 * self.capacity * (1 if self.step >= 0 else -1)
        else:
            self.step *= 0.98
        self.window_limit = int(min(max(1, self.window_limit + self.step), self.capacity - 2))
        self.last_ratio, self.seen, self.hits_in_period = ratio, 0, 0


def w_tiny_lfu(trace: list[int], capacity: int) -> int:
    """W-TinyLFU with a window of 1 %."""
    cache = TinyLfu(capacity)
    return sum(cache.request(key) for key in trace)


def climbing_tiny_lfu(trace: list[int], capacity: int) -> int:
    """W-TinyLFU whose window adapts."""
    cache = TinyLfu(capacity, climb=True)
    return sum(cache.request(key) for key in trace)


def byte_cache(trace: list[int], capacity: int) -> int:
    """The service's own cache: ARC by bytes, here with empty values so that bytes count entries."""
    charge = ENTRY_BYTES + 16
    cache = kernels.ByteCache(capacity * charge, entry_limit=capacity, ttl_ns=2**60, idle_ns=2**60)
    hits = 0
    for number in trace:
        key = number.to_bytes(16, "big", signed=True)
        if cache.get(key, 1, 1, 0) is not None:
            hits += 1
        else:
            cache.put(key, b"", 0, 1, 1, 1, 2**61, 0)
    return hits


POLICIES = {
    "LRU": lru,
    "SIEVE": sieve,
    "S3-FIFO": s3_fifo,
    "W-TinyLFU": w_tiny_lfu,
    "climbing": climbing_tiny_lfu,
    "ARC": arc,
    "ByteCache": byte_cache,
}


def load(folder: Path) -> dict[str, list[int]]:
    """Read the three traces."""
    traces = {}
    for name in ("web07", "web12"):
        with lzma.open(folder / "traces" / f"{name}.trace.xz") as file:
            traces[name] = np.frombuffer(file.read(), dtype=">i4").tolist()
    with gzip.open(folder / "load" / "mooncake_conversation_trace.jsonl.gz", "rt") as file:
        traces["mooncake"] = [block for line in file for block in json.loads(line)["hash_ids"]]
    return traces


def main() -> int:
    """Print the table and the verdict on every candidate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where traces/ and load/ lie")
    traces = load(parser.parse_args().folder)
    columns = {**POLICIES, "Belady": belady}
    print(f"{'trace':10}{'entries':>8}" + "".join(f"{name:>12}" for name in columns))
    gains = {name: [] for name in POLICIES}
    for name, capacity in CASES:
        trace = traces[name]
        ratios = {policy: 100 * run(trace, capacity) / len(trace) for policy, run in columns.items()}
        print(f"{name:10}{capacity:8}" + "".join(f"{ratio:12.2f}" for ratio in ratios.values()), flush=True)
        for policy, found in gains.items():
            found.append(ratios[policy] - ratios["LRU"])
    for policy, found in gains.items():
        fit = policy != "LRU" and min(found) >= -TOLERANCE and statistics.mean(found) > 0
        print(
            f"{policy:12} worst {min(found):+6.2f}  mean {statistics.mean(found):+6.2f}  {'qualifies' if fit else ''}".rstrip()
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
