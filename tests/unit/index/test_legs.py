"""A shard scores by words, and knows who stood beside whom, exactly as its scope would at every version."""

import tempfile
from pathlib import Path
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from index_world import (
    IDENTITY,
    IDS,
    MEMORY,
    TEXTS,
    VECTORS,
    World,
    at,
    at_us,
    beside,
    memories,
    numbered,
    ranked,
    scored,
    sentences,
    vectors,
    visible,
)

from filter_world import read, wire_filters
from memfast.index.snapshot import load, save
from memfast.search.words import words_of

WORDS = words_of("english")
queries = st.lists(
    st.tuples(
        st.sampled_from(sorted({term for text in TEXTS for term in WORDS.of_text(text)} | {"2026", "unheard", "null"})),
        st.sampled_from([1.0, 1.0, 0.15, 2.5]),
    ),
    max_size=8,
    unique_by=lambda pair: pair[0],
) | sentences.map(WORDS.of_query)
changes = st.lists(st.tuples(memories, vectors) | st.sampled_from(IDS), max_size=4)
moments = st.integers(-1, 10).map(at_us)


def ids_of_rows(shard, rows):
    """The ids of rows, None for -1."""
    return [None if row < 0 else UUID(bytes=shard.id_bytes(row)) for row in rows]


class LegsMachine(RuleBasedStateMachine):
    """Writes, rebuilds and snapshots, and questions to the newest shard and to older ones."""

    @initialize(first=st.lists(st.tuples(memories, vectors), max_size=30))
    def begin(self, first):
        """Build a shard of what there is."""
        self.world = World()
        self.world.write(first)
        self.shard = self.world.build()
        self.past = []

    @rule(batch=changes)
    def write(self, batch):
        """Apply a write; the old shard stays as it was."""
        self.past = [*self.past[-2:], (self.shard, dict(self.world.rows))]
        self.shard = self.shard.apply(self.world.write(batch))

    @rule(flat_limit=st.sampled_from([0, 20_000]))
    def rebuild(self, flat_limit):
        """Move all rows into the base: the postings are those of a shard built anew, to the byte."""
        self.shard = self.shard.rebuilt(flat_limit)
        anew = self.world.build()
        assert [each.tobytes() for each in self.shard.postings.base] == [each.tobytes() for each in anew.postings.base]
        assert self.shard.postings.length == anew.postings.length

    @rule()
    def restore(self):
        """Save it and load it."""
        with tempfile.TemporaryDirectory() as directory:
            save(self.shard, Path(directory, "shard"))
            self.shard = load(Path(directory, "shard"), IDENTITY)

    @rule(terms=queries, k=st.integers(0, 45), now_us=moments, where=st.none() | wire_filters)
    def lexical(self, terms, k, now_us, where):
        """Find what BM25 finds, with its scores, whatever has happened to the shard before."""
        for shard, rows in [*self.past, (self.shard, self.world.rows)]:
            expected = scored(rows, terms)
            everyone = ids_of_rows(shard, all_rows(shard))
            found, scores_of, ceiling = shard.ranked(terms, len(terms), k, now_us=now_us, where=read(where))
            exact = dict(zip(everyone, scores_of(np.array(all_rows(shard), np.int64)).tolist(), strict=True))
            assert exact.keys() == rows.keys()
            assert np.allclose([exact[key] for key in rows], [expected[key] for key in rows], rtol=1e-9, atol=0)
            hits = [memory.id for memory in visible(rows, now_us, where) if expected[memory.id] > 0]
            assert ids_of_rows(shard, found) == sorted(hits, key=lambda key: (-exact[key], key.bytes))[:k]
            assert ceiling >= max(exact.values(), default=0.0)

    @invariant()
    def is_as_a_new_one(self):
        """Whatever came before, common words have the scores, and rows the neighbours, that they should have."""
        if hasattr(self, "shard"):
            self.compare_with_a_new_one([("2026", 1.0), ("cat", 1.0), ("dog", 0.5)])
            self.neighbours(at_us(4), 2)

    @rule(terms=queries)
    def compare_with_a_new_one(self, terms):
        """Every score is that of a shard built anew from the live rows, to the last bit."""
        anew = self.world.build()
        assert by_words(self.shard, terms) == by_words(anew, terms)
        assert self.shard.vector_total.tobytes() == anew.vector_total.tobytes()

    @rule(vector=vectors, data=st.data())
    def candidates(self, vector, data):
        """Tell of any rows what a search and their memories say."""
        for shard, rows in [*self.past, (self.shard, self.world.rows)]:
            chosen = data.draw(st.lists(st.sampled_from(all_rows(shard)), max_size=9)) if rows else []
            found = [rows[key] for key in ids_of_rows(shard, chosen)]
            every = ranked(rows, vector, len(rows), now_us=at_us(-1))
            scores = {hit.memory.id: hit.score for hit in every}
            dots = shard.vector_scores(vector, chosen)
            assert dots.round(6).clip(0).tolist() == [scores[memory.id] for memory, _ in found]
            assert dots.tolist() == pytest.approx([each.astype(float) @ vector for _, each in found], abs=1e-12)
            assert shard.by_id(np.array(chosen, np.int64)).tolist() == sorted(chosen, key=shard.id_bytes)
            total = sum((each.astype(float) for _, each in rows.values()), start=np.zeros(len(vector)))
            assert shard.vector_total.tolist() == pytest.approx(total.tolist(), abs=1e-6)
            assert shard.importances(chosen).tolist() == [memory.importance for memory, _ in found]
            assert shard.created_us(chosen).tolist() == [at_us((m.created_at - at(0)).seconds) for m, _ in found]
            assert np.array_equal(shard.vectors_of(chosen), np.array([each for _, each in found]).reshape(-1, 8))

    @rule(now_us=moments, reach=st.integers(1, 3))
    def neighbours(self, now_us, reach):
        """Know the neighbours of every row, of expired ones too."""
        for shard, rows in [*self.past[-1:], (self.shard, self.world.rows)]:
            chosen = all_rows(shard)
            table = shard.neighbours(chosen, now_us=now_us, reach=reach)
            assert table.shape == (2 * reach, len(chosen))
            for key, column in zip(ids_of_rows(shard, chosen), table.T.tolist(), strict=True):
                assert ids_of_rows(shard, column) == beside(rows, key, now_us, reach)

    @rule(terms=queries)
    def frequencies(self, terms):
        """Count the memories that have a term."""
        names = list(dict(terms))
        held = [set(WORDS.of_memory(memory)) for memory, _ in self.world.rows.values()]
        assert self.shard.term_frequencies(names).tolist() == [sum(name in each for each in held) for name in names]


def all_rows(shard):
    """The numbers of the live rows of a shard."""
    base = np.arange(len(shard.base)) if shard.base_live is None else np.flatnonzero(shard.base_live)
    return [*base.tolist(), *(np.flatnonzero(shard.tail_live) + len(shard.base)).tolist()]


def by_words(shard, terms):
    """The ids of all hits by these terms, their scores, and the ceiling."""
    rows, scores_of, ceiling = shard.ranked(terms, len(terms), 99, now_us=at_us(-1))
    return ids_of_rows(shard, rows), scores_of(rows).tolist(), ceiling


def test_every_version_of_a_shard_knows_its_words(twin, small_limits):
    """Random writes, rebuilds, snapshots and questions against a dictionary, old versions included."""
    run_state_machine_as_test(
        LegsMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_rows_of_equal_score_come_by_id_from_base_and_tail(twin):
    """A hundred equal texts, stored in falling order of id, are found in rising order."""
    world = World()
    rows = numbered(100, VECTORS[0])
    world.write(rows[50:])
    shard = world.build()
    for row in reversed(rows[:50]):
        shard = shard.apply(world.write([row]))
    found, scores_of, _ = shard.ranked([("t", 1.0)], 1, 30, now_us=0)
    assert [each.int for each in ids_of_rows(shard, found)] == list(range(1, 31))
    assert len(set(scores_of(found).tolist())) == 1


def test_a_query_in_words_finds_what_is_called_so():
    """Identifiers, versions, other scripts and words that mean nothing alone are found by who asks for them."""
    texts = [
        "restart foo_bar.baz now",
        "see ERR-4711",
        "mail bob.smith@example.com",
        "edit /etc/nginx/nginx.conf",
        "東京都へ行く",
        "to be",
    ]
    texts += ["the weather is fine"] * 20
    world = World()
    world.write(
        (msgspec.structs.replace(MEMORY, id=UUID(int=number), text=text), VECTORS[number % 8])
        for number, text in enumerate(texts)
    )
    shard = world.build()
    asked = ["foo_bar.baz", "err-4711?", "bob.smith@example.com", "nginx.conf", "京都", "be"]
    for number, query in enumerate(asked):
        rows, *_ = shard.ranked(WORDS.of_query(query), 0, 1, now_us=0)
        assert rows.tolist() == [number], query
    assert len(by_words(shard, WORDS.of_query("May 1st 2026"))[0]) == len(texts)
    assert by_words(shard, WORDS.of_query("unheard of?!"))[:2] == ([], [])
    assert by_words(shard, []) == ([], [], 0.0)


def test_an_empty_shard_knows_no_words():
    """Nothing is found where nothing is, and nothing breaks."""
    shard = World().build()
    assert by_words(shard, [("t", 1.0)])[:2] == ([], [])
    assert shard.term_frequencies(["t"]).tolist() == [0]
    assert shard.neighbours([], now_us=0).shape == (4, 0)
    assert shard.vector_scores(VECTORS[0], []).tolist() == []


def test_the_terms_of_a_shard_are_of_its_language():
    """The language stays with the shard through writes and rebuilds."""
    world = World()
    house = msgspec.structs.replace(MEMORY, text="Häuser")
    world.write([(house, VECTORS[0])])
    shard = world.build(language="german")
    shard = shard.apply(world.write([(msgspec.structs.replace(house, id=UUID(int=9)), VECTORS[1])]))
    for each in (shard, shard.packed()):
        assert len(by_words(each, [("haus", 1.0)])[0]) == 2
    with pytest.raises(ValueError, match="klingon"):
        world.build(language="klingon")


def test_terms_are_counted_as_bytes():
    """What a shard takes includes its postings, and a long tail."""
    world = World()
    world.write(numbered(50))
    shard = world.build()
    bare = shard.nbytes - shard.postings.nbytes
    assert shard.postings.nbytes > 50 * 10
    later = shard.apply(world.write([(msgspec.structs.replace(MEMORY, text="word " * 1000), VECTORS[0])]))
    assert later.nbytes - bare > shard.postings.nbytes + 8000
