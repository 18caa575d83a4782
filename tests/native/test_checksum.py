"""Checksums: the number that zlib gives, whatever the length, the place in memory and the kind of buffer."""

import mmap
import random
import zlib

import pytest


@pytest.mark.parametrize("length", [*range(200), 1023, 4096, 1_000_003])
def test_it_is_the_crc32_of_zlib(checksums, length):
    """Any length, at any alignment, is the same number."""
    data = random.Random(length).randbytes(length + 3)
    for shift in range(3):
        part = memoryview(data)[shift : shift + length]
        assert checksums.crc32(part) == zlib.crc32(part)
    assert checksums.crc32(bytes(length)) == zlib.crc32(bytes(length))
    assert checksums.crc32(b"\xff" * length) == zlib.crc32(b"\xff" * length)


def test_every_flipped_bit_is_noticed(checksums):
    """No bit of a message can change alone."""
    data = bytearray(random.Random(1).randbytes(307))
    before = checksums.crc32(bytes(data))
    for place in range(8 * len(data)):
        data[place // 8] ^= 1 << place % 8
        assert checksums.crc32(bytes(data)) != before
        data[place // 8] ^= 1 << place % 8


def test_mapped_files_are_read_in_place(checksums, tmp_path):
    """A read-only mapping is a buffer like another."""
    path = tmp_path / "file"
    path.write_bytes(random.Random(2).randbytes(100_001))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    assert checksums.crc32(memoryview(mapped)[64:]) == zlib.crc32(path.read_bytes()[64:])


def test_what_is_not_contiguous_is_refused(checksums):
    """Strided bytes are an error, never a checksum of others."""
    with pytest.raises((ValueError, BufferError)):
        checksums.crc32(memoryview(bytes(1000))[::2])
