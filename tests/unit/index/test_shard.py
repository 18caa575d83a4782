"""A shard answers exactly as its scope would, at every version that was ever made."""

import gc
import itertools
import threading
import tracemalloc
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from index_world import (
    DIMENSIONS,
    IDENTITY,
    IDS,
    VECTORS,
    World,
    at,
    at_us,
    found,
    memories,
    numbered,
    ranked,
    vectors,
    wanted,
)

from filter_world import read, wire_filters
from memfast.http.wire_search import SearchAnswer, SearchHit
from memfast.index.shard import Shard
from memfast.model import Memory
from memfast.search.encode import encode_rows, encode_search

changes = st.lists(st.tuples(memories, vectors) | st.sampled_from(IDS), max_size=4)
writes = st.lists(st.tuples(memories, vectors), max_size=30)
moments = st.integers(-1, 10).map(at_us)


class ShardMachine(RuleBasedStateMachine):
    """Writes, and searches of the newest shard and of older ones."""

    @initialize(first=writes)
    def begin(self, first):
        """Build a shard of what there is."""
        self.world = World()
        self.world.write(first)
        self.shard = self.world.build()
        self.deltas = []
        self.past = []

    @rule(batch=changes)
    def write(self, batch):
        """Apply a write; the old shard stays as it was."""
        self.past = [*self.past[-3:], (self.shard, dict(self.world.rows))]
        delta = self.world.write(batch)
        self.deltas.append(delta)
        self.shard = self.shard.apply(delta)
        assert self.shard.version == self.world.version
        assert len(self.shard) == len(self.world.rows)

    @rule(data=st.data())
    def repeat(self, data):
        """Apply old deltas, and all of them in one, again."""
        if self.deltas:
            delta = data.draw(st.sampled_from(self.deltas))
            assert self.shard.apply(delta) is self.shard

    @rule(batch=changes, back=st.integers(0, 3))
    def overlap(self, batch, back):
        """Apply a delta that begins before the shard's version."""
        self.past = [*self.past[-3:], (self.shard, dict(self.world.rows))]
        since = max(0, self.shard.version - back)
        before = dict(self.world.rows)
        self.world.write(batch)
        changed = {key: row for key, row in self.world.rows.items() if row[0].version > since}
        gone = {key: self.world.version for key in before if key not in self.world.rows}
        self.shard = self.shard.apply(self.world.delta(since, changed, gone))

    @rule(flat_limit=st.sampled_from([0, 5, 20_000]))
    def rebuild(self, flat_limit):
        """Move all rows into the base, with and without a graph."""
        self.shard = self.shard.rebuilt(flat_limit)
        assert (self.shard.graph is not None) == (len(self.world.rows) > flat_limit)
        assert len(self.shard.tail) == 0
        assert len(self.shard.base) == len(self.world.rows)

    @rule(
        vector=vectors,
        k=st.integers(0, 45),
        now_us=moments,
        where=st.none() | wire_filters,
        min_score=st.sampled_from([0.0, 0.0, 0.5]),
    )
    def search(self, vector, k, now_us, where, min_score):
        """Find what ranking all rows finds, in the newest shard and in all older ones."""
        for shard, rows in [*self.past, (self.shard, self.world.rows)]:
            hits = shard.search(vector, k, now_us=now_us, where=read(where), min_score=min_score)
            expected = ranked(rows, vector, k, now_us=now_us, where=where, min_score=min_score)
            if shard.graph is not None:
                expected = self.with_equal_hits_of(hits, rows, vector, expected)
            assert found(hits) == wanted(expected)
            assert hits.ids == [hit.memory.id for hit in expected]
            answer = SearchAnswer(
                [SearchHit(**msgspec.structs.asdict(hit.memory), score=hit.score) for hit in expected],
                shard.version,
                [],
            )
            served = encode_rows(hits.blocks, hits.rows, hits.scores, shard.version)
            assert served == encode_search(hits.fragments, hits.scores, shard.version) == msgspec.json.encode(answer)

    @staticmethod
    def with_equal_hits_of(hits, rows, vector, expected):
        """The expected hits, of which those of the last score may be any that have it: a graph gives no more."""
        assert hits.scores == [hit.score for hit in expected]
        given_hits = [
            hit for hit in ranked(rows, vector, len(rows), now_us=at_us(-1)) if hit.memory.id in set(hits.ids)
        ]
        last = expected[-1].score if expected else 0.0
        same = [hit for hit in expected if hit.score > last]
        return same + [hit for hit in given_hits if hit.score == last]

    @rule(key=st.sampled_from(IDS), now_us=moments)
    def get(self, key, now_us):
        """Read one memory."""
        for shard, rows in [*self.past, (self.shard, self.world.rows)]:
            row = rows.get(key)
            if (
                row is not None
                and row[0].expires_at is not None
                and row[0].expires_at <= at((now_us - at_us(0)) // 10**6)
            ):
                row = None
            fragment = shard.get(key, now_us=now_us)
            assert fragment == (None if row is None else msgspec.json.encode(row[0])[:-1])


def test_every_version_of_a_shard_answers_as_its_scope_did(twin, small_limits):
    """Random writes, rebuilds and searches against a dictionary, old versions included."""
    run_state_machine_as_test(
        ShardMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(memories, vectors), min_size=1, max_size=40, unique_by=lambda row: row[0].id), wire_filters)
def test_filters_mean_what_they_say(rows, where):
    """A filter passes the memories that its plain reading passes."""
    world = World()
    world.write(rows)
    hits = world.build().search(VECTORS[0], 50, now_us=at_us(-1), where=read(where))
    assert found(hits) == wanted(ranked(world.rows, VECTORS[0], 50, now_us=at_us(-1), where=where))


def test_rows_of_equal_score_come_by_id_from_base_and_tail(twin):
    """A hundred equal vectors, stored in falling order of id, are found in rising order."""
    world = World()
    rows = numbered(100, VECTORS[0])
    world.write(rows[50:])
    shard = world.build()
    for row in reversed(rows[:50]):
        shard = shard.apply(world.write([row]))
    hits = shard.search(VECTORS[0], 30, now_us=0)
    assert [each.int for each in hits.ids] == list(range(1, 31))


def test_two_futures_of_one_shard_do_not_meet():
    """Different deltas applied to one shard write to different memory."""
    world, other = World(), World()
    rows = numbered(6)
    for each in (world, other):
        each.write(rows[:2])
    shard = world.build().apply(world.write(rows[2:3]))
    other.write(rows[2:3])
    first, second = shard.apply(world.write(rows[3:4])), shard.apply(other.write(rows[4:6]))
    for each, rows_then in ((first, world.rows), (second, other.rows)):
        for vector in VECTORS[:4]:
            assert found(each.search(vector, 9, now_us=0)) == wanted(ranked(rows_then, vector, 9, now_us=0))
    assert len(shard) == 3


def test_a_shard_does_not_change_under_a_search_in_another_thread():
    """Answers of an old shard stay the same to the byte while writes go on."""
    world = World()
    world.write(numbered(400))
    shard = world.build()
    for row in numbered(40):
        shard = shard.apply(world.write([row]))
    before = shard.search(VECTORS[20], 20, now_us=0)
    expected = encode_search(before.fragments, before.scores, 1)
    stop, answers = threading.Event(), set()

    def searching():
        while not stop.is_set():
            found = shard.search(VECTORS[20], 20, now_us=0)
            answers.add(encode_search(found.fragments, found.scores, 1))

    thread = threading.Thread(target=searching)
    thread.start()
    newest = shard
    for row in itertools.islice(itertools.cycle(numbered(400)), 600):
        newest = newest.apply(world.write([row]))
    stop.set()
    thread.join(30)
    assert answers == {expected}
    assert found(newest.search(VECTORS[20], 20, now_us=0)) == wanted(ranked(world.rows, VECTORS[20], 20, now_us=0))


def test_a_delta_that_leaves_a_gap_is_refused():
    """What begins after the shard's version, or after a purge beyond it, cannot be applied."""
    world = World()
    world.write(numbered(3))
    shard = world.build()
    delta = world.write(numbered(1))
    assert shard.apply(msgspec.structs.replace(delta, since=4)) is None
    assert shard.apply(msgspec.structs.replace(delta, purged_to=4)) is None
    assert shard.apply(msgspec.structs.replace(delta, purged_to=3)).purged_to == 3


def test_what_expires_is_gone_at_its_microsecond():
    """A memory is found until just before it expires, in the base and in the tail."""
    world = World()
    (first, second) = numbered(2, VECTORS[0])
    world.write([(msgspec.structs.replace(first[0], expires_at=at(5)), first[1])])
    shard = world.build()
    assert shard.next_expiry_us == at_us(5)
    shard = shard.apply(world.write([(msgspec.structs.replace(second[0], expires_at=at(3)), second[1])]))
    assert shard.next_expiry_us == at_us(3)
    counts = [
        len(shard.search(VECTORS[0], 5, now_us=now).rows) for now in (at_us(3) - 1, at_us(3), at_us(5) - 1, at_us(5))
    ]
    assert counts == [2, 1, 1, 0]
    assert shard.get(first[0].id, now_us=at_us(5)) is None
    assert shard.get(first[0].id, now_us=at_us(5) - 1) is not None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows, vectors: (rows, vectors.astype(np.float64)), "float64"),
        (lambda rows, vectors: (rows, vectors[1:]), r"wanted is float32 \(3, 8\)"),
        (lambda rows, vectors: (rows, vectors * 2), "unit vectors"),
        (lambda rows, vectors: ([rows[0], *rows[:2]], vectors), "same id"),
        (lambda rows, vectors: ([msgspec.structs.replace(row, version=9) for row in rows], vectors), "newer than"),
    ],
)
def test_build_refuses_what_is_no_snapshot(spoil, message):
    """Wrong vectors, an id twice and rows from the future are errors."""
    rows = numbered(3)
    memories, vectors = spoil([memory for memory, _ in rows], np.array([vector for _, vector in rows]))
    with pytest.raises(ValueError, match=message):
        Shard.build(memories, vectors, identity=IDENTITY, version=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": np.ones((1, DIMENSIONS), np.float32)}, "unit vectors"),
        ({"vectors": np.ones((1, 3), np.float32)}, r"wanted is float32 \(1, 8\)"),
        ({"version": 4, "deleted": [(UUID(int=9), 7)]}, "holds version 7"),
    ],
)
def test_apply_refuses_what_is_no_delta(changes, message):
    """Wrong vectors and rows from the future are errors, and the shard is still good."""
    world = World()
    world.write(numbered(3))
    shard = world.build()
    delta = world.write(numbered(1))
    with pytest.raises(ValueError, match=message):
        shard.apply(msgspec.structs.replace(delta, **changes))
    assert len(shard.apply(delta)) == 3


def traced_bytes():
    """What Python and NumPy hold now."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def test_nbytes_is_what_a_shard_takes():
    """The accounting agrees with the allocator, for a base and for a tail."""
    world = World()
    world.write(
        (msgspec.structs.replace(memory, text="x" * 300, run_id=f"run {number}", tags=["x", "y"]), vector)
        for number, (memory, vector) in enumerate(numbered(3000))
    )
    stored = msgspec.json.encode([memory for memory, _ in world.rows.values()])
    points = np.array([vector for _, vector in world.rows.values()])
    more = [world.write([row]) for row in numbered(300)]
    tracemalloc.start()
    try:
        before = traced_bytes()
        shard = Shard.build(
            msgspec.json.decode(stored, type=list[Memory]), points.copy(), identity=IDENTITY, version=3000
        )
        assert traced_bytes() - before == pytest.approx(shard.nbytes, rel=0.02)
        for delta in more:
            shard = shard.apply(delta)
        assert len(shard.tail) == 300
        assert traced_bytes() - before == pytest.approx(shard.nbytes, rel=0.02)
    finally:
        tracemalloc.stop()


def test_dead_rows_and_spare_room_are_bounded():
    """However often one memory changes, a shard holds a bounded number of dead rows."""
    world = World()
    world.write(numbered(50))
    shard = world.build()
    largest = 0
    for row in itertools.islice(itertools.cycle(numbered(50)), 3000):
        shard = shard.apply(world.write([row]))
        largest = max(largest, shard.worn)
    assert largest <= 4 * 256
    assert len(shard) == 50
