"""The pure parts around a model: equal texts once, bounded chunks, rows of norm 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfast.embedding.batch import chunks, distinct, require_unicode, spread, text_cost, unit_rows
from memfast.errors import InvalidRequest

TEXTS = st.lists(st.text(max_size=12), max_size=40)


@given(TEXTS)
def test_distinct_and_spread_are_inverse(texts):
    """Rows made for the distinct texts come back as one row for each text, in order."""
    unique, positions = distinct(texts)
    assert len(set(unique)) == len(unique)
    assert [unique[position] for position in positions] == texts
    rows = np.arange(2 * len(unique), dtype=np.float32).reshape(-1, 2)
    scattered = spread(rows, positions)
    assert scattered.flags.c_contiguous
    assert scattered.tolist() == [rows[position].tolist() for position in positions]


def test_distinct_keeps_the_order_of_first_appearance():
    """The first text stays first, whatever repeats."""
    assert distinct(["b", "a", "b", "c", "a"]) == (["b", "a", "c"], [0, 1, 0, 2, 1])


@given(TEXTS, st.integers(1, 5), st.integers(1, 30))
def test_chunks_cover_all_texts_in_order_within_their_bounds(texts, max_texts, max_cost):
    """Parts join to the input, start where they say, and pass a bound only as a single text."""
    parts = list(chunks(texts, max_texts=max_texts, max_cost=max_cost))
    assert [text for _, part in parts for text in part] == texts
    assert [start for start, _ in parts] == [sum(len(p) for _, p in parts[:i]) for i in range(len(parts))]
    for _, part in parts:
        assert 1 <= len(part) <= max_texts
        assert len(part) == 1 or sum(map(text_cost, part)) <= max_cost


def test_chunks_are_as_large_as_the_bounds_allow():
    """A part ends only where the next text would pass a bound."""
    assert list(chunks(["aa", "bb", "c", "dddd", "e"], max_texts=3, max_cost=5)) == [
        (0, ["aa", "bb", "c"]),
        (3, ["dddd", "e"]),
    ]


@given(st.text(max_size=50))
def test_the_predicted_cost_is_never_below_the_bytes(text):
    """A chunk is bounded by bytes, so the guess errs upwards only."""
    assert text_cost(text) >= len(text.encode())


@pytest.mark.parametrize("dimensions", [1, 3, 256, 1536])
def test_unit_rows_have_norm_1_and_do_not_depend_on_their_neighbours(dimensions):
    """A row gives the same bytes alone, in a matrix, and in a slice of one."""
    rows = np.random.default_rng(7).standard_normal((17, dimensions)).astype(np.float32)
    rows[3] *= 1e18
    rows[4] *= 1e-18
    units = unit_rows(rows)
    assert units.dtype == np.float32
    assert np.abs(np.linalg.norm(units.astype(np.float64), axis=1) - 1).max() < 1e-6
    for index, row in enumerate(rows):
        assert unit_rows(row[np.newaxis].copy())[0].tobytes() == units[index].tobytes()
        assert unit_rows(rows[index:])[0].tobytes() == units[index].tobytes()


def test_half_a_surrogate_pair_is_named():
    """The caller learns which text and where; good texts pass."""
    require_unicode(["é", "😀"])
    with pytest.raises(InvalidRequest, match="text 1 holds a lone surrogate at character 2"):
        require_unicode(["fine", "ab\ud800"])
