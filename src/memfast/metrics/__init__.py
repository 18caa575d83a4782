"""What the service counts of itself: definitions, the cells that all workers of a host share, and how they are read.

A worker writes to a row of its own, which outlives it: whoever takes its place counts on. Any worker can read all rows,
so that each answers for the whole service. Counting costs tens of nanoseconds and never waits.
"""

from memfast.metrics.board import Board, Row
from memfast.metrics.families import FAMILIES, OTHER, REQUESTS, Family, Operation
from memfast.metrics.meter import Layout, Meter, Mirror, unread
from memfast.metrics.tracing import CURRENT, NO_REQUEST, STAGES, Stage, Work, measured, trace, valid_parent

__all__ = [
    "CURRENT",
    "FAMILIES",
    "NO_REQUEST",
    "OTHER",
    "REQUESTS",
    "STAGES",
    "Board",
    "Family",
    "Layout",
    "Meter",
    "Mirror",
    "Operation",
    "Row",
    "Stage",
    "Work",
    "measured",
    "trace",
    "unread",
    "valid_parent",
]
