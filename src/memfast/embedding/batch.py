"""What every embedder does around its model: equal texts once, bounded chunks, rows of norm 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from memfast.errors import InvalidRequest

__all__ = ["chunks", "distinct", "require_unicode", "spread", "text_cost", "unit_rows"]

_BYTES_PER_WIDE_CHARACTER = 4
"""UTF-8 bytes assumed for a character of a text that is not all ASCII: the most there can be."""


def text_cost(text: str) -> int:
    """About how many UTF-8 bytes a text has, in O(1): what tokenising it costs rises with them."""
    return len(text) if text.isascii() else _BYTES_PER_WIDE_CHARACTER * len(text)


def distinct(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Equal texts once.

    Returns:
        The texts in the order of their first appearance, and for each input text its index among them.
    """
    index_of: dict[str, int] = {}
    positions = [index_of.setdefault(text, len(index_of)) for text in texts]
    return list(index_of), positions


def spread(rows: NDArray[np.float32], positions: list[int]) -> NDArray[np.float32]:
    """Undo `distinct`: float32 (distinct, d) to (len(positions), d), C-contiguous."""
    return rows if len(rows) == len(positions) else rows.take(positions, axis=0)


def chunks(texts: Sequence[str], *, max_texts: int, max_cost: int) -> Iterator[tuple[int, list[str]]]:
    """Cut texts, in order, into parts of at most `max_texts` and at most `max_cost` by `text_cost`.

    A text that costs more than `max_cost` is a part of its own. Yields the index of each part's first text
    with it.
    """
    start, part, cost = 0, list[str](), 0
    for text in texts:
        added = text_cost(text)
        if part and (len(part) == max_texts or cost + added > max_cost):
            yield start, part
            start, part, cost = start + len(part), [], 0
        part.append(text)
        cost += added
    if part:
        yield start, part


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale each row of (n, d) float32 to norm 1; the rows must be finite and not all zero.

    Norms are float64 sums of one row each, without BLAS (its order of summation depends on the processor and
    on the shape): the same row gives the same bytes in every matrix.
    """
    wide = rows.astype(np.float64)
    norms = np.sqrt(np.add.reduce(wide * wide, axis=1))
    units: NDArray[np.float32] = (wide / norms[:, np.newaxis]).astype(np.float32)
    return units


def require_unicode(texts: Sequence[str]) -> None:
    """Refuse strings that no encoder takes.

    Raises:
        InvalidRequest: a text holds half of a surrogate pair, so it has no UTF-8 form.
    """
    for index, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(
                f"text {index} holds a lone surrogate at character {error.start}: send valid Unicode"
            ) from None
