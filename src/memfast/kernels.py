"""The only door to the native leaf: each name is bound to the compiled kernel or to its pure twin.

`MEMFAST_NATIVE` chooses: `c` (a missing extension raises ImportError), `py`, or unset for the best there is.
`IMPL` says what was taken, `FALLBACK_REASON` why it is not the compiled one, if that was not asked for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from memfast._native._cache_reference import CacheAges, CacheStats
from memfast._native._lexical_reference import BM25_K1
from memfast._native._metrics_reference import STAGES_MAX

__all__ = [
    "BM25_K1",
    "FALLBACK_REASON",
    "IMPL",
    "STAGES_MAX",
    "ByteCache",
    "CacheAges",
    "CacheStats",
    "Counter",
    "Histogram",
    "SlotTable",
    "Trace",
    "count_terms",
    "crc32",
    "join_rows",
    "neighbours",
    "quantise",
    "rank_terms",
    "row_dots",
    "scan",
    "scan_int8",
    "search_rows",
    "simd",
    "top_k",
    "unit_sums",
    "unit_vector",
]

IMPL: str
"""`c` or `py`."""
FALLBACK_REASON: str | None = None
"""Why the pure twins serve although nobody asked for them, or None. Whoever starts the service shows it."""

WANTED = os.environ.get("MEMFAST_NATIVE", "")
if WANTED not in {"", "c", "py"}:
    raise ImportError(f"MEMFAST_NATIVE is {WANTED!r}; it must be c, py or unset")

if not TYPE_CHECKING and WANTED != "py":
    try:
        from memfast._native._cache import ByteCache
        from memfast._native._checksum import crc32
        from memfast._native._lexical import count_terms, rank_terms
        from memfast._native._metrics import Counter, Histogram, Trace
        from memfast._native._runs import neighbours
        from memfast._native._slots import SlotTable
        from memfast._native._vectors import quantise, scan, scan_int8, search_rows, simd, top_k
        from memfast._native._wire import join_rows, row_dots, unit_sums, unit_vector

        IMPL = "c"
    except ImportError as error:
        FALLBACK_REASON = (
            f"the compiled kernels cannot be imported ({error}); the pure twins serve and are much slower. "
            "Build them with `pip install .` or, in a source tree, `python setup.py build_ext --inplace`"
        )
        if WANTED == "c":
            raise ImportError(f"MEMFAST_NATIVE=c, but {FALLBACK_REASON}") from error

if TYPE_CHECKING or WANTED == "py" or FALLBACK_REASON:
    from memfast._native._cache_reference import ByteCache
    from memfast._native._checksum_reference import crc32
    from memfast._native._lexical_reference import count_terms, rank_terms
    from memfast._native._metrics_reference import Counter, Histogram, Trace
    from memfast._native._runs_reference import neighbours
    from memfast._native._slots_reference import SlotTable
    from memfast._native._vectors_reference import quantise, scan, scan_int8, search_rows, simd, top_k
    from memfast._native._wire_reference import join_rows, row_dots, unit_sums, unit_vector

    IMPL = "py"
