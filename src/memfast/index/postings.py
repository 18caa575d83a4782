"""Which rows of a shard have which terms: inverted for its base, and as they came for its tail.

A term is known by the first 64 bits of its BLAKE2b digest, so that no string is kept: among a million terms of one user
two fall together with a probability of three in a hundred million, and then count as one. Postings are made with the
shard, not at its first search by words: they take a tenth of what a memory takes anyway, are mapped from a snapshot
with the rest, and a search never waits for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate, chain
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from memfast.index.block import Arena, Rows

__all__ = ["Inverted", "Keys", "Postings", "weighed"]

Keys = NDArray[np.uint64]

KEYS_MAX = 16_384
"""Terms whose keys are remembered; about 200 bytes each."""
COUNT_MAX = 255
"""A term that occurs more often in a row counts so often."""


@lru_cache(KEYS_MAX)
def _key_of(term: str) -> int:
    return int.from_bytes(blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def weighed(terms: Iterable[tuple[str, float]]) -> tuple[Keys, NDArray[np.float64]]:
    """A query's terms as keys and weights; what is asked for twice is asked for once, with the sum of the weights."""
    weights: dict[int, float] = {}
    for term, weight in terms:
        key = _key_of(term)
        weights[key] = weights.get(key, 0.0) + weight
    return np.array(list(weights), np.uint64), np.array(list(weights.values()), np.float64)


class Inverted(NamedTuple):
    """The terms of rows that never change, by term.

    Attributes:
        keys: uint64 (v,), rising.
        starts: int32 (v + 1,); term t stands in `rows[starts[t]:starts[t + 1]]`.
        rows: int32 (e,), rising within a term.
        counts: uint8 (e,), how often the term occurs there.
        lengths: int32 (n,), the terms of each row, each as often as it occurs.
    """

    keys: Keys
    starts: NDArray[np.int32]
    rows: NDArray[np.int32]
    counts: NDArray[np.uint8]
    lengths: NDArray[np.int32]

    @classmethod
    def of(cls, rows: Iterable[Sequence[str]]) -> Self:
        """The terms of these rows, each as often as it occurs. Takes about 2 microseconds a row of 20 terms."""
        codes = _Codes()
        lengths: list[int] = []
        flat: list[int] = []
        for terms in rows:
            flat += map(codes.__getitem__, terms)
            lengths.append(len(terms))
        keys, places = np.unique(np.array([_key_of(term) for term in codes], np.uint64), return_inverse=True)
        entries = places[np.array(flat, np.int64)] * len(lengths) + _numbered(np.array(lengths, np.int64))
        entries, counts = np.unique(entries, return_counts=True)
        return cls.of_sorted(keys, entries, counts, np.array(lengths, np.int32))

    @classmethod
    def of_sorted(cls, keys: Keys, entries: Rows, counts: NDArray[Any], lengths: NDArray[np.int32]) -> Self:
        """The terms of rows of these lengths, from `term * rows + row`, rising, and how often each of them occurs."""
        terms, rows = np.divmod(entries, max(1, len(lengths)))
        return cls(
            keys=keys,
            starts=np.searchsorted(terms, np.arange(len(keys) + 1)).astype(np.int32),
            rows=rows.astype(np.int32),
            counts=np.minimum(counts, COUNT_MAX).astype(np.uint8),
            lengths=lengths,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self)


class _Codes(dict[str, int]):
    def __missing__(self, term: str) -> int:
        code = self[term] = len(self)
        return code


@dataclass(frozen=True, slots=True, eq=False)
class Postings:
    """The terms of a shard's rows; a value, like the shard.

    Attributes:
        base: of its base.
        size: rows of its tail.
        keys: of the tail's terms, row by row, each as often as it occurs.
        ends: int64, where each row of the tail ends in `keys`.
        length: terms of all live rows.
    """

    base: Inverted
    size: int
    keys: Arena
    ends: Arena
    length: int

    @classmethod
    def of_base(cls, base: Inverted) -> Self:
        """Postings without a tail; all rows live."""
        empty = Arena(np.empty(0, np.uint64), 0), Arena(np.empty(0, np.int64), 0)
        return cls(base, 0, *empty, int(base.lengths.sum()))

    @property
    def tail(self) -> tuple[Keys, Rows]:
        """The terms of the tail's rows and where each row ends."""
        ends = self.ends.buffer[: self.size]
        return self.keys.buffer[: ends[-1] if self.size else 0], ends

    def advanced(self, added: Sequence[Sequence[str]], base_dead: Rows, tail_dead: Rows) -> Self:
        """With rows behind the tail, after some rows have died. Takes about 0.3 microseconds a term."""
        dead = int(self.base.lengths[base_dead].sum()) if len(base_dead) else 0
        keys, ends = self.tail
        if len(tail_dead):
            dead += int(np.diff(ends, prepend=0)[tail_dead].sum())
        new = np.fromiter(map(_key_of, chain.from_iterable(added)), np.uint64)
        new_ends = np.array([*accumulate(map(len, added), initial=len(keys))][1:], np.int64)
        return type(self)(
            base=self.base,
            size=self.size + len(added),
            keys=self.keys.extended(len(keys), new),
            ends=self.ends.extended(self.size, new_ends),
            length=self.length - dead + len(new),
        )

    def packed(self, rows: Rows) -> Inverted:
        """The terms of these rows, numbered from 0 in this order.

        Takes about 1 microsecond a row where the rows of the base stay in their order.
        """
        base, (tail_keys, tail_ends) = self.base, self.tail
        tail_lengths = np.diff(tail_ends, prepend=0)
        size = len(base.lengths)
        numbers = np.full(size + self.size, -1)
        numbers[rows] = np.arange(len(rows))
        base_rows, tail_rows = numbers[base.rows], numbers[_numbered(tail_lengths) + size]
        kept, tail_kept = base_rows >= 0, tail_rows >= 0
        terms, tail_keys = _numbered(np.diff(base.starts))[kept], tail_keys[tail_kept]
        used = np.zeros(len(base.keys), np.bool_)
        used[terms] = True
        keys = np.union1d(base.keys[used], tail_keys)
        entries = np.searchsorted(keys, base.keys)[terms] * len(rows) + base_rows[kept]
        tail_entries, tail_counts = np.unique(
            np.searchsorted(keys, tail_keys) * len(rows) + tail_rows[tail_kept], return_counts=True
        )
        entries = np.concatenate((entries, tail_entries))
        order = np.argsort(entries, kind="stable")  # two rising runs, which this merges
        return Inverted.of_sorted(
            keys,
            entries[order],
            np.concatenate((base.counts[kept], tail_counts))[order],
            np.concatenate((base.lengths, tail_lengths))[rows].astype(np.int32),
        )

    @property
    def nbytes(self) -> int:
        """Bytes in memory, spare room included."""
        return self.base.nbytes + self.keys.buffer.nbytes + self.ends.buffer.nbytes


def _numbered(lengths: NDArray[np.int64]) -> Rows:
    """0 as often as the first length says, then 1, and so on."""
    return np.repeat(np.arange(len(lengths)), lengths)
