"""All rules together: what is judged with which traffic, and in which order it is told."""

from __future__ import annotations

from itertools import chain

from memfast.advice.caches import caches_too_large, caches_too_small
from memfast.advice.database import missing_indexes, slow_statements, table_scans
from memfast.advice.operations import slow_operations
from memfast.advice.pools import pool_too_large, pool_too_small
from memfast.advice.report import NotJudged, Report
from memfast.advice.snapshot import Snapshot
from memfast.advice.warm import budget_too_small, flat_limit, warm_too_small

__all__ = ["REQUESTS_MIN", "advise"]

REQUESTS_MIN = 300
"""Requests in the window from which on its counts are judged: three would be the one in a hundred that is slow."""

_BY_TRAFFIC = (
    slow_operations,
    pool_too_small,
    warm_too_small,
    caches_too_small,
    budget_too_small,
    flat_limit,
    pool_too_large,
    caches_too_large,
)


def advise(snapshot: Snapshot) -> Report:
    """Everything that should be otherwise, and what cannot be judged.

    What the database lacks is told first, whatever the traffic is: other advice may follow from it.
    """
    advice, not_judged = [], []
    database = snapshot.database
    if database is None:
        not_judged.append(NotJudged("database", "it could not be asked"))
    else:
        advice += [*missing_indexes(database), *table_scans(snapshot, database), *slow_statements(database)]
    if snapshot.window.requests < REQUESTS_MIN:
        reason = f"not enough requests yet ({snapshot.window.requests} of {REQUESTS_MIN})"
        not_judged.append(NotJudged("caches, pools and operations", reason))
    else:
        advice += chain.from_iterable(rule(snapshot) for rule in _BY_TRAFFIC)
    return Report(advice, not_judged)
