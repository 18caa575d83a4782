"""A snapshot is the shard that was saved, or nothing."""

import logging
import mmap
import os
import struct
from dataclasses import replace
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from index_world import IDENTITY, VECTORS, World, at_us, found, memories, numbered, ranked, vectors, wanted

from filter_world import read, wire_filters
from memfast.index import shard, snapshot
from memfast.index.block import encode_fragment
from memfast.index.postings import Postings
from memfast.index.snapshot import load, save

rows = st.lists(st.tuples(memories, vectors), max_size=25)
any_fixture = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def answers(each):
    """Everything that a shard can say."""
    hits = [each.search(vector, 50, now_us=at_us(-1)) for vector in VECTORS[:6]]
    terms = [("dog", 1.0), ("cat", 0.3), ("2026", 1.0)]
    rows, scores_of, ceiling = each.ranked(terms, 2, 50, now_us=at_us(-1))
    by_words = (
        [each.id_bytes(row) for row in rows.tolist()],
        scores_of(rows).tolist(),
        ceiling,
        each.term_frequencies(["dog", "猫"]).tolist(),
    )
    beside = [
        [row >= 0 and each.id_bytes(row) for row in line] for line in each.neighbours(rows, now_us=at_us(-1)).tolist()
    ]
    nearest = [(hit.ids, found(hit)) for hit in hits]
    return each.version, each.purged_to, each.identity, len(each), nearest, by_words, beside


def saved(path, writes=(), more=()):
    """A shard with a base and a tail, saved."""
    world = World()
    world.write(writes or numbered(9))
    built = world.build().apply(world.write(more or numbered(12)[7:]))
    save(built, path)
    return world, built


@any_fixture
@given(rows, rows, wire_filters)
def test_what_is_loaded_is_what_was_saved(tmp_path, small_limits, first, more, where):
    """A loaded shard answers as the saved one, before and after more writes."""
    path = tmp_path / "shard"
    world, built = saved(path, first, more)
    loaded = load(path, IDENTITY)
    assert answers(loaded) == answers(built)
    for change in ([(memory, vector) for memory, vector in first[:3]], [memory.id for memory, _ in more[:3]]):
        loaded = loaded.apply(world.write(change))
    for each in (loaded, loaded.rebuilt(), loaded.rebuilt(flat_limit=0)):
        hits = each.search(VECTORS[0], 45, now_us=at_us(3), where=read(where))
        assert found(hits) == wanted(ranked(world.rows, VECTORS[0], 45, now_us=at_us(3), where=where))


@any_fixture
@given(st.data())
def test_a_changed_byte_is_noticed(tmp_path, small_limits, data):
    """Whatever byte is changed, the file is refused, or nothing was changed that counts."""
    path = tmp_path / "shard"
    _, built = saved(path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    loaded = load(path, IDENTITY)
    assert loaded is None or answers(loaded) == answers(built)


def test_every_byte_of_the_first_kilobyte_counts(tmp_path, small_limits):
    """No flipped bit in the header or in the first section gives another shard."""
    path = tmp_path / "shard"
    _, built = saved(path)
    content, refused = path.read_bytes(), 0
    for place in range(1024):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        loaded = load(path, IDENTITY)
        refused += loaded is None
        assert loaded is None or answers(loaded) == answers(built)
    assert refused > 900


@any_fixture
@given(st.integers(0, 4000), st.binary(max_size=100))
@example(0, b"")
def test_a_file_of_another_length_is_refused(tmp_path, length, tail):
    """A truncated file, and one with something behind it, are no snapshots."""
    path = tmp_path / "shard"
    saved(path)
    content = path.read_bytes()
    for changed in (content[: length % len(content)], content[: -1 - length % 64], content + b"\0" + tail):
        path.write_bytes(changed)
        assert load(path, IDENTITY) is None


@pytest.mark.parametrize(
    "change",
    [{"scope_id": UUID(int=5)}, {"lineage": UUID(int=5)}, {"generation": 9}, {"dimensions": 16}],
)
def test_a_foreign_file_is_refused(tmp_path, caplog, change):
    """Another scope, another life of the database, another model, another width: a line in the log and nothing."""
    path = tmp_path / "shard"
    saved(path)
    with caplog.at_level(logging.WARNING, "memfast.index"):
        assert load(path, msgspec.structs.replace(IDENTITY, **change)) is None
    assert "is not used: it is of" in caplog.text


def test_a_newer_format_and_another_form_of_memories_are_refused(tmp_path, caplog, monkeypatch):
    """What another release wrote is not guessed at."""
    path = tmp_path / "shard"
    saved(path)
    with caplog.at_level(logging.WARNING, "memfast.index"):
        assert load(path, IDENTITY, encode=lambda memory: encode_fragment(memory) + b',"more":1') is None
        monkeypatch.setattr(snapshot, "FORMAT", 3)
        assert load(path, IDENTITY) is None
    assert "another release" in caplog.text
    assert "its format is 2, this version reads 3" in caplog.text


def test_terms_of_another_language_are_refused(tmp_path, caplog):
    """A file is good for the language of its terms alone."""
    saved(tmp_path / "shard")
    with caplog.at_level(logging.WARNING, "memfast.index"):
        assert load(tmp_path / "shard", IDENTITY, language="german") is None
    assert "/english/" in caplog.text
    assert "/german/" in caplog.text


def test_no_file_is_no_snapshot(tmp_path, caplog):
    """A missing file is ordinary; a directory or an empty file is not."""
    with caplog.at_level(logging.WARNING, "memfast.index"):
        assert load(tmp_path / "none", IDENTITY) is None
        assert not caplog.text
        assert load(tmp_path, IDENTITY) is None
        (tmp_path / "empty").touch()
        assert load(tmp_path / "empty", IDENTITY) is None
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda base: replace(base, ids=base.ids[::-1].copy()),
        lambda base: replace(base, wide=base.wide + 10**6),
        lambda base: replace(base, codes=base.codes + 1000),
        lambda base: replace(base, codes=base.codes - 3),
        lambda base: replace(base, ids=base.ids[:-1].copy()),
        lambda base: replace(base, vectors=base.vectors[:, :4].copy()),
        lambda base: replace(base, fragments=base.fragments[:-5].copy()),
    ],
)
def test_a_file_with_good_sums_and_wrong_rows_is_refused(tmp_path, spoil):
    """Rows that reach beyond their sections or out of order are noticed although every sum is right."""
    world = World()
    world.write((msgspec.structs.replace(memory, tags=["a"]), vector) for memory, vector in numbered(9))
    built = world.build()
    save(replace(built, base=spoil(built.base)), tmp_path / "shard")
    assert load(tmp_path / "shard", IDENTITY) is None


@pytest.mark.parametrize(
    "spoil",
    [
        lambda inverted: inverted._replace(keys=inverted.keys[::-1].copy()),
        lambda inverted: inverted._replace(keys=inverted.keys[1:].copy()),
        lambda inverted: inverted._replace(starts=inverted.starts[::-1].copy()),
        lambda inverted: inverted._replace(starts=inverted.starts + 1),
        lambda inverted: inverted._replace(rows=inverted.rows + 1),
        lambda inverted: inverted._replace(rows=inverted.rows - 1),
        lambda inverted: inverted._replace(counts=inverted.counts[1:].copy()),
        lambda inverted: inverted._replace(lengths=-inverted.lengths),
        lambda inverted: inverted._replace(lengths=inverted.lengths[1:].copy()),
    ],
)
def test_a_file_with_good_sums_and_wrong_terms_is_refused(tmp_path, spoil):
    """Terms out of order, and terms of rows that are not there, are noticed although every sum is right."""
    world = World()
    world.write(numbered(9))
    built = world.build()
    save(replace(built, postings=Postings.of_base(spoil(built.postings.base))), tmp_path / "shard")
    assert load(tmp_path / "shard", IDENTITY) is None
    save(replace(built, by_run=built.by_run + 1), tmp_path / "shard")
    assert load(tmp_path / "shard", IDENTITY) is None
    save(built, tmp_path / "shard")
    assert load(tmp_path / "shard", IDENTITY) is not None


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    """When the disk fails, the file of before is still there, alone."""
    path = tmp_path / "shard"
    _, built = saved(path)
    before = path.read_bytes()

    def fail(_handle):
        raise OSError(28, "no room")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no room"):
        save(built, path)
    assert [each.name for each in tmp_path.iterdir()] == ["shard"]
    assert path.read_bytes() == before


def test_a_loaded_shard_is_mapped_and_survives_the_next_save(tmp_path):
    """Vectors are read in place, not copied; a new file in the same place changes nothing for who mapped the old."""
    path = tmp_path / "shard"
    world, built = saved(path)
    loaded = load(path, IDENTITY)
    owner = loaded.base.vectors
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert isinstance(owner.obj if isinstance(owner, memoryview) else owner, mmap.mmap)
    assert not loaded.base.vectors.flags.writeable
    save(built.apply(world.write(list(world.rows)[:5])), path)
    assert answers(loaded) == answers(built)
    assert len(load(path, IDENTITY)) == len(world.rows)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_int8_image_is_saved_with_the_rows(tmp_path, monkeypatch):
    """A large base needs no work after loading."""
    monkeypatch.setattr(shard, "QUANTISED_FROM_ROWS", 4)
    _, built = saved(tmp_path / "shard")
    loaded = load(tmp_path / "shard", IDENTITY)
    for ours, theirs in zip(loaded.base.quantised, built.packed().base.quantised, strict=True):
        assert np.array_equal(ours, theirs)
    assert struct.unpack_from("<8sI", (tmp_path / "shard").read_bytes()) == (b"memfast\x01", 2)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("wanted_image", [True, False])
def test_the_int8_image_is_there_as_configured(tmp_path, small_limits, kept, wanted_image):
    """Whatever the file holds, a loaded shard has the image that is wanted now, through writes, and answers alike."""
    world = World()
    world.write(numbered(40))
    built = world.build(int8=kept)
    assert (built.base.quantised is not None) is kept
    save(built, tmp_path / "shard")
    loaded = load(tmp_path / "shard", IDENTITY, int8=wanted_image)
    assert answers(loaded) == answers(built)
    for each in (loaded, loaded.apply(world.write(numbered(3))).packed()):
        assert (each.base.quantised is not None) is wanted_image
