"""`top_k` is the one ranking every tier ends with: exact, and the same to the byte in both twins."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfast._native import _vectors, _vectors_reference

KINDS = ["gauss", "repeated", "grid", "close"]


def unit_rows(kind: str, count: int, width: int, seed: int) -> np.ndarray:
    """Make unit vectors: random ones, few distinct ones, ones on a coarse grid, or ones close together."""
    rng = np.random.default_rng(seed)
    if kind == "repeated":
        rows = rng.standard_normal((3, width))[rng.integers(0, 3, count)]
    elif kind == "grid":
        rows = rng.integers(-1, 2, (count, width)).astype(float)
    elif kind == "close":
        rows = rng.standard_normal(width) + 1e-4 * rng.standard_normal((count, width))
    else:
        rows = rng.standard_normal((count, width))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(lengths == 0, 1, lengths)).astype(np.float32).reshape(count, width)


def ranking_cases():
    """Draw (matrix, query, k)."""
    return st.builds(
        lambda kind, count, width, seed, k: (
            unit_rows(kind, count, width, seed),
            unit_rows(kind, 1, width, seed + 1)[0],
            k,
        ),
        st.sampled_from(KINDS),
        st.integers(0, 70),
        st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 384, 1536])),
        st.integers(0, 2**20),
        st.integers(0, 90),
    )


@given(ranking_cases())
@settings(max_examples=300, deadline=None)
def test_twins_agree_to_the_byte(case):
    """Rows and scores of both twins are identical, whatever the width, the ties and k."""
    rows, scores = _vectors.top_k(*case)
    rows_py, scores_py = _vectors_reference.top_k(*case)
    assert rows.tobytes() == rows_py.tobytes()
    assert scores.tobytes() == scores_py.tobytes()


@given(ranking_cases())
@settings(max_examples=100, deadline=None)
def test_ranking_matches_the_definition(vectors, case):
    """The scores are the rounded cosines, never negative, and the order is (score falling, row rising)."""
    matrix, query, k = case
    rows, scores = vectors.top_k(matrix, query, k)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float64
    assert len(rows) == len(scores) == min(k, len(matrix))
    exact = matrix.astype(np.float64) @ query.astype(np.float64)
    everything = np.maximum(exact, 0.0)
    assert np.abs(scores - everything[rows]).max(initial=0.0) <= 0.5000001e-6
    assert sorted(zip(-scores, rows, strict=True)) == list(zip(-scores, rows, strict=True))
    left_out = np.delete(everything, rows)
    if len(scores) and len(left_out):
        assert left_out.max() <= scores[-1] + 0.5000001e-6


def test_ties_go_to_the_lower_row(vectors):
    """Equal rows are ranked by their number, and negative scores are all the same zero."""
    matrix = np.array([[-1, 0], [1, 0], [0, 1], [1, 0], [-0.5, 0]], dtype=np.float32)
    rows, scores = vectors.top_k(matrix, np.array([1, 0], dtype=np.float32), 5)
    assert rows.tolist() == [1, 3, 0, 2, 4]
    assert scores.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert not np.signbit(scores).any()


def test_rounding_is_half_to_even(vectors):
    """A score exactly between two millionths goes to the even one, as numpy.round does it."""
    halves = np.array([[0.5], [1.5], [2.5], [3.5]], dtype=np.float32)
    step = np.array([2.0**-20], dtype=np.float32)
    rows, scores = vectors.top_k(halves, step, 4)
    expected = np.round(halves[:, 0].astype(np.float64) * 2.0**-20, 6)
    assert scores.tolist() == expected[rows].tolist()


def test_spare_capacity_is_not_ranked(vectors):
    """The first rows of a larger matrix can be ranked in place."""
    matrix = np.ones((8, 4), dtype=np.float32)
    assert vectors.top_k(matrix[:3], matrix[0], 10)[0].tolist() == [0, 1, 2]


def test_read_only_arrays_are_welcome(vectors):
    """A memory-mapped snapshot cannot be written, and need not be."""
    matrix = np.ones((2, 4), dtype=np.float32)
    matrix.flags.writeable = False
    assert vectors.top_k(matrix, matrix[0], 1)[0].tolist() == [0]


GOOD = np.ones((4, 6), dtype=np.float32)


@pytest.mark.parametrize(
    ("matrix", "query", "k", "message"),
    [
        (GOOD.astype(np.float64), GOOD[0], 1, "matrix must be"),
        (GOOD[:, ::2], GOOD[0, :3], 1, "matrix must be"),
        (GOOD[0], GOOD[0], 1, "matrix must be"),
        (GOOD.astype(">f4"), GOOD[0], 1, "matrix must be"),
        (GOOD.tolist(), GOOD[0], 1, "matrix must be"),
        (GOOD, GOOD, 1, "query must be"),
        (GOOD, GOOD[0].astype(np.float16), 1, "query must be"),
        (GOOD, np.ones(12, dtype=np.float32)[::2], 1, "query must be"),
        (GOOD, GOOD[0, :5], 1, "6 columns and query 5"),
        (GOOD, GOOD[0], -1, "k is -1"),
    ],
)
def test_wrong_arrays_are_refused(vectors, matrix, query, k, message):
    """Another dtype, shape, layout or a negative k is a ValueError that says what to do."""
    with pytest.raises(ValueError, match=message):
        vectors.top_k(matrix, query, k)
