"""One scope's memories in memory, searched exactly.

A shard is a value: the state of its scope at `version`, no more and no less. A write makes a new shard that shares
what is large with the old one, so searches that run in other threads go on undisturbed. It has two blocks:

* the base: rows in ascending order of id, never written, maybe mapped from a file;
* the tail: rows that came later, in the order in which they came, with spare room behind them.

A base of many rows may have a graph, whose answers are exact but for its recall; see `index.hnsw`.

A change of a row leaves the old one masked and puts the new one into the tail. Every id has one live row at most.
What is shared and still grows is the spare room of the tail, of which no shard reads more than its own rows, and
the table of terms, to which terms are only added. One thread at a time applies deltas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from memfast import kernels
from memfast.config import Language
from memfast.filters import Filter
from memfast.index.block import (
    EXPIRES,
    NEVER_US,
    VERSION,
    Arena,
    Block,
    Encode,
    FragmentRows,
    Ids,
    Mask,
    Rows,
    Terms,
    encode_fragment,
    ids_of,
)
from memfast.index.hnsw import FLAT_LIMIT, MISSING_REASON, Graph, search_graph
from memfast.index.legs import Legs
from memfast.index.postings import Inverted, Postings
from memfast.index.rows import order_by_run
from memfast.index.totals import Total, total_of
from memfast.model import Delta, Memory
from memfast.search.words import Words, words_of

__all__ = ["Hits", "Shard", "ShardIdentity"]

QUANTISED_FROM_ROWS = 512
"""From this many rows on the base has an int8 image: a quarter more memory, a third of the time."""
WORN_ROWS_MIN = 256
"""So many rows in the tail or dead in the base never ask for a rebuild."""
WORN_SHARE = 10
"""A base of n rows is worn when n // WORN_SHARE rows came later or died."""
WORN_OUT_FACTOR = 4
"""This many times worn, `apply` packs a shard without a graph at once."""

_NO_ROWS = np.empty(0, np.int64)
_NO_SCORES = np.empty(0, np.float64)


class ShardIdentity(msgspec.Struct, frozen=True):
    """Whose memories, of which life of the database, embedded by which generation of the embedder."""

    scope_id: UUID
    lineage: UUID
    generation: int
    dimensions: int


class Hits(msgspec.Struct, frozen=True):
    """Rows of a shard by (score descending, id ascending). Row numbers have a meaning in this shard alone."""

    shard: Shard
    rows: list[int]
    scores: list[float]

    @property
    def ids(self) -> list[UUID]:
        """The memories' ids."""
        return [UUID(bytes=self.shard.id_bytes(row)) for row in self.rows]

    @property
    def blocks(self) -> tuple[FragmentRows, FragmentRows]:
        """Where the memories' fragments are: see `search.encode.encode_rows`."""
        return self.shard.base.fragment_rows, self.shard.tail.fragment_rows

    @property
    def fragments(self) -> list[memoryview]:
        """The memories' fragments."""
        base, size = self.shard.base, len(self.shard.base)
        return [base.fragment(row) if row < size else self.shard.tail.fragment(row - size) for row in self.rows]


@dataclass(frozen=True, slots=True, eq=False)
class Shard(Legs):
    """One scope at one version; made by `build`, advanced by `apply`.

    Attributes:
        identity: whose it is.
        version: the scope's version.
        purged_to: as in `Delta`, at that version.
        base: rows in ascending order of id.
        base_live: bool (len(base),), None while all are.
        base_dead: rows of the base that are not.
        tail: rows that came later.
        tail_live: bool (len(tail),).
        terms: the codes of kinds, agents, runs, tags and entities.
        encode: makes a memory's fragment. Filters on metadata and source read those fields of its JSON.
        words: makes a memory's terms.
        postings: which rows have which of them.
        by_run: int32 (len(base),), the rows of the base by (run, created_at, id).
        total: the sum of the live rows' vectors.
        next_expiry_us: no live row expires before; microseconds since 1970.
        int8: whether a base of many rows keeps an int8 image.
        graph: over the base, or None.
    """

    identity: ShardIdentity
    version: int
    purged_to: int
    base: Block
    base_live: Mask | None
    base_dead: int
    tail: Block
    tail_live: Mask
    terms: Terms
    encode: Encode
    words: Words
    postings: Postings
    by_run: NDArray[np.int32]
    total: Total
    next_expiry_us: int
    vector_arena: Arena = field(repr=False)
    fragment_arena: Arena = field(repr=False)
    int8: bool = True
    graph: Graph | None = None

    @classmethod
    def build(
        cls,
        memories: Sequence[Memory],
        vectors: NDArray[np.float32],
        *,
        identity: ShardIdentity,
        version: int,
        purged_to: int = 0,
        encode: Encode = encode_fragment,
        language: Language = "english",
        int8: bool = True,
    ) -> Self:
        """A shard of all live memories of a scope, read in one snapshot.

        Args:
            memories: in any order; reading them in order of id saves a sort.
            vectors: float32 (len(memories), dimensions), norm 1; kept where they are in order and own their
                memory, so they must not change any more.
            identity: whose it is.
            version: the scope's version in the snapshot.
            purged_to: the scope's tombstones up to this version are gone.
            encode: makes a memory's fragment.
            language: of the terms, one of `search.words.LANGUAGES`.
            int8: whether a base of many rows keeps an int8 image.

        Raises:
            ValueError: vectors of another shape, dtype or norm, an id twice, or a memory newer than the version.
        """
        vectors = _checked(vectors, len(memories), identity)
        order = np.argsort(ids_of([memory.id.bytes for memory in memories]), kind="stable")
        if (order != np.arange(len(order))).any():
            memories, vectors = [memories[position] for position in order.tolist()], vectors[order]
        elif vectors.base is not None:  # a part of something larger would keep all of it alive
            vectors = vectors.copy()
        terms = Terms()
        image = kernels.quantise(vectors)  # also where it is not kept: it refuses vectors that are too long
        base = replace(Block.of(memories, vectors, terms, encode), quantised=image)
        if (base.ids[1:] == base.ids[:-1]).any():
            raise ValueError("two memories have the same id; a shard is built from each live memory once")
        if base.wide[VERSION].max(initial=0) > version:
            raise ValueError(f"a memory is newer than the version {version} of its scope; read both in one snapshot")
        words = words_of(language)
        return cls.of_base(
            base,
            terms,
            Inverted.of(map(words.of_memory, memories)),
            order_by_run(base),
            total_of(base.vectors),
            identity=identity,
            version=version,
            purged_to=purged_to,
            encode=encode,
            words=words,
            int8=int8,
        )

    @classmethod
    def of_base(
        cls,
        base: Block,
        terms: Terms,
        inverted: Inverted,
        by_run: NDArray[np.int32],
        total: Total,
        *,
        identity: ShardIdentity,
        version: int,
        purged_to: int,
        encode: Encode,
        words: Words,
        int8: bool,
    ) -> Self:
        """A shard of finished rows in ascending order of id; their int8 image is made or dropped where it must be."""
        tail = Block.empty(identity.dimensions)
        return cls(
            identity=identity,
            version=version,
            purged_to=purged_to,
            base=_quantised(base, int8=int8),
            base_live=None,
            base_dead=0,
            tail=tail,
            tail_live=np.empty(0, np.bool_),
            terms=terms,
            encode=encode,
            words=words,
            postings=Postings.of_base(inverted),
            by_run=by_run,
            total=total,
            next_expiry_us=int(base.wide[EXPIRES].min(initial=NEVER_US)),
            vector_arena=Arena(tail.vectors, 0),
            fragment_arena=Arena(tail.fragments, 0),
            int8=int8,
        )

    def __len__(self) -> int:
        """Live rows, expired ones included."""
        tail = int(np.count_nonzero(self.tail_live)) if len(self.tail_live) else 0
        return len(self.base) - self.base_dead + tail

    @property
    def nbytes(self) -> int:
        """Bytes in memory, spare room and mapped files included."""
        tail_vectors, tail_fragments = self.vector_arena.buffer, self.fragment_arena.buffer
        tail = self.tail.nbytes - self.tail.vectors.nbytes - self.tail.fragments.nbytes
        live = self.tail_live.nbytes + (0 if self.base_live is None else self.base_live.nbytes)
        graph = 0 if self.graph is None else self.graph.nbytes
        terms = self.terms.nbytes + self.postings.nbytes + self.by_run.nbytes
        return self.base.nbytes + tail + live + tail_vectors.nbytes + tail_fragments.nbytes + terms + graph

    @property
    def has_graph(self) -> bool:
        """Whether a graph chooses the nearest of the base."""
        return self.graph is not None

    @property
    def worn(self) -> int:
        """Rows that came into the tail or died in the base since it was made."""
        return len(self.tail) + self.base_dead

    @property
    def worn_limit(self) -> int:
        """More worn rows ask for a rebuild."""
        return max(WORN_ROWS_MIN, len(self.base) // WORN_SHARE)

    def needs_rebuild(self, flat_limit: int = FLAT_LIMIT) -> bool:
        """Whether `rebuilt(flat_limit)` would be faster to search: it is worn, or too large to be without a graph."""
        if self.graph is None and len(self) > flat_limit:
            return MISSING_REASON is None or self.worn > self.worn_limit
        return self.worn > self.worn_limit

    def next_expiry_after(self, now_us: int) -> int:
        """No row that has not expired at `now_us` expires before; both in microseconds since 1970."""
        if now_us < self.next_expiry_us:
            return self.next_expiry_us
        later = [block.wide[EXPIRES][block.wide[EXPIRES] > now_us] for block in (self.base, self.tail)]
        return int(np.concatenate(later).min(initial=NEVER_US))

    def search(
        self,
        vector: NDArray[np.float32],
        k: int,
        *,
        now_us: int,
        where: Filter | None = None,
        min_score: float = 0.0,
    ) -> Hits:
        """The live memories nearest to a vector: exactly what `search.rank` finds among all of them.

        Args:
            vector: float32 (dimensions,), C-contiguous, norm 1.
            k: hits at most.
            now_us: wall time, microseconds since 1970; what expires then or before is not found.
            where: only memories that pass.
            min_score: the lowest score that is kept.

        Raises:
            ValueError: a vector of another shape, dtype or layout, or `k` is negative.
        """
        base_mask, tail_mask = self.masks(now_us, where)
        base_rows, base_scores = self._search_base(vector, k, base_mask)
        rows: list[int] = base_rows.tolist()
        scores: list[float] = base_scores.tolist()
        if len(self.tail):
            tail_rows, tail_scores = _search_unordered(self.tail, vector, k, tail_mask)
            rows += (tail_rows + len(self.base)).tolist()
            scores += tail_scores.tolist()
            order = self._best_first(rows, scores)[:k]
            rows, scores = [rows[place] for place in order], [scores[place] for place in order]
        if min_score > 0.0:
            scores = [score for score in scores if score >= min_score]
            del rows[len(scores) :]
        return Hits(self, rows, scores)

    def apply(self, delta: Delta) -> Self | None:
        """The shard at the delta's version, or None where the delta does not reach down to this one: load anew.

        A delta that this shard knows changes nothing, and of one that it knows in part only the rest counts.
        Takes about 0.1 ms and 3 microseconds a row; a shard that is worn out and has
        no graph is packed, which takes about 2 microseconds for each of its rows.

        Raises:
            ValueError: vectors of another shape, dtype or norm, or a row newer than the delta.
        """
        if delta.since > self.version or delta.purged_to > self.version:
            return None
        if delta.version <= self.version:
            return self
        gone = {target.bytes: version for target, version in delta.deleted if version > self.version}
        news = [
            position
            for position, memory in enumerate(delta.memories)
            if memory.version > max(self.version, gone.get(memory.id.bytes, 0))
        ]
        memories = [delta.memories[position] for position in news]
        newest = max([memory.version for memory in memories] + list(gone.values()), default=0)
        if newest > delta.version:
            raise ValueError(f"a delta to version {delta.version} holds version {newest}; read both in one snapshot")
        vectors = _checked(delta.vectors, len(delta.memories), self.identity)[news]
        kernels.quantise(vectors)  # refuses what is longer than the bounds of a search hold for
        block = Block.of(memories, vectors, self.terms, self.encode)
        if len(set(block.ids.tolist())) < len(memories):
            raise ValueError("a delta holds two live rows of one memory; read it in one snapshot")
        killed = ids_of([*{*gone, *(memory.id.bytes for memory in memories)}])
        shard = self._advanced(block, [self.words.of_memory(memory) for memory in memories], killed, delta)
        worn_out = shard.graph is None and shard.worn > WORN_OUT_FACTOR * shard.worn_limit
        return shard.packed() if worn_out else shard

    def rebuilt(self, flat_limit: int = FLAT_LIMIT) -> Self:
        """The same state packed, with a graph where there are more rows than `flat_limit` and hnswlib is there.

        A graph takes 0.2 to 0.6 ms a row: run this in a thread, and apply to its result the deltas that were applied
        meanwhile.
        """
        shard = self.packed()
        if len(shard) <= flat_limit or MISSING_REASON is not None:
            return shard
        return replace(shard, graph=Graph(shard.base.vectors))

    def packed(self) -> Self:
        """The same state with all live rows in the base, no room wasted and no graph."""
        terms = Terms()
        rows = self._live_rows()
        base = self._both().take(rows).recoded(self.terms, terms)
        return self.of_base(
            base,
            terms,
            self.postings.packed(rows),
            order_by_run(base),
            self.total,
            identity=self.identity,
            version=self.version,
            purged_to=self.purged_to,
            encode=self.encode,
            words=self.words,
            int8=self.int8,
        )

    def _search_base(self, vector: NDArray[np.float32], k: int, mask: Mask | None) -> tuple[Rows, NDArray[np.float64]]:
        if self.graph is not None:
            found = search_graph(self.graph, self.base.vectors, vector, k, mask)
            if found is not None:
                return found
        return kernels.search_rows(self.base.vectors, vector, k, mask=mask, quantised=self.base.quantised)

    def _best_first(self, rows: list[int], scores: list[float]) -> list[int]:
        """The places of hits by (score descending, id ascending). Ids are looked at only where scores are equal."""
        places = range(len(rows))
        if len(set(scores)) == len(scores):
            return sorted(places, key=scores.__getitem__, reverse=True)
        return sorted(places, key=lambda place: (-scores[place], self.id_bytes(rows[place])))

    def _advanced(self, block: Block, added: Sequence[Sequence[str]], killed: Ids, delta: Delta) -> Self:
        base_rows, tail_rows = self.base_rows(killed), self.tail_rows(killed)
        base_rows, tail_rows = base_rows[base_rows >= 0], tail_rows[tail_rows >= 0]
        dead = np.concatenate((base_rows, tail_rows + len(self.base)))
        base_live = self.base_live
        if len(base_rows):
            base_live = np.ones(len(self.base), np.bool_) if base_live is None else base_live.copy()
            base_live[base_rows] = False
        tail_live = np.concatenate((self.tail_live, np.ones(len(block), np.bool_)))
        tail_live[tail_rows] = False
        size, end = len(self.tail), len(self.tail.fragments)
        vectors = self.vector_arena.extended(size, block.vectors)
        fragments = self.fragment_arena.extended(end, block.fragments)
        tail = self.tail.followed_by(
            block, vectors.buffer[: size + len(block)], fragments.buffer[: end + len(block.fragments)], end
        )
        return type(self)(
            identity=self.identity,
            version=delta.version,
            purged_to=delta.purged_to,
            base=self.base,
            base_live=base_live,
            base_dead=self.base_dead + len(base_rows),
            tail=tail,
            tail_live=tail_live,
            terms=self.terms,
            encode=self.encode,
            words=self.words,
            postings=self.postings.advanced(added, base_rows, tail_rows),
            by_run=self.by_run,
            total=self.total + total_of(block.vectors) - total_of(self.vectors_of(dead)),
            next_expiry_us=min(self.next_expiry_us, int(block.wide[EXPIRES].min(initial=NEVER_US))),
            vector_arena=vectors,
            fragment_arena=fragments,
            int8=self.int8,
            graph=self.graph,
        )

    def _both(self) -> Block:
        vectors = np.concatenate((self.base.vectors, self.tail.vectors))
        fragments = np.concatenate((self.base.fragments, self.tail.fragments))
        return self.base.followed_by(self.tail, vectors, fragments, len(self.base.fragments))

    def _live_rows(self) -> Rows:
        """The live rows of both blocks in ascending order of id."""
        base = np.arange(len(self.base)) if self.base_live is None else np.flatnonzero(self.base_live)
        tail = np.flatnonzero(self.tail_live)
        rows = np.concatenate((base, tail + len(self.base)))
        return rows[np.argsort(np.concatenate((self.base.ids[base], self.tail.ids[tail])), kind="stable")]


def _checked(vectors: NDArray[np.float32], rows: int, identity: ShardIdentity) -> NDArray[np.float32]:
    if vectors.dtype != np.float32 or vectors.shape != (rows, identity.dimensions):
        raise ValueError(
            f"the vectors are {vectors.dtype} {vectors.shape}; wanted is float32 {(rows, identity.dimensions)}"
        )
    return np.ascontiguousarray(vectors)


def _quantised(base: Block, *, int8: bool) -> Block:
    wanted = int8 and len(base) >= QUANTISED_FROM_ROWS
    if wanted == (base.quantised is not None):
        return base
    return replace(base, quantised=kernels.quantise(base.vectors) if wanted else None)


def _search_unordered(
    block: Block, vector: NDArray[np.float32], k: int, mask: Mask
) -> tuple[Rows, NDArray[np.float64]]:
    """The best k rows, and more where rows tie with the k-th: the kernel breaks ties by row, not by id."""
    if k < 1:
        return _NO_ROWS, _NO_SCORES
    wanted = k + 1
    while True:
        rows, scores = kernels.search_rows(block.vectors, vector, wanted, mask=mask)
        if len(rows) < wanted or scores[-1] < scores[k - 1]:
            return rows, scores
        wanted *= 4
