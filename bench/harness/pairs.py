"""Subject and floor in turns, so that what else the machine does falls on both."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

__all__ = ["interleaved", "median_ratio"]

_S = TypeVar("_S")
_F = TypeVar("_F")


async def interleaved(
    subject: Callable[[int], Awaitable[_S]], floor: Callable[[int], Awaitable[_F]], pairs: int
) -> list[tuple[_S, _F]]:
    """Measure both `pairs` times, the order changing from pair to pair; each is given the pair's number."""
    measured: list[tuple[_S, _F]] = []
    for number in range(pairs):
        if number % 2:
            below: Any = await floor(number)
            measured.append((await subject(number), below))
        else:
            measured.append((await subject(number), await floor(number)))
    return measured


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median over the pairs of one by the other."""
    return statistics.median(above / below for above, below in zip(numerators, denominators, strict=True))
