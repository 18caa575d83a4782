"""Checksums of what lies on disk: the twin of `_checksum.pyx`, and its type declaration."""

from __future__ import annotations

import zlib

__all__ = ["crc32"]


def crc32(data: bytes | memoryview) -> int:
    """CRC-32 of contiguous bytes, as zlib's: finds every change of up to 32 bits in a row.

    Lets other threads run meanwhile.
    """
    return zlib.crc32(data)
