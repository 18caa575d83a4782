"""Tokens: what is written is read back, and nothing else is read."""

from uuid import UUID

import pytest

from memfast.service.tokens import Token, read_token, write_token

LINEAGE = UUID(int=77)


@pytest.mark.parametrize("version", [0, 1, 10**18 - 1])
def test_a_token_is_read_as_it_was_written(version):
    """Lineage and version come back."""
    assert read_token(write_token(Token(LINEAGE, version))) == Token(LINEAGE, version)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"7",
        b".7",
        b"x" * 32 + b".7",
        LINEAGE.hex.encode(),
        LINEAGE.hex.encode() + b".",
        LINEAGE.hex.encode() + b".-1",
    ]
    + [LINEAGE.hex.encode() + end for end in (b".01", b".1 ", b".1\n", b".1.1", b"." + b"9" * 19, b".\xff")]
    + [b" " + LINEAGE.hex.encode() + b".1", LINEAGE.hex.upper().encode() + b".A", str(LINEAGE).encode() + b".1"],
)
def test_nothing_else_is_a_token(text):
    """Neither part may be missing, in another form, or followed by anything."""
    assert read_token(text) is None
