"""What a search by more than vectors asks of a shard: rows by their terms, and scores of what other legs have found.

Scores by terms are BM25 (see `kernels.rank_terms`) over all rows that are not deleted. Expired ones count towards how
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

__all__ = ["Legs", "Scores"]

Scores = NDArray[np.float64]


class Legs(RowReader):
    """The searches of a shard beside that by vector."""

    __slots__ = ()

    postings: Postings

    def ranked(
        self, terms: Iterable[tuple[str, float]], asked: int, k: int, *, now_us: int, where: Filter | None = None
    ) -> tuple[Rows, Callable[[Rows], Scores], float]:
        """The live memories that have at least one of these terms, best first, and what is known of the others.

        Args:
            terms: as `search.words.Words.of_query` gives them, or others of the same kind, no term twice, with weights
                from 1e-9 to 1e9.
            asked: the first so many make the ceiling.
            k: hits at most.
            now_us: wall time, microseconds since 1970; what expires then or before is not found.
            where: only memories that pass.

        Returns:
            `(rows, scores_of, ceiling)`. The rows, int64, come by (score falling, id rising), all with scores above 0.
            The function gives the scores of any rows (int64), float64; 0 for one that has none of the terms. The
            ceiling is the score that no memory reaches, were it to consist of the terms; 0 without terms. A term that
            no memory has counts most: a query half of which is unknown is half answered at best.

        Raises:
            ValueError: `k` is negative, a weight is out of bounds, or there are more than 65,536 terms.
        """
        wanted, weights = weighed(terms)
        found, scored = kernels.rank_terms(
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
