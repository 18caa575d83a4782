"""A scope as a dictionary, the plain reading of BM25, and strategies for memories; filters are in `filter_world`."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import numpy as np
from hypothesis import strategies as st

from filter_world import memory_fields, passes
from memfast.index.shard import Shard, ShardIdentity
from memfast.model import Delta, Memory, NearestRows
from memfast.search.rank import rank
from memfast.search.words import words_of
from memory_world import memory_of

DIMENSIONS = 8
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH_US = 1_767_225_600_000_000
IDENTITY = ShardIdentity(UUID(int=11), UUID(int=22), 3, DIMENSIONS)
IDS = [
    UUID(int=value)
    for value in (0, 1, 255, 256, 1 << 64, (1 << 64) + 1, 7 << 120, 127 << 120, 128 << 120, 255 << 120, 2**128 - 1)
] + [UUID(int=(0x19ABCDEF << 96) | value) for value in range(30)]


def unit(numbers):
    """Scale rows to norm 1, as float32."""
    points = np.asarray(numbers, np.float64)
    return (points / np.linalg.norm(points, axis=-1, keepdims=True)).astype(np.float32)


_rng = np.random.default_rng(5)
VECTORS = unit(np.concatenate((np.eye(DIMENSIONS), -np.eye(DIMENSIONS), _rng.standard_normal((16, DIMENSIONS)))))
"""Few, so that rows tie; opposite ones, so that many score zero."""


def at(seconds):
    """A time near the epoch of the tests."""
    return EPOCH + timedelta(seconds=seconds)


def at_us(seconds):
    """The same in microseconds since 1970."""
    return EPOCH_US + seconds * 1_000_000


TEXTS = ["the cat sat", "a cat, a dog; DOGS", "foo_bar.baz", "ERR-4711", "東京都", "猫", "ﬁne Straße", "of the", ""]
"""Few words, so that they meet."""
sentences = st.lists(st.sampled_from(TEXTS), max_size=4).map(" ".join)

memories = st.builds(
    lambda fields, **others: Memory(**fields, **others),
    memory_fields,
    id=st.sampled_from(IDS),
    user_id=st.just("ümlaut"),
    text=sentences | st.text(max_size=12),
    version=st.just(0),
)
vectors = st.integers(0, len(VECTORS) - 1).map(lambda number: VECTORS[number])


def ranked(rows, vector, k, *, now_us, where=None, min_score=0.0):
    """The hits of a search over a dictionary of (memory, vector) by id; `where` is a filter in its JSON form."""
    now = EPOCH + timedelta(microseconds=now_us - EPOCH_US)
    live = [
        (memory, each)
        for _, (memory, each) in sorted(rows.items())
        if (memory.expires_at is None or memory.expires_at > now) and (where is None or passes(where, memory))
    ]
    matrix = np.array([each for _, each in live], np.float32).reshape(-1, DIMENSIONS)
    return rank(NearestRows([memory for memory, _ in live], matrix, 0), vector, k, min_score)


def scored(rows, terms):
    """BM25 of every memory of a dictionary, by the formula; every weight counts, however often a term is named."""
    counts = {key: Counter(words_of("english").of_memory(memory)) for key, (memory, _) in rows.items()}
    mean = sum(map(Counter.total, counts.values())) / max(1, len(counts))
    scores = dict.fromkeys(rows, 0.0)
    for term, weight in terms:
        df = sum(term in each for each in counts.values())
        idf = math.log(1 + (len(rows) - df + 0.5) / (df + 0.5))
        for key, each in counts.items():
            scores[key] += weight * idf * each[term] * 1.9 / (each[term] + 0.9 * (0.6 + 0.4 * each.total() / mean))
    return scores


def visible(rows, now_us, where=None):
    """The memories that have not expired and that pass."""
    now = EPOCH + timedelta(microseconds=now_us - EPOCH_US)
    return [
        memory
        for memory, _ in rows.values()
        if (memory.expires_at is None or memory.expires_at > now) and (where is None or passes(where, memory))
    ]


def beside(rows, key, now_us, reach):
    """The ids 1 before, 1 after, 2 before and so on in the memory's run; None where there is none."""
    run = rows[key][0].run_id
    others = {memory.id: memory for memory in visible(rows, now_us)} | {key: rows[key][0]}
    line = sorted((memory.created_at, memory.id) for memory in others.values() if memory.run_id == run)
    place = line.index((rows[key][0].created_at, key))
    around = [at for far in range(1, reach + 1) for at in (place - far, place + far)]
    return [line[at][1] if run is not None and 0 <= at < len(line) else None for at in around]


def found(hits):
    """Hits of a shard as (memory's JSON, score)."""
    return [(bytes(fragment) + b"}", score) for fragment, score in zip(hits.fragments, hits.scores, strict=True)]


def wanted(hits):
    """Hits of `ranked` in the same form."""
    return [(msgspec.json.encode(hit.memory), hit.score) for hit in hits]


MEMORY = memory_of(EPOCH, id=UUID(int=0), text="t")


def numbered(count, vector=None):
    """Rows of the ids 1, 2, 3, …, with this vector or with one of their own."""
    points = unit(np.random.default_rng(count).standard_normal((count, DIMENSIONS)))
    return [
        (msgspec.structs.replace(MEMORY, id=UUID(int=n + 1)), points[n] if vector is None else vector)
        for n in range(count)
    ]


class World:
    """A scope as PostgreSQL keeps it: rows by id and a version that every change raises."""

    def __init__(self):
        self.rows = {}
        self.version = 0

    def write(self, changes):
        """Apply (memory, vector) or an id to delete, each in a version of its own; returns the delta of all."""
        since, upserts, deleted = self.version, {}, {}
        for change in changes:
            self.version += 1
            if isinstance(change, UUID):
                if self.rows.pop(change, None) is not None:
                    upserts.pop(change, None)
                    deleted[change] = self.version
                continue
            memory = msgspec.structs.replace(change[0], version=self.version)
            self.rows[memory.id] = upserts[memory.id] = (memory, change[1])
            deleted.pop(memory.id, None)
        return self.delta(since, upserts, deleted)

    def delta(self, since, upserts, deleted):
        """A delta up to now."""
        return Delta(
            since=since,
            version=self.version,
            purged_to=0,
            memories=[memory for memory, _ in upserts.values()],
            vectors=np.array([each for _, each in upserts.values()], np.float32).reshape(-1, DIMENSIONS),
            deleted=list(deleted.items()),
        )

    def build(self, kind=Shard, **options):
        """A shard of everything, from rows in the order of their writing."""
        return kind.build(
            [memory for memory, _ in self.rows.values()],
            np.array([each for _, each in self.rows.values()], np.float32).reshape(-1, DIMENSIONS),
            identity=IDENTITY,
            version=self.version,
            **options,
        )
