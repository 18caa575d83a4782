"""A scope as a dictionary, the plain reading of every condition, and strategies for both."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import numpy as np
from hypothesis import strategies as st

from memfast.index.filters import AllOf, AnyOf, Between, HasAny, MetadataIs, Not, OneOf
from memfast.index.shard import Shard, ShardIdentity
from memfast.model import Delta, Memory, NearestRows
from memfast.search.rank import rank

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

NAMES = ["a", "b", 'ä\n"quoted"', "b,", "null"]
METADATA = [
    b"{}",
    b'{"n":1}',
    b'{"n":1.0}',
    b'{"n":true}',
    b'{"n":null}',
    b'{"deep":{"list":[1,true,"x"]}}',
    b'{"deep":{"list":[1,1,"x"]}}',
    '{"n":"ä}"}'.encode(),
]


def at(seconds):
    """A time near the epoch of the tests."""
    return EPOCH + timedelta(seconds=seconds)


def at_us(seconds):
    """The same in microseconds since 1970."""
    return EPOCH_US + seconds * 1_000_000


memories = st.builds(
    Memory,
    id=st.sampled_from(IDS),
    user_id=st.just("ümlaut"),
    text=st.text(max_size=12),
    kind=st.sampled_from(NAMES),
    tags=st.lists(st.sampled_from(NAMES), max_size=3),
    entities=st.lists(st.sampled_from(NAMES), max_size=2),
    importance=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    metadata=st.sampled_from(METADATA).map(msgspec.Raw),
    agent_id=st.none() | st.sampled_from(NAMES),
    run_id=st.none() | st.sampled_from(NAMES),
    source=st.none() | st.text(max_size=3),
    created_at=st.integers(0, 9).map(at),
    updated_at=st.integers(0, 9).map(at),
    expires_at=st.none() | st.none() | st.integers(0, 9).map(at),
    version=st.just(0),
)
vectors = st.integers(0, len(VECTORS) - 1).map(lambda number: VECTORS[number])
names = st.lists(st.sampled_from([*NAMES, "unheard of"]), max_size=2)
bounds = st.none() | st.integers(-1, 10).map(at_us)
levels = st.none() | st.sampled_from([0.0, 0.25, 0.3, 1.0])
conditions = st.recursive(
    st.one_of(
        st.builds(OneOf, st.sampled_from(["kind", "agent_id", "run_id"]), names),
        st.builds(HasAny, st.sampled_from(["tags", "entities"]), names),
        st.builds(Between, st.sampled_from(["created_at", "updated_at"]), bounds, bounds),
        st.builds(Between, st.just("importance"), levels, levels),
        st.builds(
            MetadataIs,
            st.sampled_from([("n",), ("deep", "list"), ("n", "deeper"), ()]),
            st.sampled_from([1, 1.0, True, None, "ä}", [1, True, "x"], {}, {"n": 1}, False, 0]),
        ),
    ),
    lambda parts: st.one_of(
        st.builds(AllOf, st.lists(parts, max_size=3)),
        st.builds(AnyOf, st.lists(parts, max_size=3)),
        st.builds(Not, parts),
    ),
    max_leaves=4,
)


def same_json(left, right):
    """JSON equality: by the text of both, with whole floats as integers."""

    def plain(value):
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, list) else value

    return msgspec.json.encode(plain(left), order="sorted") == msgspec.json.encode(plain(right), order="sorted")


def holds(condition, memory):
    """What a condition means, one memory at a time."""
    match condition:
        case AllOf(parts):
            return all(holds(part, memory) for part in parts)
        case AnyOf(parts):
            return any(holds(part, memory) for part in parts)
        case Not(part):
            return not holds(part, memory)
        case _:
            return field_holds(condition, memory)


def field_holds(condition, memory):
    """What a condition on one field means."""
    match condition:
        case OneOf(field, values):
            return getattr(memory, field) in values
        case HasAny(field, values):
            return bool(set(getattr(memory, field)) & set(values))
        case Between(field, first, last):
            value = getattr(memory, field)
            if field != "importance":
                value = round((value - EPOCH).total_seconds() * 1e6) + EPOCH_US
            return (first is None or value >= first) and (last is None or value <= last)
        case MetadataIs(path, value):
            held = value_at(msgspec.json.decode(memory.metadata), path)
            return held is not MISSING and same_json(held, value)


MISSING = object()


def value_at(value, path):
    """The value at a path of keys, or MISSING."""
    for key in path:
        value = value.get(key, MISSING) if isinstance(value, dict) else MISSING
    return value


def ranked(rows, vector, k, *, now_us, where=None, min_score=0.0):
    """The hits of a search over a dictionary of (memory, vector) by id."""
    now = EPOCH + timedelta(microseconds=now_us - EPOCH_US)
    live = [
        (memory, each)
        for _, (memory, each) in sorted(rows.items())
        if (memory.expires_at is None or memory.expires_at > now) and (where is None or holds(where, memory))
    ]
    matrix = np.array([each for _, each in live], np.float32).reshape(-1, DIMENSIONS)
    return rank(NearestRows([memory for memory, _ in live], matrix, 0), vector, k, min_score)


def found(hits):
    """Hits of a shard as (memory's JSON, score)."""
    return [(bytes(fragment) + b"}", score) for fragment, score in zip(hits.fragments, hits.scores, strict=True)]


def wanted(hits):
    """Hits of `ranked` in the same form."""
    return [(msgspec.json.encode(hit.memory), hit.score) for hit in hits]


MEMORY = Memory(
    id=UUID(int=0),
    user_id="u",
    text="t",
    kind="fact",
    tags=[],
    entities=[],
    importance=0.5,
    metadata=msgspec.Raw(b"{}"),
    agent_id=None,
    run_id=None,
    source=None,
    created_at=EPOCH,
    updated_at=EPOCH,
    expires_at=None,
    version=0,
)


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
