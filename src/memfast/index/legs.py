"""What a search by more than vectors asks of a shard: rows by their terms, and scores of what other legs have found.

Scores by terms are BM25 (see `kernels.search_terms`) over all rows that are not deleted. Expired ones count towards how
frequent a term is until the store removes them, so that a score changes with the scope's version and never with the
time of day, and is the same in every copy; they are not found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from memfast import kernels
from memfast.filters import Filter
from memfast.index.block import Rows
from memfast.index.postings import Postings, weighed
from memfast.index.rows import RowReader

__all__ = ["Legs", "Scores", "WeightedTerms"]

Scores = NDArray[np.float64]
WeightedTerms = Iterable[tuple[str, float]]


class Legs(RowReader):
    """The searches of a shard beside that by vector."""

    __slots__ = ()

    postings: Postings

    def ranked(
        self, terms: Sequence[tuple[str, float]], asked: int, k: int, *, now_us: int, where: Filter | None = None
    ) -> tuple[Rows, Callable[[Rows], Scores], float]:
        """What `lexical`, `lexical_scores` and `lexical_ceiling` say of different terms, in one pass over the postings.

        Args:
            terms: as for `lexical`, no term twice.
            asked: the first so many make the ceiling.
            k: as for `lexical`.
            now_us: likewise.
            where: likewise.

        Returns:
            The best rows, a function that gives the scores of rows, and the ceiling.

        Raises:
            ValueError: as `lexical`.
        """
        wanted, weights = weighed(terms)
        found, _, scored = kernels.rank_terms(
            self.postings.base,
            self.postings.tail,
            wanted,
            weights,
            k,
            ids=(self.base.ids, self.tail.ids),
            live=(self.base_live, self.tail_live),
            passing=self.masks(now_us, where),
            total=(len(self), self.postings.length),
        )
        ceiling = _ceiling(weights[:asked].tolist(), scored.frequencies()[:asked].tolist(), len(self))
        return found, scored.scores_of, ceiling

    def lexical(self, terms: WeightedTerms, k: int, *, now_us: int, where: Filter | None = None) -> tuple[Rows, Scores]:
        """The live memories that have at least one of these terms, best first.

        Args:
            terms: as `search.words.Words.of_query` gives them, or others of the same kind, with weights from 1e-9 to
                1e9. One that is named twice counts once, with the sum of its weights.
            k: hits at most.
            now_us: wall time, microseconds since 1970; what expires then or before is not found.
            where: only memories that pass.

        Returns:
            `(rows, scores)`, int64 and float64, by (score falling, id rising); scores are above 0.

        Raises:
            ValueError: `k` is negative, a weight is out of bounds, or there are more than 65,536 terms.
        """
        wanted, weights = weighed(terms)
        return kernels.search_terms(
            self.postings.base,
            self.postings.tail,
            wanted,
            weights,
            k,
            ids=(self.base.ids, self.tail.ids),
            live=(self.base_live, self.tail_live),
            passing=self.masks(now_us, where),
            total=(len(self), self.postings.length),
        )

    def lexical_scores(self, terms: WeightedTerms, rows: Sequence[int] | Rows) -> Scores:
        """What `lexical` gives these rows for these terms, float64 (r,); 0 for a row that has none of them.

        Raises:
            ValueError: as `lexical`, or a row is out of range.
        """
        wanted, weights = weighed(terms)
        return kernels.score_terms(
            self.postings.base,
            self.postings.tail,
            wanted,
            weights,
            np.asarray(rows, np.int64),
            live=(self.base_live, self.tail_live),
            total=(len(self), self.postings.length),
        )

    def lexical_ceiling(self, terms: WeightedTerms) -> float:
        """The score by these terms that no memory reaches, were it to consist of them; 0 without terms.

        A term that no memory has counts most: a query half of which is unknown is half answered at best.
        """
        weights = dict[str, float]()
        for term, weight in terms:
            weights[term] = weights.get(term, 0.0) + weight
        return _ceiling(list(weights.values()), self.term_frequencies(list(weights)).tolist(), len(self))

    def term_frequencies(self, terms: Sequence[str]) -> Rows:
        """How many live memories have each of these different terms, int64 (t,)."""
        wanted, _ = weighed((term, 1.0) for term in terms)
        live = (self.base_live, self.tail_live)
        return kernels.count_terms(self.postings.base, self.postings.tail, wanted, live=live)

    def vector_scores(self, vector: NDArray[np.float32], rows: Sequence[int] | Rows) -> Scores:
        """The dot products of these rows with a vector of any norm, float64 (r,), neither rounded nor cut at 0.

        Raises:
            ValueError: a vector of another shape, dtype or layout.
        """
        wanted, size = np.asarray(rows, np.int64), len(self.base)
        if not len(self.tail):
            return kernels.row_dots(self.base.vectors, wanted, vector)
        late = wanted >= size
        found = np.empty(len(wanted))
        found[~late] = kernels.row_dots(self.base.vectors, wanted[~late], vector)
        found[late] = kernels.row_dots(self.tail.vectors, wanted[late] - size, vector)
        return found


def _ceiling(weights: Sequence[float], frequencies: Sequence[int], rows: int) -> float:
    return math.fsum(
        weight * math.log(1.0 + (rows - frequency + 0.5) / (frequency + 0.5)) * (kernels.BM25_K1 + 1.0)
        for weight, frequency in zip(weights, frequencies, strict=True)
    )
