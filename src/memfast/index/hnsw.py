"""The tier above the flat scan: a graph over the base of a shard, and everything else exact.

The graph is hnswlib's, which has traps; this is how they are kept shut:

* A published graph is never written: hnswlib is unsafe under search beside add, and its deletes and replacements
  leave rows that cannot be removed. Rows that died are left out of the answer, later rows are scanned.
* It throws when it finds fewer rows than it was asked for, and then loses memory: it is never asked for more than
  there are, and whatever it cannot answer is scanned.
* Its scores are not used: its candidates are scored again by the kernel that scores all tiers.
* Its filter calls Python for each row that it meets: conditions are applied to its candidates, or scanned.
* Its files are not used: they hold no checksum, and a damaged one crashes or lies. A graph is built again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memfast import kernels
from memfast.index.block import Mask, Rows

try:
    import hnswlib
except ImportError as error:
    hnswlib = None
    MISSING_REASON: str | None = (
        f"hnswlib cannot be imported ({error}), so users of many memories are scanned, exactly but slower. "
        'Install it with: HNSWLIB_NO_NATIVE=1 CFLAGS="-march=x86-64-v3" pip install --no-cache-dir "memfast[hnsw]"'
    )
else:
    MISSING_REASON = None
"""Why there are no graphs, or None. Whoever starts the service shows it."""

__all__ = ["FLAT_LIMIT", "MISSING_REASON", "Graph", "search_graph"]

FLAT_LIMIT = 20_000
"""Up to this many rows a scan is as fast, and exact; at three times as many it takes twice as long as a graph."""
LINKS = 16
"""hnswlib's M: links of a row in each layer, twice as many in the lowest."""
EF_BUILD = 200
"""Rows that are weighed while a row's links are chosen."""
EF = 200
"""Rows that are weighed in a search; bench/recall.py says what they give. A search for more than half is scanned."""
SLACK = 16
"""Candidates beyond k: the order of the graph's own scores may differ within rounding."""
OVERFETCH_MAX = 4
"""At most this many times the candidates, where rows of the graph are dead or filtered out."""

_FIXED_BYTES = 2_760_000
"""What an index takes before its first row: 65,536 mutexes."""
_ROW_BYTES = 8 + (8 * LINKS + 4) + (4 * LINKS + 4) // (LINKS - 1) + 8 + 4 + 40 + 40 + 2
"""What a row takes besides its vector: label, links of the lowest layer and above, pointer, level, mutex, label map."""


class Graph:
    """An immutable hnswlib index over float32 (n, d) unit vectors; labels are row numbers.

    Building takes 0.2 to 0.6 ms a row on one core and lets other threads run.
    """

    __slots__ = ("_index", "rows", "width")
    rows: int
    width: int

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.rows, self.width = len(vectors), int(vectors.shape[1])
        self._index: Any = hnswlib.Index(space="ip", dim=self.width)
        self._index.init_index(max_elements=self.rows, M=LINKS, ef_construction=EF_BUILD)
        self._index.set_ef(EF)  # for good: it belongs to the index, so a search must not change it
        self._index.add_items(vectors, np.arange(self.rows), num_threads=1)

    @property
    def nbytes(self) -> int:
        """Bytes in memory; hnswlib keeps its own copy of the vectors."""
        row_bytes: int = 4 * self.width + _ROW_BYTES
        return _FIXED_BYTES + self.rows * row_bytes

    def candidates(self, vector: NDArray[np.float32], count: int) -> Rows | None:
        """About the nearest `count` rows, 1..`rows`, in rising order; None when the graph does not find as many."""
        try:
            labels, _ = self._index.knn_query(vector, k=count, num_threads=1)
        except RuntimeError:  # parts that cannot be reached: the caller scans
            return None
        return np.sort(labels[0]).astype(np.int64)


def search_graph(
    graph: Graph, vectors: NDArray[np.float32], vector: NDArray[np.float32], k: int, mask: Mask | None
) -> tuple[Rows, NDArray[np.float64]] | None:
    """The best k rows that pass the mask, as `kernels.search_rows` gives them but for the recall of the graph.

    Args:
        graph: over the vectors.
        vectors: float32 (n, d), n ≥ 1.
        vector: float32 (d,).
        k: rows wanted.
        mask: bool (n,), or None where all rows pass.

    Returns:
        `(rows, scores)` of length min(k, rows that pass), or None where a scan must answer: few rows pass, k is
        large, or too many of the candidates do not pass.
    """
    passing = graph.rows if mask is None else int(np.count_nonzero(mask))
    if k < 1 or 2 * k > EF or passing * OVERFETCH_MAX < graph.rows:
        return None
    wanted = k + SLACK
    wanted += min(graph.rows - passing, (OVERFETCH_MAX - 1) * wanted)
    rows = graph.candidates(vector, min(wanted, graph.rows, EF))
    if rows is None:
        return None
    if mask is not None:
        rows = rows[mask[rows]]
    if len(rows) < min(k, passing):
        return None
    places, scores = kernels.top_k(vectors[rows], vector, k)
    return rows[places], scores
