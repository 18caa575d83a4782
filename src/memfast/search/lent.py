"""What links lend to a search: memories related to its hits, with a share of the hits' scores.

A hit's score goes on over links, times their weights, and arrives as what a related memory is worth. A memory that the
search found itself keeps the larger of the two. Links say nothing that another leg could have said, so nothing is
summed: what is related to five hits is not five times as good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from memfast.links import Reached
from memfast.ports import Shard

__all__ = ["SEEDS", "LendSettings", "Lent", "lent"]

Rows = NDArray[np.int64]

SEEDS = 10
"""Hits that lend: the first so many."""

_DECIMALS = 6


class LendSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far related memories are looked for, and what they count."""

    depth: Annotated[int, Meta(ge=1, le=4)] = 1
    """Links between a hit and the farthest memory."""
    weight: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """What a related memory counts beside the hit that it is related to."""


class Lent(Struct, frozen=True):
    """Scores that came over links to n rows of a shard, each once."""

    rows: Rows
    scores: NDArray[np.float64]
    """(n,), above 0 to 1, rounded to 1e-6"""
    told: dict[int, dict[str, Any]]
    """of each row: what arrived, its weight, the score, from which hit, over how many links"""


def lent(
    shard: Shard,
    reached: Sequence[Reached],
    settings: LendSettings,
    masks: tuple[NDArray[np.bool_] | None, NDArray[np.bool_]],
) -> Lent:
    """The scores of those memories that the shard has and the masks let pass.

    Args:
        shard: where the hits are of.
        reached: at which memories which share of the hits' scores arrived.
        settings: what it counts.
        masks: see `Shard.masks`.
    """
    rows = shard.rows_of([each.id for each in reached])
    scores = np.round(settings.weight * np.array([each.score for each in reached], np.float64), _DECIMALS)
    good = (rows >= 0) & (scores > 0)
    good[good] = shard.passing(rows[good], masks)
    told = {
        int(rows[place]): {
            "raw": round(reached[place].score, _DECIMALS),
            "weight": round(settings.weight, _DECIMALS),
            "score": float(scores[place]),
            "from_id": reached[place].start,
            "depth": reached[place].depth,
        }
        for place in np.flatnonzero(good).tolist()
    }
    return Lent(rows[good], scores[good], told)
