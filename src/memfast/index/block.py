"""Rows of memories in columns: what shards are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate, chain
from sys import getsizeof
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from memfast.filters import Field
from memfast.model import Memory

__all__ = [
    "AGENT",
    "CREATED",
    "ENTITIES",
    "ENTITIES_END",
    "EXPIRES",
    "FRAGMENT",
    "FRAGMENT_END",
    "IMPORTANCE",
    "KIND",
    "NEVER_US",
    "NO_TERM",
    "RUN",
    "TAGS",
    "TAGS_END",
    "UPDATED",
    "VERSION",
    "Arena",
    "Block",
    "Encode",
    "FragmentRows",
    "Ids",
    "JsonColumn",
    "Mask",
    "Quantised",
    "Rows",
    "Terms",
    "encode_fragment",
    "ids_of",
    "microseconds",
]

Ids: TypeAlias = NDArray[np.bytes_]
Mask: TypeAlias = NDArray[np.bool_]
Rows: TypeAlias = NDArray[np.int64]
FragmentRows: TypeAlias = tuple[NDArray[np.int64], NDArray[np.uint8]]
Quantised: TypeAlias = tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]
Encode: TypeAlias = Callable[[Memory], bytes]

VERSION, CREATED, UPDATED, EXPIRES, IMPORTANCE, FRAGMENT, FRAGMENT_END = range(7)
"""Columns of `Block.wide`. IMPORTANCE holds the bits of a float64."""
KIND, AGENT, RUN, TAGS, TAGS_END, ENTITIES, ENTITIES_END = range(7)
"""Columns of `Block.codes`. KIND, AGENT and RUN are codes of terms; the others bound slices of the lists."""

NEVER_US = 2**63 - 1
"""The expiry of what never expires."""
NO_TERM = -1
"""The code of an agent or a run that is null."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encoder = msgspec.json.Encoder()


def encode_fragment(memory: Memory) -> bytes:
    """The memory's JSON object without its closing brace: `,"score":0.5}` or `}` goes behind it."""
    return _encoder.encode(memory)[:-1]


def microseconds(time: datetime) -> int:
    """Microseconds since 1970, exact for every year."""
    elapsed = time - _EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1_000_000 + elapsed.microseconds


def ids_of(ids: Sequence[bytes]) -> Ids:
    """Ids of 16 bytes each as an array that sorts as they do; its elements show no trailing zero bytes."""
    return np.frombuffer(b"".join(ids), "S16")


class Terms(dict[str, int]):
    """Codes of the strings that rows share. Only ever added to, so that all shards of a scope can use one."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        super().__init__()
        self._names_bytes = 0
        for name in names:
            self[name]

    def __missing__(self, name: str) -> int:
        code = len(self)
        self[name] = code
        self._names_bytes += getsizeof(name) + getsizeof(code)
        return code

    def find(self, names: Sequence[str]) -> list[int]:
        """The codes of those terms that there are."""
        return [self[name] for name in names if name in self]

    @property
    def nbytes(self) -> int:
        """Bytes in memory, names and codes included."""
        return getsizeof(self) + self._names_bytes


class Arena:
    """An array with spare room at its end, shared by all that hold its beginning.

    Whoever reads says how many items it sees; items behind those that anybody sees may be written, no others.
    One thread at a time extends.
    """

    __slots__ = ("buffer", "used")

    def __init__(self, buffer: NDArray[Any], used: int) -> None:
        self.buffer = buffer
        self.used = used

    def extended(self, visible: int, items: NDArray[Any]) -> Arena:
        """An arena of the first `visible` items and then these: this one, or a copy where it cannot be."""
        if not len(items):
            return self
        end = visible + len(items)
        arena = self
        if visible != self.used or end > len(self.buffer):
            buffer = np.empty((max(end + end // 2, 16), *self.buffer.shape[1:]), self.buffer.dtype)
            buffer[:visible] = self.buffer[:visible]
            arena = Arena(buffer, visible)
        arena.buffer[visible:end] = items
        arena.used = end
        return arena


class JsonColumn(NamedTuple):
    """One field of the rows' JSON: `codes`, int32 (n,), are places in `values`, -1 where the field is missing."""

    codes: NDArray[np.int32]
    values: list[Any]
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows, none of which ever changes.

    Attributes:
        ids: S16 (n,).
        wide: int64 (7, n), the columns VERSION, CREATED, UPDATED, EXPIRES, IMPORTANCE, FRAGMENT, FRAGMENT_END;
            times are microseconds since 1970.
        codes: int32 (7, n), the columns KIND, AGENT, RUN, TAGS, TAGS_END, ENTITIES, ENTITIES_END.
        vectors: float32 (n, d), C-contiguous, norm 1.
        fragments: uint8 (bytes,), the JSON of row r at FRAGMENT[r]:FRAGMENT_END[r].
        tags: int32 (tags,), the codes of row r at TAGS[r]:TAGS_END[r].
        entities: int32 (entities,), likewise.
        quantised: the int8 image of the vectors, or None.
    """

    ids: Ids
    wide: Rows
    codes: NDArray[np.int32]
    vectors: NDArray[np.float32]
    fragments: NDArray[np.uint8]
    tags: NDArray[np.int32]
    entities: NDArray[np.int32]
    quantised: Quantised | None = None
    spans: tuple[memoryview, memoryview, memoryview] = field(init=False, repr=False)
    """Where fragments begin and end, and their bytes."""
    fragment_rows: FragmentRows = field(init=False, repr=False)
    """The same as arrays: int64 (2, n), and uint8."""

    columns: dict[Field, JsonColumn] = field(init=False, repr=False, default_factory=dict)
    """What filters read of the JSON, kept by `index.columns`."""

    def __post_init__(self) -> None:
        spans = (self.wide[FRAGMENT].data, self.wide[FRAGMENT_END].data, self.fragments.data)
        object.__setattr__(self, "spans", spans)
        object.__setattr__(self, "fragment_rows", (self.wide[FRAGMENT : FRAGMENT_END + 1], self.fragments))

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    @lru_cache(16)
    def empty(dimensions: int) -> Block:
        """No rows of this many dimensions; every shard begins with them behind its base."""
        return Block.of([], np.empty((0, dimensions), np.float32), Terms(), encode_fragment)

    @classmethod
    def of(cls, memories: Sequence[Memory], vectors: NDArray[np.float32], terms: Terms, encode: Encode) -> Block:
        """These memories, with the vectors beside them, in this order."""
        fragments = [encode(memory) for memory in memories]
        starts, ends = _bounds(fragments)
        wide = (
            [memory.version for memory in memories],
            [microseconds(memory.created_at) for memory in memories],
            [microseconds(memory.updated_at) for memory in memories],
            [NEVER_US if memory.expires_at is None else microseconds(memory.expires_at) for memory in memories],
            np.array([memory.importance for memory in memories], np.float64).view(np.int64).tolist(),
            starts,
            ends,
        )
        codes = (
            [terms[memory.kind] for memory in memories],
            [NO_TERM if memory.agent_id is None else terms[memory.agent_id] for memory in memories],
            [NO_TERM if memory.run_id is None else terms[memory.run_id] for memory in memories],
            *_bounds([memory.tags for memory in memories]),
            *_bounds([memory.entities for memory in memories]),
        )
        return cls(
            ids=ids_of([memory.id.bytes for memory in memories]),
            wide=np.fromiter(chain(*wide), np.int64, 7 * len(memories)).reshape(7, -1),
            codes=np.fromiter(chain(*codes), np.int32, 7 * len(memories)).reshape(7, -1),
            vectors=vectors,
            fragments=np.frombuffer(b"".join(fragments), np.uint8),
            tags=np.array([terms[tag] for memory in memories for tag in memory.tags], np.int32),
            entities=np.array([terms[name] for memory in memories for name in memory.entities], np.int32),
        )

    def fragment(self, row: int) -> memoryview:
        """The bytes of one row."""
        starts, ends, data = self.spans
        return data[starts[row] : ends[row]]

    def fragments_of(self, rows: Sequence[int]) -> list[memoryview]:
        """The bytes of these rows."""
        starts, ends, data = self.spans
        return [data[starts[row] : ends[row]] for row in rows]

    def id_bytes(self, row: int) -> bytes:
        """The id of one row, all 16 bytes."""
        return self.ids[row : row + 1].tobytes()

    @property
    def importance(self) -> NDArray[np.float64]:
        """float64 (n,)."""
        column: NDArray[np.float64] = self.wide[IMPORTANCE].view(np.float64)
        return column

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays and of the columns that filters left."""
        return self.own_bytes + sum(column.nbytes for column in self.columns.copy().values())

    @property
    def own_bytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.ids, self.wide, self.codes, self.vectors, self.fragments, self.tags, self.entities)
        return sum(array.nbytes for array in (*arrays, *(self.quantised or ())))

    def followed_by(self, block: Block, vectors: NDArray[np.float32], fragments: NDArray[np.uint8], end: int) -> Block:
        """These rows and then those of another block.

        Args:
            block: the rows that follow.
            vectors: both blocks' vectors.
            fragments: both blocks' fragments.
            end: where in `fragments` those of the other block begin.
        """
        wide = np.concatenate((self.wide, block.wide), axis=1)
        wide[FRAGMENT : FRAGMENT_END + 1, len(self) :] += end
        codes = np.concatenate((self.codes, block.codes), axis=1)
        codes[TAGS : TAGS_END + 1, len(self) :] += len(self.tags)
        codes[ENTITIES : ENTITIES_END + 1, len(self) :] += len(self.entities)
        return Block(
            ids=np.concatenate((self.ids, block.ids)),
            wide=wide,
            codes=codes,
            vectors=vectors,
            fragments=fragments,
            tags=np.concatenate((self.tags, block.tags)),
            entities=np.concatenate((self.entities, block.entities)),
        )

    def take(self, rows: Rows) -> Block:
        """These rows in this order, packed, without the int8 image."""
        wide, codes = self.wide.take(rows, axis=1), self.codes.take(rows, axis=1)
        fragments = b"".join(self.fragments_of(rows.tolist()))
        _set_bounds(wide, FRAGMENT, wide[FRAGMENT_END] - wide[FRAGMENT])
        tags = _gathered(self.tags, codes[TAGS], codes[TAGS_END])
        _set_bounds(codes, TAGS, codes[TAGS_END] - codes[TAGS])
        entities = _gathered(self.entities, codes[ENTITIES], codes[ENTITIES_END])
        _set_bounds(codes, ENTITIES, codes[ENTITIES_END] - codes[ENTITIES])
        return Block(
            ids=self.ids[rows],
            wide=wide,
            codes=codes,
            vectors=self.vectors[rows],
            fragments=np.frombuffer(fragments, np.uint8),
            tags=tags,
            entities=entities,
        )

    def recoded(self, old: Terms, new: Terms) -> Block:
        """The same rows with the codes of other terms, which are given those that the rows use."""
        names = list(old)
        used = np.unique(np.concatenate((self.codes[: RUN + 1].ravel(), self.tags, self.entities)))
        table = np.full(len(names) + 1, NO_TERM, np.int32)  # the last entry stands for NO_TERM
        for code in used[used >= 0].tolist():
            table[code] = new[names[code]]
        codes = self.codes.copy()
        codes[: RUN + 1] = table[codes[: RUN + 1]]
        return replace(self, codes=codes, tags=table[self.tags], entities=table[self.entities])


def _bounds(slices: Sequence[Sized]) -> tuple[list[int], list[int]]:
    """Where slices begin and end when they stand one behind the other."""
    ends = list(accumulate(map(len, slices)))
    return [0, *ends[:-1]][: len(ends)], ends


def _set_bounds(columns: NDArray[Any], start: int, lengths: Sequence[int] | NDArray[Any]) -> None:
    """Write where slices of these lengths begin and end when they stand one behind the other."""
    ends = np.cumsum(np.asarray(lengths, columns.dtype), dtype=columns.dtype)
    columns[start + 1] = ends
    columns[start] = ends
    columns[start, 1:] = ends[:-1]
    columns[start, :1] = 0


def _gathered(values: NDArray[np.int32], starts: NDArray[np.int32], ends: NDArray[np.int32]) -> NDArray[np.int32]:
    """The slices `starts[i]:ends[i]` one behind the other."""
    lengths = ends - starts
    shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    gathered: NDArray[np.int32] = values[np.arange(len(shift)) + shift]
    return gathered
