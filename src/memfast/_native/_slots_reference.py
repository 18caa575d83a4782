"""Epochs that the workers of one host share: the twin of `_slots.pyx`, and its type declaration.

A file-backed mapping of 64-bit counters behind a header page. Slot 0 is the global epoch; every scope has one of
the others, by a keyed hash, so nobody without the salt can aim at another's slot. Counters only grow.

The compiled twin counts atomically, over threads and processes. **This one does not**: it serves one worker only.
Both read and write the same file.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from pathlib import Path
from typing import Self

__all__ = ["COUNT_MAX", "HEADER_BYTES", "SlotTable", "siphash24"]

MAGIC = b"MEMFSLOT"
FORMAT = 1
HEADER_BYTES = 4096
COUNT_MAX = 2**24
ID_BYTES = 16
"""Length of a scope id and of the salt."""
HEADER = struct.Struct("=8sIIQ16s")
"""Magic, format, size of the header, number of counters, salt."""
CLOSED = "the slot table is closed"

MASK = 2**64 - 1


class SlotTable:
    """Shared counters, mapped from a file that `create` made.

    Args:
        path: the file; the same one in every worker.

    Raises:
        ValueError: the file is no slot table, or is damaged.
        OSError: it cannot be opened or mapped.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file, self._mapping, self._count, self._salt = open_table(path)
        self._bytes = memoryview(self._mapping)
        self._words = self._bytes.cast("Q")

    @classmethod
    def create(cls, path: str | os.PathLike[str], count: int, salt: bytes) -> Self:
        """Make the file, allocated in full, and open it; the parent does so before its workers start.

        Args:
            path: where it shall be, best under /dev/shm.
            count: counters, 2 to `COUNT_MAX`; a collision of two scopes costs misses, nothing else.
            salt: 16 secret bytes.

        Raises:
            FileExistsError: there is one; it may be in use, so it is never replaced. Open it, or remove it
                once no process can have it mapped.
            ValueError: `count` or `salt` is out of range.
            OSError: there is no room, or no permission.
        """
        create_table(path, count, salt)
        return cls(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a table that exists."""
        return cls(path)

    @property
    def count(self) -> int:
        """Counters in the table, the global one included."""
        return self._count

    @property
    def salt(self) -> bytes:
        """The key of the hash."""
        return self._salt

    def epoch(self, index: int) -> int:
        """Return a counter.

        Raises:
            IndexError: there is no such slot.
            ValueError: the table is closed.
        """
        return self._words[self._place(index)]

    def bump(self, index: int) -> int:
        """Add one to a counter and return what it is now; errors as `epoch`."""
        place = self._place(index)
        self._words[place] += 1
        return self._words[place]

    def index_of(self, scope_id: bytes) -> int:
        """Return the slot of a scope, 1 to count - 1.

        Raises:
            ValueError: the id has not 16 bytes.
        """
        if len(scope_id) != ID_BYTES:
            raise ValueError(f"scope_id has {len(scope_id)} bytes; {ID_BYTES} are wanted")
        return 1 + ((siphash24(self._salt, scope_id) >> 32) * (self._count - 1) >> 32)

    def close(self) -> None:
        """Unmap the file; a second time does nothing."""
        if not self._mapping.closed:
            self._words.release()
            self._bytes.release()
            self._mapping.close()
            os.close(self._file)

    def _place(self, index: int) -> int:
        if self._mapping.closed:
            raise ValueError(CLOSED)
        if not 0 <= index < self._count:
            raise IndexError(no_such_slot(index, self._count))
        return HEADER_BYTES // 8 + index


def create_table(path: str | os.PathLike[str], count: int, salt: bytes) -> None:
    """Write a table of zeros beside its place, and link it there unless there is one."""
    if not 2 <= count <= COUNT_MAX:
        raise ValueError(f"count is {count}; it must be 2 to {COUNT_MAX}")
    if len(salt) != ID_BYTES:
        raise ValueError(f"salt has {len(salt)} bytes; {ID_BYTES} are wanted")
    file, temporary = tempfile.mkstemp(prefix=Path(path).name, dir=Path(path).parent)
    try:
        # Allocated in full: a write to a hole of a full file system would end the process by SIGBUS.
        os.posix_fallocate(file, 0, HEADER_BYTES + 8 * count)
        os.pwrite(file, HEADER.pack(MAGIC, FORMAT, HEADER_BYTES, count, salt), 0)
        os.link(temporary, path)
    finally:
        Path(temporary).unlink()
        os.close(file)


def open_table(path: str | os.PathLike[str]) -> tuple[int, mmap.mmap, int, bytes]:
    """Open, check and map a table; return its descriptor, mapping, number of counters and salt."""
    file = os.open(path, os.O_RDWR)
    try:
        count, salt = read_header(path, file)
        return file, mmap.mmap(file, HEADER_BYTES + 8 * count), count, salt
    except BaseException:
        os.close(file)
        raise


def read_header(path: str | os.PathLike[str], file: int) -> tuple[int, bytes]:
    """Return number of counters and salt, or raise ValueError."""
    head = os.pread(file, HEADER.size, 0)
    size = os.fstat(file).st_size
    if len(head) < HEADER.size:
        raise ValueError(refusal(path, f"it has {size} bytes"))
    magic, version, header_bytes, count, salt = HEADER.unpack(head)
    if magic != MAGIC:
        raise ValueError(refusal(path, f"it begins with {magic!r}"))
    if (version, header_bytes) != (FORMAT, HEADER_BYTES):
        raise ValueError(refusal(path, f"it has the format {version} and a header of {header_bytes} bytes"))
    if not 2 <= count <= COUNT_MAX or size != HEADER_BYTES + 8 * count:
        raise ValueError(refusal(path, f"it names {count} counters and has {size} bytes"))
    return count, salt


def refusal(path: str | os.PathLike[str], reason: str) -> str:
    """Say why a file is not taken, and what to do."""
    return f"{os.fspath(path)} is not a slot table: {reason}; remove it while no service runs"


def no_such_slot(index: int, count: int) -> str:
    """Say which slot is missing."""
    return f"slot {index} is not one of 0 to {count - 1}"


def siphash24(key: bytes, message: bytes) -> int:
    """Return SipHash-2-4 of a message under a key of 16 bytes (Aumasson and Bernstein, 2012)."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]
    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        sip_rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    sip_rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def sip_rounds(v: list[int], count: int) -> None:
    """Mix the state so many times."""
    for _ in range(count):
        v[0] = (v[0] + v[1]) & MASK
        v[1] = rotate(v[1], 13) ^ v[0]
        v[0] = rotate(v[0], 32)
        v[2] = (v[2] + v[3]) & MASK
        v[3] = rotate(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & MASK
        v[3] = rotate(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & MASK
        v[1] = rotate(v[1], 17) ^ v[2]
        v[2] = rotate(v[2], 32)


def rotate(word: int, bits: int) -> int:
    """Rotate 64 bits to the left."""
    return (word << bits | word >> (64 - bits)) & MASK
