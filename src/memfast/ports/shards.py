"""What the service needs of shards: one scope's memories in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from memfast.filters import Filter
from memfast.model import Delta, Scope, Snapshot

__all__ = ["FragmentTable", "Hits", "Shard", "Shards"]

FragmentTable: TypeAlias = tuple[NDArray[np.int64], NDArray[np.uint8]]
"""Where the fragment of each row begins and ends, int64 (2, n), and the bytes of all."""


class Hits(Protocol):
    """What a shard found, by (score descending, id ascending)."""

    @property
    def blocks(self) -> tuple[FragmentTable, FragmentTable]:
        """Tables of fragments as `search.encode.encode_fragment` makes them: see `kernels.join_rows`."""
        ...

    @property
    def rows(self) -> list[int]:
        """The memories' rows in these tables."""
        ...

    @property
    def scores(self) -> Sequence[float]:
        """Their scores."""
        ...


class Shard(Protocol):
    """One scope's memories in memory at one version: a value, never changed. See `index.shard`."""

    @property
    def version(self) -> int:
        """The scope's version."""
        ...

    @property
    def purged_to(self) -> int:
        """Tombstones up to this version are gone from the store."""
        ...

    @property
    def has_graph(self) -> bool:
        """Whether a graph chooses its nearest memories, where all of them would be too many to compare."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        ...

    def next_expiry_after(self, now_us: int) -> int:
        """No memory that lives at `now_us` expires before; microseconds since 1970."""
        ...

    def __len__(self) -> int:
        """Rows."""
        ...

    def search(
        self,
        vector: NDArray[np.float32],
        k: int,
        *,
        now_us: int,
        where: Filter | None = None,
        min_score: float = 0.0,
    ) -> Hits:
        """The nearest live memories, exactly what `search.rank` finds among all of them, or all that pass `where`."""
        ...

    def ranked(
        self, terms: Sequence[tuple[str, float]], asked: int, k: int, *, now_us: int, where: Filter | None = None
    ) -> tuple[NDArray[np.int64], Callable[[NDArray[np.int64]], NDArray[np.float64]], float]:
        """The best rows by these terms, a function for the BM25 scores of rows, the ceiling of the `asked` first."""
        ...

    def term_frequencies(self, terms: Sequence[str]) -> NDArray[np.int64]:
        """How many live memories have each of these terms."""
        ...

    def vectors_of(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of rows, float32 (r, dimensions)."""
        ...

    def importances(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """The importance of rows."""
        ...

    def created_us(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """When rows were created, microseconds since 1970."""
        ...

    def neighbours(self, rows: Sequence[int] | NDArray[np.int64], *, now_us: int, reach: int = 2) -> NDArray[np.int64]:
        """Rows 1 before, 1 after, 2 before and so on in the runs of rows, (2 · reach, r); -1 where there is none."""
        ...

    def rows_of(self, ids: Sequence[UUID]) -> NDArray[np.int64]:
        """The rows of memories, expired ones included; -1 where there is none."""
        ...

    def id_of(self, row: int) -> UUID:
        """The id of a row."""
        ...

    def get(self, target: UUID, *, now_us: int) -> bytes | None:
        """The fragment of a live memory, or None."""
        ...

    @property
    def vector_total(self) -> NDArray[np.float64]:
        """The sum of the live rows' vectors, float64 (dimensions,)."""
        ...

    @property
    def fragment_tables(self) -> tuple[FragmentTable, FragmentTable]:
        """Tables of the rows' fragments: see `kernels.join_rows`."""
        ...

    def fragment(self, row: int) -> memoryview:
        """A row's fragment."""
        ...

    def vector_scores(self, vector: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """The dot products of these rows with a vector of any norm."""
        ...

    def by_id(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """These rows in ascending order of id."""
        ...

    def masks(self, now_us: int, where: Filter | None = None) -> tuple[NDArray[np.bool_] | None, NDArray[np.bool_]]:
        """The rows of both blocks that live, have not expired and pass; None where all of the first do."""
        ...

    def passing(
        self, rows: NDArray[np.int64], masks: tuple[NDArray[np.bool_] | None, NDArray[np.bool_]]
    ) -> NDArray[np.bool_]:
        """Which of these rows the masks let pass."""
        ...

    def needs_rebuild(self, flat_limit: int) -> bool:
        """Whether `rebuilt` would be faster to search."""
        ...

    def rebuilt(self, flat_limit: int) -> Shard:
        """The same state, packed, and with a graph above `flat_limit` memories. Takes long: run it in a thread."""
        ...

    def apply(self, delta: Delta) -> Shard | None:
        """The shard at the delta's version, or None where it must be loaded anew."""
        ...


class Shards(Protocol):
    """The shards that a worker holds, bounded in bytes; the coldest leave first. See `index.pool`."""

    def build(self, scope: Scope, snapshot: Snapshot) -> Shard:
        """Make a shard of a snapshot. Takes long for a large scope: run it beside the event loop."""
        ...

    def restore(self, scope: Scope) -> Shard | None:
        """The shard that was saved last, at the version it had then; None without a good one. Reads a file."""
        ...

    def save(self, scope: Scope, shard: Shard) -> int:
        """Save a shard for later starts; returns the bytes on disk. Writes a file.

        Raises:
            CommandFailed: the disk is full, or the directory cannot be written.
        """
        ...

    def unsave(self, scope_id: UUID) -> int:
        """Remove what was saved of a scope; returns how many files that were. Touches files."""
        ...

    def saved(self) -> Sequence[UUID]:
        """Scopes of which something was saved. Reads a directory."""
        ...

    def held(self) -> Sequence[UUID]:
        """Scopes that are held."""
        ...

    def peek(self, scope_id: UUID) -> Shard | None:
        """The shard of a scope, which stays as warm as it is."""
        ...

    def get(self, scope_id: UUID) -> Shard | None:
        """The shard of a scope, which is now the warmest."""
        ...

    def put(self, scope_id: UUID, shard: Shard, *, evict: bool = True) -> bool:
        """Hold a shard instead of the scope's older one; False when there is no room for it.

        With `evict` colder shards make room, without only free room is used.
        """
        ...

    def drop(self, scope_id: UUID) -> None:
        """Hold the scope's shard no longer."""
        ...

    def note_miss(self, scope_id: UUID, now_s: float) -> bool:
        """A search found the scope cold; True when it is searched often enough to be loaded."""
        ...
