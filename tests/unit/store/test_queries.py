"""The SQL files: split by name, and every statement used."""

import re
from pathlib import Path

import pytest

import memfast
from memfast.store import queries
from memfast.store.queries import parse

SOURCE = Path(memfast.__file__).parent
FILES = sorted((SOURCE / "store" / "sql").glob("*.sql"))
PARTS = {"conditions.sql"}
"""Parts of statements, whose names are put together; `test_conditions` knows that each is used."""


def test_statements_are_split_by_their_names():
    """Comments and the last semicolon go, everything else stays as it is."""
    text = "-- About.\n\n-- name: one\n-- Why.\nSELECT 1,\n    '; -- not a comment';\n\n-- name: two_2\nSELECT 2;\n-- End.\n"
    assert parse(text) == {"one": "SELECT 1,\n    '; -- not a comment'", "two_2": "SELECT 2"}


@pytest.mark.parametrize("text", ["", "-- only a comment\n", "SELECT 1;\n"])
def test_a_text_without_names_has_no_statements(text):
    """What stands before the first name is not a statement."""
    assert parse(text) == {}


def test_a_name_that_is_given_twice_is_refused():
    """The second would silently win."""
    with pytest.raises(ValueError, match="two statements are named one"):
        parse("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")


@pytest.mark.parametrize("file", [file for file in FILES if file.name not in PARTS], ids=lambda file: file.name)
def test_every_statement_of_a_file_is_one_statement_that_somebody_uses(file):
    """Nothing empty, nothing hidden behind a semicolon, nothing forgotten."""
    statements = parse(file.read_text(encoding="utf-8"))
    assert statements
    code = "".join(path.read_text(encoding="utf-8") for path in (SOURCE / "store").rglob("*.py"))
    for name, statement in statements.items():
        assert statement
        assert ";" not in statement
        assert re.search(
            rf"\b(READ|WRITE|ADMIN|ACCESS|CATALOGUE|FORGET|LINKS|OUTBOX|REEMBED|TRANSFER)\.{name}\b", code
        ), f"{name} is used by nobody"


def test_every_file_is_loaded():
    """A file's statements are attributes of a namespace of its name."""
    for file in FILES:
        loaded = getattr(queries, file.stem.upper())
        assert vars(loaded) == parse(file.read_text(encoding="utf-8"))
