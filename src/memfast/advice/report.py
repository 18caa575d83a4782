"""What rules say: advice with its evidence, or what they could not judge."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

__all__ = ["Advice", "Evidence", "NotJudged", "Report"]


class Evidence(Struct, frozen=True):
    """A figure, and where it was read."""

    what: str
    value: float | str
    source: str


class Advice(Struct, frozen=True, kw_only=True):
    """One thing that should be otherwise.

    Attributes:
        rule: its name, for programs.
        subject: a setting, a table, an index or an operation.
        finding: what is wrong.
        evidence: the figures that say so.
        action: what to do, in words.
        expected: what that should change.
        apply: what can be done while the service serves; `none` = somebody has to decide, or to restart it.
        settings: values to set, by key; live ones where `apply` is `settings`.
        names: of indexes to make or tables to analyse.
    """

    rule: str
    subject: str
    finding: str
    evidence: tuple[Evidence, ...]
    action: str
    expected: str
    apply: Literal["settings", "index", "analyze", "none"] = "none"
    settings: dict[str, float] = {}
    names: tuple[str, ...] = ()


class NotJudged(Struct, frozen=True):
    """What nothing can be said of, and why."""

    subject: str
    reason: str


class Report(Struct, frozen=True):
    """Everything that the rules said."""

    advice: list[Advice]
    not_judged: list[NotJudged]
