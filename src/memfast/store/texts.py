"""When two texts are the same: equal after both ends are stripped of white space and both are brought into form NFC."""

from __future__ import annotations

import unicodedata
from zlib import crc32

__all__ = ["hash_text", "normalise"]

_SIGN = 2**31


def normalise(text: str) -> str:
    """The text as it is compared. What is stored stays as it was sent."""
    stripped = text.strip()
    return stripped if stripped.isascii() else unicodedata.normalize("NFC", stripped)


def hash_text(text: str) -> int:
    """What leads to equal texts: the CRC-32 of the normalised text, as a signed 32-bit integer.

    Different texts may share it, so whatever it finds is compared.
    """
    return crc32(normalise(text).encode()) - _SIGN
