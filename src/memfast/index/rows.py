"""Reading rows of a shard: by id, by number, and beside one another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from memfast import kernels
from memfast.filters import Filter
from memfast.index.block import CREATED, EXPIRES, RUN, Block, FragmentRows, Ids, Mask, Rows, Terms, ids_of
from memfast.index.filters import passing
from memfast.index.totals import Total, unscaled

__all__ = ["RowReader", "order_by_run"]


def order_by_run(base: Block) -> NDArray[np.int32]:
    """The rows of a base by (run, created_at, id), int32; those of no run come first."""
    return np.lexsort((base.wide[CREATED], base.codes[RUN])).astype(np.int32)


class RowReader(ABC):
    """What a shard tells about its rows, which are numbered base first, tail behind it."""

    __slots__ = ()

    base: Block
    base_live: Mask | None
    tail: Block
    tail_live: Mask
    terms: Terms
    by_run: NDArray[np.int32]
    total: Total
    next_expiry_us: int

    @abstractmethod
    def __len__(self) -> int:
        """Live rows, expired ones included."""

    def get(self, target: UUID, *, now_us: int) -> bytes | None:
        """The fragment of a live memory, or None."""
        wanted = ids_of([target.bytes])
        row = int(self.base_rows(wanted)[0])
        block = self.base
        if row < 0:
            block, row = self.tail, int(self.tail_rows(wanted)[0])
        if row < 0 or block.wide[EXPIRES, row] <= now_us:
            return None
        return bytes(block.fragment(row))

    def rows_of(self, ids: Sequence[UUID]) -> Rows:
        """The live rows of memories, expired ones included, int64 (len(ids),); -1 where there is none."""
        wanted = ids_of([target.bytes for target in ids])
        base, tail = self.base_rows(wanted), self.tail_rows(wanted)
        return np.where(tail < 0, base, tail + len(self.base))

    def id_of(self, row: int) -> UUID:
        """The id of a row."""
        return UUID(bytes=self.id_bytes(row))

    def id_bytes(self, row: int) -> bytes:
        """The id of a row that a search gave, 16 bytes."""
        size = len(self.base)
        return self.base.id_bytes(row) if row < size else self.tail.id_bytes(row - size)

    def vectors_of(self, rows: Sequence[int] | Rows) -> NDArray[np.float32]:
        """The vectors of these rows, float32 (r, dimensions)."""
        return self._gathered(rows, self.base.vectors, self.tail.vectors)

    def by_id(self, rows: Rows) -> Rows:
        """These rows in ascending order of id, int64 (r,)."""
        if not len(self.tail):
            return np.sort(rows)
        ids = self._gathered(rows, self.base.ids, self.tail.ids)
        return rows[np.argsort(ids, kind="stable")]

    def passing(self, rows: Rows, masks: tuple[Mask | None, Mask]) -> Mask:
        """Which of these rows the masks let pass, bool (r,)."""
        base, tail = masks
        return self._gathered(rows, np.ones(len(self.base), np.bool_) if base is None else base, tail)

    def fragment(self, row: int) -> memoryview:
        """A row's fragment."""
        size = len(self.base)
        return self.base.fragment(row) if row < size else self.tail.fragment(row - size)

    @property
    def fragment_tables(self) -> tuple[FragmentRows, FragmentRows]:
        """Where the rows' fragments are: see `search.encode.encode_rows`."""
        return self.base.fragment_rows, self.tail.fragment_rows

    @property
    def vector_total(self) -> NDArray[np.float64]:
        """The sum of the live rows' vectors, float64 (dimensions,); expired ones included."""
        return unscaled(self.total)

    def importances(self, rows: Sequence[int] | Rows) -> NDArray[np.float64]:
        """The importance of these rows, float64 (r,)."""
        return self._gathered(rows, self.base.importance, self.tail.importance)

    def created_us(self, rows: Sequence[int] | Rows) -> Rows:
        """When these rows were created, int64 (r,), microseconds since 1970."""
        return self._gathered(rows, self.base.wide[CREATED], self.tail.wide[CREATED])

    def neighbours(self, rows: Sequence[int] | Rows, *, now_us: int, reach: int = 2) -> Rows:
        """The rows beside these in their runs, by (created_at, id), of those that live and have not expired.

        Args:
            rows: any of the shard.
            now_us: wall time, microseconds since 1970.
            reach: how many on each side, 1 to 16.

        Returns:
            int64 (2 · reach, r): the rows 1 before, 1 after, 2 before, 2 after and so on; -1 where there is none, as
            for a row of no run.

        Raises:
            ValueError: a row or the reach is out of range.
        """
        base_mask, tail_mask = self.masks(now_us)
        parts = [
            (block.codes[RUN], block.wide[CREATED], block.ids, mask)
            for block, mask in ((self.base, base_mask), (self.tail, tail_mask))
        ]
        return kernels.neighbours(parts[0], self.by_run, parts[1], np.asarray(rows, np.int64), reach)

    def masks(self, now_us: int, where: Filter | None = None) -> tuple[Mask | None, Mask]:
        """The rows of the base and of the tail that live, have not expired and pass; None while all of the base do."""
        if where is None and now_us < self.next_expiry_us:
            return self.base_live, self.tail_live
        base, tail = (
            self._mask(block, live, now_us, where)
            for block, live in ((self.base, self.base_live), (self.tail, self.tail_live))
        )
        return base, tail

    def _mask(self, block: Block, live: Mask | None, now_us: int, where: Filter | None) -> Mask:
        mask: Mask = block.wide[EXPIRES] > now_us
        if live is not None:
            mask &= live
        return mask if where is None else passing(where, block, self.terms, mask)

    def base_rows(self, wanted: Ids) -> Rows:
        """The live rows of the base with these ids, -1 where there is none."""
        size = len(self.base)
        if not size:
            return np.full(len(wanted), -1)
        rows = np.minimum(np.searchsorted(self.base.ids, wanted), size - 1)
        found = self.base.ids[rows] == wanted
        if self.base_live is not None:
            found &= self.base_live[rows]
        return np.where(found, rows, -1)

    def tail_rows(self, wanted: Ids) -> Rows:
        """The live rows of the tail with these ids, -1 where there is none."""
        live = np.flatnonzero(self.tail_live)
        if not len(live):
            return np.full(len(wanted), -1)
        if len(wanted) == 1:  # the common write: a comparison is cheaper than a sort
            place = np.flatnonzero(self.tail.ids[live] == wanted)
            return live[place] if len(place) else np.full(1, -1)
        ids = self.tail.ids[live]
        order = np.argsort(ids)
        places = order[np.minimum(np.searchsorted(ids, wanted, sorter=order), len(live) - 1)]
        return np.where(ids[places] == wanted, live[places], -1)

    def _gathered(self, rows: Sequence[int] | Rows, base: NDArray[Any], tail: NDArray[Any]) -> NDArray[Any]:
        """The entries of two columns for rows of both blocks."""
        wanted = np.asarray(rows, np.int64)
        if not len(tail):
            return base[wanted]
        late = wanted >= len(base)
        found = np.empty((len(wanted), *base.shape[1:]), base.dtype)
        found[~late] = base[wanted[~late]]
        found[late] = tail[wanted[late] - len(base)]
        return found
