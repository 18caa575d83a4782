"""Noticing that a server is not the one that was seen last."""

from __future__ import annotations

from uuid import UUID

import pytest

from memfast.store.life import Note, ServerLife, last_note, write_note

SEEN = ServerLife("7710", 1, 1000)
NOTE = Note(UUID(int=1), [UUID(int=2)], SEEN)


@pytest.mark.parametrize(
    ("now", "same"),
    [
        (ServerLife("7710", 1, 1000), True),
        (ServerLife("7710", 1, 2000), True),
        (ServerLife("7710", 1, 999), False),
        (ServerLife("7710", 2, 2000), False),
        (ServerLife("7711", 1, 2000), False),
    ],
)
def test_only_the_same_server_further_on_continues(now, same):
    """An older log, another timeline or another system is another life."""
    assert now.continues(SEEN) is same


def test_a_note_is_read_back(tmp_path):
    """What was noted last is what is read."""
    later = Note(NOTE.service, [UUID(int=3)], ServerLife("7710", 1, 2000))
    write_note(tmp_path / "life", NOTE)
    write_note(tmp_path / "life", later)
    assert last_note(tmp_path / "life") == later
    assert [path.name for path in tmp_path.iterdir()] == ["life"]


def test_a_missing_or_damaged_note_is_none(tmp_path, caplog):
    """Without a readable note there is no last life; a damaged one is said to be ignored."""
    assert last_note(tmp_path / "life") is None
    (tmp_path / "life").write_bytes(b"{")
    assert last_note(tmp_path / "life") is None
    assert "ignored" in caplog.text


def test_a_note_that_cannot_be_written_costs_nothing(tmp_path):
    """A disk that is gone must not stop the service."""
    write_note(tmp_path / "missing" / "life", NOTE)
    assert not (tmp_path / "missing").exists()
