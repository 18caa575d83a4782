"""Widening a query: the bounds on related words, and feedback that follows good hits only."""

import numpy as np
import pytest

from memfast.search.expand import ExpansionSettings, expand, feedback

RELATED = {"buy": ("purchase", "acquire", "get"), "car": ("auto", "automobile"), "purchase": ("buy",)}
FREQUENCY = {"purchas": 3, "acquir": 2, "auto": 1, "automobil": 0, "get": 60, "buy": 4}


def terms(*words, **changes):
    """Expand words over a hundred memories, with stems that are words without their last e."""
    return expand(
        words,
        synonyms=lambda word: RELATED.get(word, ()),
        term=lambda word: word.removesuffix("e"),
        frequency=lambda term: FREQUENCY.get(term, 0),
        memories=100,
        settings=ExpansionSettings(**changes),
    )


def test_related_words_become_terms():
    """In the order of the words, two a word, and only terms that some memory has."""
    assert terms("buy", "car") == ["purchas", "acquir", "auto"]


def test_frequent_terms_are_left_out():
    """A term that too many memories have is not added, however related."""
    assert terms("buy", synonyms_per_word=3) == ["purchas", "acquir"]
    assert terms("buy", synonyms_per_word=3, frequent_share=0.6) == ["purchas", "acquir", "get"]


def test_the_query_does_not_get_its_own_words():
    """What the query says counts in full and is not added at a small weight."""
    assert terms("buy", "purchase") == ["acquir"]


def test_the_number_of_terms_is_bounded():
    """Bounds a word and bounds a query."""
    assert terms("buy", "car", synonyms_per_word=1) == ["purchas", "auto"]
    assert terms("buy", "car", synonyms=1) == ["purchas"]
    assert terms() == []


def test_feedback_moves_towards_good_hits():
    """The query moves by the hits' mean beyond the centre, each by its score."""
    query, middle = np.array([1.0, 0.0]), np.array([0.0, 0.5])
    vectors = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    moved = feedback(query, middle, vectors, np.array([0.8, 0.4]), 2.0)
    assert moved.tolist() == pytest.approx([1 + 0.4, 0.8 * 0.5 - 0.4 * 0.5])


def test_feedback_stays_without_good_hits():
    """Hits of score 0, and no hits at all, leave the query where it is."""
    query, vectors = np.array([0.6, 0.8]), np.eye(2, dtype=np.float32)
    assert feedback(query, np.zeros(2), vectors, np.zeros(2), 1.0).tolist() == query.tolist()
    assert feedback(query, np.zeros(2), vectors[:0], np.zeros(0), 1.0) is query
