"""The LoCoMo conversations as memories and questions (Maharana et al. 2024, snap-research/locomo)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["CATEGORIES", "Conversation", "Question", "Turn", "evidence_ids", "read"]

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "adversarial"}

_SESSION = re.compile(r"session_(\d+)")
_TURN_ID = re.compile(r"D:?(\d+):(\d+)")


@dataclass(frozen=True)
class Turn:
    """What somebody said, once."""

    id: str
    session: str
    text: str
    said_at: datetime


@dataclass(frozen=True)
class Question:
    """A question and the ids of the turns that answer it; an id that names no turn can only be missed."""

    text: str
    category: int
    evidence: frozenset[str]


@dataclass(frozen=True)
class Conversation:
    """The turns of two people over months, and what one may ask about them."""

    id: str
    turns: list[Turn]
    questions: list[Question]


def read(path: Path) -> list[Conversation]:
    """Read the published file. Questions without evidence are left out: nothing could be found for them."""
    return [_conversation(sample) for sample in msgspec.json.decode(path.read_bytes())]


def evidence_ids(entries: list[str]) -> frozenset[str]:
    """The turns that an annotator named.

    Some entries hold several ids ("D8:6; D9:17"), some have a colon too many ("D:11:26"), some leading zeros. One
    that holds no id ("D") stays as it is.
    """
    ids: set[str] = set()
    for entry in entries:
        found = [f"D{int(session)}:{int(turn)}" for session, turn in _TURN_ID.findall(entry)]
        ids.update(found or [entry])
    return frozenset(ids)


def _conversation(sample: dict[str, Any]) -> Conversation:
    questions = [
        Question(entry["question"], entry["category"], evidence_ids(entry["evidence"]))
        for entry in sample["qa"]
        if entry.get("evidence")
    ]
    return Conversation(sample["sample_id"], _turns(sample["conversation"]), questions)


def _turns(conversation: dict[str, Any]) -> list[Turn]:
    """The sessions in order; each begins at its date, and each turn a second after the one before."""
    sessions = sorted((int(match[1]), name) for name in conversation if (match := _SESSION.fullmatch(name)))
    turns: list[Turn] = []
    for _, session in sessions:
        date = conversation[f"{session}_date_time"]
        began_at = datetime.strptime(date, "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
        turns.extend(
            Turn(entry["dia_id"], session, _text(entry), began_at + timedelta(seconds=second))
            for second, entry in enumerate(conversation[session])
        )
    return turns


def _text(entry: dict[str, Any]) -> str:
    """Who said what, and what the photo shows where one was shared."""
    caption = entry.get("blip_caption")
    return f"{entry['speaker']}: {entry['text']}" + (f" ({caption})" if caption else "")
