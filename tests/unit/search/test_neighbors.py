"""Neighbours in a run: who they are, what they lend and what they blend, against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memfast.search.neighbors import Neighborhood, context, lend

WEIGHTS = (0.6, 0.4)


@st.composite
def worlds(draw):
    """Some rows of a user's memories in any order: runs, places in them, and scores."""
    everything = draw(st.lists(st.integers(-1, 3), min_size=1, max_size=25))
    places = [everything[:row].count(run) for row, run in enumerate(everything)]
    rows = draw(st.lists(st.sampled_from(range(len(everything))), unique=True))
    scores = draw(st.lists(st.floats(0, 1), min_size=len(rows), max_size=len(rows)))
    return [everything[row] for row in rows], [places[row] for row in rows], np.array(scores, dtype=np.float64)


def around(runs, places, row, *steps):
    """The rows at these distances in the same run, by comparing all with all."""
    return [
        other
        for other in range(len(runs))
        if runs[row] >= 0 and runs[other] == runs[row] and places[other] - places[row] in steps
    ]


def neighborhood(runs, places):
    """Who stands beside whom, up to two places away."""
    found = [
        [next(iter(around(runs, places, row, step)), len(runs)) for row in range(len(runs))] for step in (-1, 1, -2, 2)
    ]
    return Neighborhood(np.array(found, np.intp))


@given(worlds())
def test_lending_against_a_loop(world):
    """Each memory is lifted by the largest loan around it."""
    runs, places, scores = world
    expected = []
    for row in range(len(runs)):
        loans = [
            weight * scores[other]
            for distance, weight in enumerate(WEIGHTS, 1)
            for other in around(runs, places, row, -distance, distance)
        ]
        expected.append(1 - (1 - scores[row]) * (1 - max(loans, default=0.0)))
    assert lend(scores, neighborhood(runs, places), WEIGHTS) == pytest.approx(expected, abs=2e-6)


@given(worlds())
def test_context_against_a_loop(world):
    """The sum over the neighbourhood by the root of its weights; one without neighbours keeps what it has."""
    runs, places, scores = world
    similarities = 2 * scores - 1
    blended = context(similarities, neighborhood(runs, places), WEIGHTS)
    for row in range(len(runs)):
        total, mass = similarities[row], 1.0
        for distance, weight in enumerate(WEIGHTS, 1):
            for other in around(runs, places, row, -distance, distance):
                total += weight * similarities[other]
                mass += weight
        assert blended[row] == pytest.approx(total / math.sqrt(mass), abs=1e-12)


@given(worlds())
def test_lifted_scores_stay_scores(world):
    """A loan never lowers, never passes 1, and six decimals remain."""
    runs, places, scores = world
    lifted = lend(scores, neighborhood(runs, places), WEIGHTS)
    assert (lifted >= np.round(scores, 6)).all()
    assert (lifted <= 1).all()
    assert (lifted == np.round(lifted, 6)).all()


def test_what_was_borrowed_is_not_lent_on():
    """Three places from the only hit nothing arrives."""
    near = neighborhood([0] * 5, range(5))
    assert lend(np.array([1.0, 0, 0, 0, 0]), near, WEIGHTS).tolist() == [1.0, 0.6, 0.4, 0.0, 0.0]


def test_a_hit_beats_the_middle_between_two():
    """Neighbours of two good hits do not add up: the middle stays behind each of them."""
    lifted = lend(np.array([0.5, 0.1, 0.5]), neighborhood([0] * 3, range(3)), WEIGHTS)
    assert lifted[1] < lifted[0]
    assert lifted[1] < lifted[2]


def test_nothing_is_near_nothing():
    """No rows are no trouble."""
    near = neighborhood([], [])
    assert lend(np.array([]), near).tolist() == context(np.array([]), near).tolist() == []
