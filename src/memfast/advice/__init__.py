"""What the settings of a running service should be, by what it counted: pure rules from a snapshot to advice."""

from memfast.advice.report import Advice, Evidence, NotJudged, Report
from memfast.advice.rules import advise
from memfast.advice.snapshot import Database, Index, SlowStatement, Snapshot, Table

__all__ = [
    "Advice",
    "Database",
    "Evidence",
    "Index",
    "NotJudged",
    "Report",
    "SlowStatement",
    "Snapshot",
    "Table",
    "advise",
]
