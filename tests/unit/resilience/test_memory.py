"""What a process knows of its own memory."""

from __future__ import annotations

from memfast.resilience.memory import give_back, resident_bytes


def test_resident_bytes_follow_what_is_touched():
    """64 MiB that were written are resident, and gone when given back."""
    before = resident_bytes()
    block = bytearray(b"x" * (64 << 20))
    held = resident_bytes()
    assert held - before > 60 << 20
    del block
    give_back()
    assert held - resident_bytes() > 60 << 20
