"""Shards on disk: written whole, checked whole, mapped into memory, and believed only when everything fits.

```
magic 8 | format 4 | header bytes 4 | header crc 4 | header (msgpack) | sections
```
Numbers are little-endian; the sections, and each within them, begin at multiples of 64 bytes. The header names whose
shard it is, at which version, how fragments and terms are made, and each section's place, length and CRC-32.
CRC-32 finds every change of up to 32 bits in a row and misses one in four billion of the others; the kernel takes it as
fast as memory gives bytes, where BLAKE2b takes 0.75 GB/s. It guards against torn and worn files, not against whoever
may write into the directory.

A file is replaced by renaming and never changed, so whoever has mapped it may keep it. Graphs are not stored.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from memfast import kernels
from memfast.config import Language
from memfast.index.block import (
    AGENT,
    ENTITIES,
    ENTITIES_END,
    FRAGMENT,
    FRAGMENT_END,
    KIND,
    NO_TERM,
    RUN,
    TAGS,
    TAGS_END,
    VERSION,
    Block,
    Encode,
    Terms,
    encode_fragment,
)
from memfast.index.postings import Inverted
from memfast.index.shard import Shard, ShardIdentity
from memfast.model import Memory
from memfast.search.words import Words, words_of

__all__ = ["FORMAT", "load", "save"]

_log = logging.getLogger("memfast.index")

MAGIC = b"memfast\x01"
FORMAT = 2
"""Raised with every change of the layout; other formats are not read."""
ALIGNMENT = 64

_PREFIX = struct.Struct("<8sIII")
_ARRAYS = (
    ("ids", "S16"),
    ("wide", "<i8"),
    ("codes", "<i4"),
    ("vectors", "<f4"),
    ("fragments", "u1"),
    ("tags", "<i4"),
    ("entities", "<i4"),
)
_INVERTED = (
    ("term_keys", "<u8"),
    ("term_starts", "<i4"),
    ("term_rows", "<i4"),
    ("term_counts", "u1"),
    ("term_lengths", "<i4"),
)
_BY_RUN = ("by_run", "<i4")
_TOTAL = ("vector_total", "<i8")
_IMAGE = (("image_codes", "i1"), ("image_scale", "<f4"), ("image_residual_norm", "<f4"))


class _Damaged(Exception):
    """A file that is not a good snapshot of this shard; the message says why."""


class _Section(msgspec.Struct, frozen=True, array_like=True):
    name: str
    offset: int
    length: int
    crc: int


class _Header(msgspec.Struct, frozen=True):
    identity: ShardIdentity
    sample: bytes
    words: str
    version: int
    purged_to: int
    rows: int
    sections: list[_Section]


def save(shard: Shard, path: Path) -> None:
    """Write a shard into a file, whole or not at all, and durably. The directory must exist.

    Blocks for as long as the disk takes; run it in a thread.

    Raises:
        OSError: the disk is full, or the directory cannot be written.
    """
    if shard.worn:
        shard = shard.packed()
    handle, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in _pieces(shard):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def load(
    path: Path,
    identity: ShardIdentity,
    *,
    encode: Encode = encode_fragment,
    language: Language = "english",
    int8: bool = True,
) -> Shard | None:
    """Map a shard from a file; its rows are read in place and shared with whoever else maps it.

    Args:
        path: what `save` wrote.
        identity: whose shard it must be.
        encode: makes the fragments of later rows; it must make them as those of the file were made.
        language: as in `Shard.build`; the file's terms must be of it, and made as this release makes them.
        int8: as in `Shard.build`; the file may hold an image or not.

    Returns:
        The shard at the version of the file, or None where there is no file or not a good one of this identity. The
        log says which.
    """
    try:
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _read(memoryview(content), identity, encode, words_of(language), int8=int8)
    except FileNotFoundError:
        _log.debug("there is no snapshot %s", path)
    except (OSError, ValueError, msgspec.DecodeError, _Damaged) as error:
        _log.warning("the snapshot %s is not used: %s", path, error)
    return None


_SAMPLE = Memory(
    id=UUID(int=1),
    user_id="user",
    text="text",
    kind="kind",
    tags=["tag"],
    entities=["entity"],
    importance=0.5,
    metadata=msgspec.Raw(b'{"key":1}'),
    agent_id="agent",
    run_id=None,
    source="source",
    created_at=datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
    updated_at=datetime(2026, 1, 2, tzinfo=UTC),
    expires_at=None,
    version=2,
)
"""Its fragment tells whether a file was written by a release that made fragments as this one does."""


def _arrays(shard: Shard) -> dict[str, NDArray[Any]]:
    base = shard.base
    inverted: tuple[NDArray[Any], ...] = shard.postings.base
    arrays: dict[str, NDArray[Any]] = {name: getattr(base, name) for name, _ in _ARRAYS}
    arrays |= {name: array for (name, _), array in zip(_INVERTED, inverted, strict=True)}
    arrays |= {_BY_RUN[0]: shard.by_run, _TOTAL[0]: shard.total}
    if base.quantised is not None:
        image: tuple[NDArray[Any], ...] = base.quantised
        arrays |= {name: array for (name, _), array in zip(_IMAGE, image, strict=True)}
    return arrays


def _pieces(shard: Shard) -> Iterator[bytes | memoryview]:
    """What a file consists of, in its order."""
    parts = {name: array.reshape(-1).view(np.uint8).data for name, array in _arrays(shard).items()}
    parts["terms"] = memoryview(msgspec.msgpack.encode(list(shard.terms)))
    sections, offset = [], 0
    for name, data in parts.items():
        offset = _aligned(offset)
        sections.append(_Section(name, offset, len(data), kernels.crc32(data)))
        offset += len(data)
    header = msgspec.msgpack.encode(
        _Header(
            identity=shard.identity,
            sample=shard.encode(_SAMPLE),
            words=shard.words.name,
            version=shard.version,
            purged_to=shard.purged_to,
            rows=len(shard.base),
            sections=sections,
        )
    )
    prefix = _PREFIX.pack(MAGIC, FORMAT, len(header), kernels.crc32(header))
    written = len(prefix) + len(header)
    yield prefix
    yield header
    for data in parts.values():
        yield bytes(_aligned(written) - written)
        yield data
        written = _aligned(written) + len(data)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(content: memoryview, identity: ShardIdentity, encode: Encode, words: Words, *, int8: bool) -> Shard:
    header, start = _read_header(content)
    if header.identity != identity:
        raise _Damaged(f"it is of {header.identity}, wanted is {identity}")
    if header.sample != encode(_SAMPLE):
        raise _Damaged("its memories are written as another release writes them")
    if header.words != words.name:
        raise _Damaged(f"its terms are those of {header.words}, wanted are those of {words.name}")
    sections = _read_sections(content, header, start)
    terms = Terms(msgspec.msgpack.decode(sections["terms"], type=list[str]))
    base = _block(sections, header.rows, identity.dimensions)
    _check(base, terms, header)
    inverted = Inverted(*(np.frombuffer(sections[name], kind) for name, kind in _INVERTED))
    by_run = np.frombuffer(sections[_BY_RUN[0]], _BY_RUN[1])
    _check_terms(inverted, by_run, header.rows)
    total = np.frombuffer(sections[_TOTAL[0]], _TOTAL[1])
    if len(total) != identity.dimensions:
        raise _Damaged(f"the sum of its vectors has {len(total)} numbers, not {identity.dimensions}")
    return Shard.of_base(
        base,
        terms,
        inverted,
        by_run,
        total,
        identity=identity,
        version=header.version,
        purged_to=header.purged_to,
        encode=encode,
        words=words,
        int8=int8,
    )


def _read_header(content: memoryview) -> tuple[_Header, int]:
    """The header and where the sections begin."""
    if len(content) < _PREFIX.size:
        raise _Damaged("it is shorter than a header")
    magic, number, length, crc = _PREFIX.unpack_from(content)
    if magic != MAGIC:
        raise _Damaged("it does not begin as a snapshot does")
    if number != FORMAT:
        raise _Damaged(f"its format is {number}, this version reads {FORMAT}")
    encoded = content[_PREFIX.size : _PREFIX.size + length]
    if len(encoded) != length or kernels.crc32(encoded) != crc:
        raise _Damaged("its header is damaged")
    return msgspec.msgpack.decode(encoded, type=_Header), _aligned(_PREFIX.size + length)


def _read_sections(content: memoryview, header: _Header, start: int) -> dict[str, memoryview]:
    sections = {}
    end = start
    for section in header.sections:
        first = start + section.offset
        end = first + section.length
        data = content[first:end]
        if first % ALIGNMENT or len(data) != section.length or kernels.crc32(data) != section.crc:
            raise _Damaged(f"its section {section.name} is damaged")
        sections[section.name] = data
    if end != len(content):
        raise _Damaged(f"it has {len(content)} bytes, not {end}")
    names = {"terms", *(name for name, _ in (*_ARRAYS, *_INVERTED, _BY_RUN, _TOTAL))}
    if sections.keys() not in (names, names | {name for name, _ in _IMAGE}):
        raise _Damaged(f"it has the sections {sorted(sections)}")
    return sections


def _block(sections: dict[str, memoryview], rows: int, dimensions: int) -> Block:
    arrays = {name: np.frombuffer(sections[name], kind) for name, kind in _ARRAYS + _IMAGE if name in sections}
    shapes = {"wide": (7, rows), "codes": (7, rows), "vectors": (rows, dimensions), "image_codes": (rows, dimensions)}
    for name, shape in shapes.items():
        if name in arrays:
            arrays[name] = arrays[name].reshape(shape)
    image = None
    if "image_codes" in arrays:
        image = (arrays.pop("image_codes"), arrays.pop("image_scale"), arrays.pop("image_residual_norm"))
    return Block(**arrays, quantised=image)


def _check(base: Block, terms: Terms, header: _Header) -> None:
    """Raise unless a search can read no row wrong."""
    rows = header.rows
    image = base.quantised
    if len(base.ids) != rows or (image is not None and not len(image[1]) == len(image[2]) == rows):
        raise _Damaged(f"a column does not have {rows} rows")
    if (base.ids[1:] <= base.ids[:-1]).any():
        raise _Damaged("its rows are not in order of id")
    if base.wide[VERSION].max(initial=0) > header.version:
        raise _Damaged("a row is newer than its version")
    bounds = (
        (base.wide[FRAGMENT], base.wide[FRAGMENT_END], base.fragments),
        (base.codes[TAGS], base.codes[TAGS_END], base.tags),
        (base.codes[ENTITIES], base.codes[ENTITIES_END], base.entities),
    )
    for starts, ends, values in bounds:
        if (starts < 0).any() or (starts > ends).any() or (ends > len(values)).any():
            raise _Damaged("a row reaches beyond its section")
    for codes, lowest in (
        (base.codes[KIND], 0),
        (base.codes[AGENT : RUN + 1], NO_TERM),
        (base.tags, 0),
        (base.entities, 0),
    ):
        if codes.min(initial=0) < lowest or codes.max(initial=-1) >= len(terms):
            raise _Damaged("a row has an unknown term")


def _check_terms(inverted: Inverted, by_run: NDArray[np.int32], rows: int) -> None:
    """Raise unless a search by terms, or for neighbours, can read no row wrong."""
    keys, starts, holders, counts, lengths = inverted
    if len(lengths) != rows or len(by_run) != rows or len(starts) != len(keys) + 1 or len(counts) != len(holders):
        raise _Damaged("its terms do not fit its rows")
    if (keys[1:] <= keys[:-1]).any() or (starts[1:] < starts[:-1]).any() or (starts[0], starts[-1]) != (0, len(counts)):
        raise _Damaged("its terms are not in order")
    for numbers in (holders, by_run):
        if numbers.min(initial=0) < 0 or numbers.max(initial=-1) >= rows:
            raise _Damaged("a term is in an unknown row")
    if lengths.min(initial=0) < 0:
        raise _Damaged("a row has less than no terms")
