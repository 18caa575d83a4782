"""BM25 over rows that are terms: the same from both twins, however the rows are spread, and what the formula says."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memfast._native import _lexical, _lexical_reference

K1, B = _lexical_reference.BM25_K1, _lexical_reference.BM25_B


class Case:
    """Rows as lists of terms, some in the base and some in the tail, some dead, some not to be found, and a query."""

    def __init__(self, rows, base_rows, dead, hidden, query, k, seed=0):
        self.rows = rows
        self.size = min(base_rows, len(rows))
        self.query = list(dict(query).items())
        self.k = k
        self.live = np.array([row not in dead for row in range(len(rows))], np.bool_)
        self.passing = np.array([row not in hidden for row in range(len(rows))], np.bool_) & self.live
        numbers = np.random.default_rng(seed).permutation(len(rows))
        self.ids = np.array([int(number * 256).to_bytes(16, "big") for number in numbers], "S16").reshape(len(rows))
        self.ids[: self.size].sort()

    def base(self):
        """The inverted rows."""
        holders = {}
        for row, terms in enumerate(self.rows[: self.size]):
            for term, count in Counter(terms).items():
                holders.setdefault(term, []).append((row, count))
        order = sorted(holders)
        entries = [each for term in order for each in holders[term]]
        return (
            np.array(order, np.uint64),
            np.array([0, *np.cumsum([len(holders[term]) for term in order])], np.int32),
            np.array([row for row, _ in entries], np.int32),
            np.array([min(count, 255) for _, count in entries], np.uint8),
            np.array([len(terms) for terms in self.rows[: self.size]], np.int32),
        )

    def tail(self):
        """The other rows as they came."""
        later = self.rows[self.size :]
        keys = np.array([term for terms in later for term in terms], np.uint64)
        return keys, np.cumsum([len(terms) for terms in later]).astype(np.int64)

    def parts(self, mask):
        """A mask of both parts; None where nothing is masked."""
        first, later = mask[: self.size].copy(), mask[self.size :].copy()
        return (None if first.all() else first, None if later.all() else later)

    def arguments(self):
        """What both kernels take."""
        wanted = np.array([term for term, _ in self.query], np.uint64)
        weights = np.array([weight for _, weight in self.query], np.float64)
        total = (
            int(self.live.sum()),
            sum(len(terms) for terms, live in zip(self.rows, self.live, strict=True) if live),
        )
        return (self.base(), self.tail(), wanted, weights), {"live": self.parts(self.live), "total": total}

    def rank(self, kernels):
        """The kernel's ranking."""
        given_args, named = self.arguments()
        ids = (self.ids[: self.size].copy(), self.ids[self.size :].copy())
        return kernels.rank_terms(*given_args, self.k, ids=ids, passing=self.parts(self.passing), **named)

    def search(self, kernels):
        """The best rows and their scores."""
        rows, scored = self.rank(kernels)
        return rows, scored.scores_of(rows)

    def score(self, kernels, rows):
        """The kernel's scores of chosen rows."""
        return self.rank(kernels)[1].scores_of(np.array(rows, np.int64))

    def plain(self):
        """The scores of all rows by the formula, term by term."""
        live = [Counter(terms) for terms, alive in zip(self.rows, self.live, strict=True) if alive]
        mean = sum(map(Counter.total, live)) / max(1, len(live))
        scores = []
        for row, terms in enumerate(self.rows):
            counts, score = Counter(terms), 0.0
            for term, weight in self.query if self.live[row] else []:
                count = min(counts[term], 255)
                if count:
                    df = sum(term in each for each in live)
                    idf = math.log(1 + (len(live) - df + 0.5) / (df + 0.5))
                    score += weight * idf * count * (K1 + 1) / (count + K1 * (1 - B + B * len(terms) / mean))
            scores.append(score)
        return scores


terms = st.integers(0, 12) | st.sampled_from([2**63, 2**64 - 1, 16, 32])
cases = st.builds(
    Case,
    st.lists(st.lists(terms, max_size=8), max_size=25),
    st.integers(0, 25),
    st.sets(st.integers(0, 24), max_size=8),
    st.sets(st.integers(0, 24), max_size=8),
    st.lists(st.tuples(terms, st.sampled_from([1.0, 0.15, 0.5, 3.0])), max_size=14),
    st.integers(0, 30),
    st.integers(0, 9),
)


@given(cases)
@settings(max_examples=300, deadline=None)
def test_twins_agree_to_the_byte(case):
    """Rows and scores of both twins are identical."""
    rows, scores = case.search(_lexical)
    rows_py, scores_py = case.search(_lexical_reference)
    assert rows.tobytes() == rows_py.tobytes()
    assert scores.tobytes() == scores_py.tobytes()
    everything = range(len(case.rows))
    assert case.score(_lexical, everything).tobytes() == case.score(_lexical_reference, everything).tobytes()


@given(case=cases)
@settings(max_examples=150, deadline=None)
def test_scores_are_those_of_the_formula(lexical, case):
    """The best rows that may be found come by (score falling, id rising), with the scores of the plain formula."""
    expected = case.plain()
    rows, scores = case.search(lexical)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float64
    assert np.allclose(scores, [expected[row] for row in rows], rtol=1e-12, atol=0)
    assert np.allclose(case.score(lexical, range(len(expected))), expected, rtol=1e-12, atol=0)
    exact = case.score(lexical, range(len(expected)))
    base, tail, wanted, _ = case.arguments()[0]
    live = [terms for terms, alive in zip(case.rows, case.live, strict=True) if alive]
    counts = [sum(term in terms for terms in live) for term, _ in case.query]
    assert lexical.count_terms(base, tail, wanted, live=case.parts(case.live)).tolist() == counts
    assert case.rank(lexical)[1].frequencies().tolist() == counts
    hits = [row for row in range(len(expected)) if case.passing[row] and expected[row] > 0]
    assert rows.tolist() == sorted(hits, key=lambda row: (-exact[row], case.ids[row].ljust(16, b"\0")))[: case.k]


@given(case=cases, moved=st.integers(0, 25))
@settings(max_examples=150, deadline=None)
def test_scores_do_not_tell_where_a_row_stands(lexical, case, moved):
    """Every score is the same to the last bit when rows move from the tail to the base, and when the dead are gone."""
    before = case.score(lexical, range(len(case.rows)))
    case.size = min(moved, len(case.rows))
    assert case.score(lexical, range(len(case.rows))).tobytes() == before.tobytes()
    left = Case([row for row, live in zip(case.rows, case.live, strict=True) if live], moved, (), (), case.query, 0)
    assert left.score(lexical, range(len(left.rows))).tobytes() == before[case.live].tobytes()


def test_many_rows_and_terms(lexical):
    """Large queries over large parts, for which the GIL is let go, rank as small ones do."""
    rng = np.random.default_rng(3)
    rows = [rng.integers(0, 500, rng.integers(0, 30)).tolist() for _ in range(6000)]
    case = Case(rows, 4000, set(range(0, 6000, 7)), {1, 2, 3}, [(term, 1.0) for term in range(300)], 100)
    expected = case.score(_lexical_reference, range(6000))
    found, scores = case.search(lexical)
    assert scores.tobytes() == np.sort(expected[case.passing])[::-1][:100].tobytes()
    assert len(set(found.tolist())) == 100


def test_a_count_has_a_bound(lexical):
    """A term that fills a row counts 255 times in the base and in the tail."""
    rows = [[7] * 700, [7], [8]]
    scores = [Case(rows, size, (), (), [(7, 1.0)], 3).score(lexical, range(3)).tobytes() for size in (0, 3)]
    assert scores[0] == scores[1]


ROWS = [[1, 2], [2, 3], [4]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"k": -1}, "k is -1"),
        ({"base": lambda base: (base[0].astype(np.int64), *base[1:])}, "base must be"),
        ({"base": lambda base: (base[0], base[1][:-1], *base[2:])}, "base must be"),
        ({"base": lambda base: (*base[:3], base[3][:-1], base[4])}, "base must be"),
        ({"tail": lambda tail: (tail[0], tail[1].astype(np.int32))}, "tail must be"),
        ({"tail": lambda tail: (tail[0], tail[1] + 1)}, "tail must be"),
        ({"wanted": lambda wanted: wanted[::-1]}, "wanted and weights must be"),
        ({"wanted": lambda wanted: wanted[:1]}, "wanted and weights must be"),
        ({"wanted": np.zeros_like}, "wanted twice"),
        ({"weights": np.zeros_like}, "weights must be from"),
        ({"weights": lambda weights: weights * np.inf}, "weights must be from"),
        ({"ids": lambda ids: (ids[0], ids[1][:0])}, "ids must be"),
        ({"ids": lambda ids: (ids[0].astype("S8"), ids[1])}, "ids must be"),
        ({"live": lambda _: (np.ones(3, np.bool_), None)}, "a mask must be"),
        ({"passing": lambda _: (None, np.ones(1, np.int64))}, "a mask must be"),
    ],
)
def test_what_cannot_be_searched_is_refused(lexical, spoil, message):
    """Arrays of another dtype or length, terms twice, weights out of bounds and a negative k are errors."""
    case = Case(ROWS, 2, (), (), [(1, 1.0), (2, 1.0)], 5)
    positional, named = case.arguments()
    arguments = dict(zip(("base", "tail", "wanted", "weights"), positional, strict=True)) | named
    arguments |= {"k": 5, "ids": (case.ids[:2], case.ids[2:]), "passing": (None, None)}
    for name, change in spoil.items():
        arguments[name] = change(arguments[name]) if callable(change) else change
    with pytest.raises(ValueError, match=message):
        lexical.rank_terms(**arguments)


def test_too_much_is_refused(lexical):
    """Rows out of range and queries of too many terms are errors."""
    case = Case(ROWS, 2, (), (), [(1, 1.0)], 5)
    for row in (-1, 3):
        with pytest.raises(ValueError, match="rows must be"):
            case.score(lexical, [row])
    case.query = [(term, 1.0) for term in range(_lexical_reference.TERMS_MAX + 1)]
    with pytest.raises(ValueError, match="65537 terms are wanted"):
        case.search(lexical)
