"""Neighbours in a run: who they are, what they lend and what they blend, against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfast.search.neighbors import context, lend, neighborhood, run_positions

WEIGHTS = (0.6, 0.4)


@st.composite
def worlds(draw):
    """Some rows of a user's memories in any order: runs, places in them, scores, and which are allowed."""
    everything = draw(st.lists(st.integers(-1, 3), min_size=1, max_size=25))
    runs = np.array(everything, dtype=np.int64)
    positions = run_positions(runs)
    rows = np.array(draw(st.lists(st.sampled_from(range(len(runs))), unique=True)), dtype=np.intp)
    scores = draw(st.lists(st.floats(0, 1), min_size=len(rows), max_size=len(rows)))
    allowed = draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    return runs[rows], positions[rows], np.array(scores, dtype=np.float64), np.array(allowed, dtype=np.bool_)


def around(runs, positions, row, distance):
    """The rows at a distance in the same run, by comparing all with all."""
    return [
        other
        for other in range(len(runs))
        if runs[row] >= 0 and runs[other] == runs[row] and abs(positions[other] - positions[row]) == distance
    ]


def test_positions_count_within_each_run():
    """A memory's place is how many of its run come before it."""
    assert run_positions(np.array([5, 2, 5, -1, 2, 5, -1])).tolist() == [0, 0, 1, 0, 1, 2, 1]
    assert run_positions(np.array([], dtype=np.int64)).tolist() == []


@given(worlds())
def test_lending_against_a_loop(world):
    """Each memory is lifted by the largest loan around it, those of a filter neither lend nor borrow."""
    runs, positions, scores, allowed = world
    near = neighborhood(runs, positions)
    for mask in (None, allowed):
        own = scores if mask is None else np.where(mask, scores, 0.0)
        expected = []
        for row in range(len(runs)):
            loans = [
                weight * own[other]
                for distance, weight in enumerate(WEIGHTS, 1)
                for other in around(runs, positions, row, distance)
            ]
            loan = max(loans, default=0.0)
            lifted = 1 - (1 - own[row]) * (1 - loan)
            expected.append(lifted if mask is None or mask[row] else 0.0)
        assert lend(scores, near, WEIGHTS, allowed=mask) == pytest.approx(expected, abs=2e-6)


@given(worlds())
def test_context_against_a_loop(world):
    """The sum over the neighbourhood by the root of its weights; one without neighbours keeps what it has."""
    runs, positions, scores, allowed = world
    near = neighborhood(runs, positions)
    similarities = 2 * scores - 1
    for mask in (np.ones_like(allowed), allowed):
        blended = context(similarities, near, WEIGHTS, allowed=mask)
        for row in np.flatnonzero(mask):
            total, mass = similarities[row], 1.0
            for distance, weight in enumerate(WEIGHTS, 1):
                for other in around(runs, positions, row, distance):
                    if mask[other]:
                        total += weight * similarities[other]
                        mass += weight
            assert blended[row] == pytest.approx(total / math.sqrt(mass), abs=1e-12)
        if mask.all():
            assert (context(similarities, near, WEIGHTS) == blended).all()


@given(worlds())
def test_lifted_scores_stay_scores(world):
    """A loan never lowers, never passes 1, and six decimals remain."""
    runs, positions, scores, _ = world
    lifted = lend(scores, neighborhood(runs, positions), WEIGHTS)
    assert (lifted >= np.round(scores, 6)).all()
    assert (lifted <= 1).all()
    assert (lifted == np.round(lifted, 6)).all()


def test_a_gap_is_no_neighbour():
    """Of a run of four, rows 0 and 3 are known: they are three places apart, so neither lifts the other."""
    near = neighborhood(np.array([1, 1]), np.array([0, 3]))
    assert lend(np.array([1.0, 0.0]), near, WEIGHTS).tolist() == [1.0, 0.0]


def test_runs_do_not_touch():
    """The end of one run and the beginning of the next are strangers, as are memories of no run."""
    runs = np.array([0, 0, 1, 1, -1, -1])
    near = neighborhood(runs, run_positions(runs))
    assert lend(np.array([0.0, 1.0, 0.0, 0.0, 0.0, 1.0]), near, WEIGHTS).tolist() == [0.6, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert near.reach == 2


def test_what_was_borrowed_is_not_lent_on():
    """Three places from the only hit nothing arrives."""
    runs = np.zeros(5, dtype=np.int64)
    near = neighborhood(runs, run_positions(runs))
    assert lend(np.array([1.0, 0, 0, 0, 0]), near, WEIGHTS).tolist() == [1.0, 0.6, 0.4, 0.0, 0.0]


def test_a_hit_beats_the_middle_between_two():
    """Neighbours of two good hits do not add up: the middle stays behind each of them."""
    runs = np.zeros(3, dtype=np.int64)
    lifted = lend(np.array([0.5, 0.1, 0.5]), neighborhood(runs, run_positions(runs)), WEIGHTS)
    assert lifted[1] < lifted[0]
    assert lifted[1] < lifted[2]


def test_nothing_is_near_nothing():
    """No rows are no trouble."""
    empty = np.array([], dtype=np.int64)
    near = neighborhood(empty, empty)
    assert lend(np.array([]), near).tolist() == context(np.array([]), near).tolist() == []
