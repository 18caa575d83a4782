"""Answers that fit into a number of tokens."""

import importlib.util
import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from memfast.mcp.budget import PREVIEW_TOKENS, fit, fitting, shorten, tokens_of
from memfast.mcp.reading import full_memory
from memfast.mcp.wire import FoundMemory, RelatedMemory
from memfast.model import Memory

ID = UUID("88888888-8888-8888-8888-888888888888")  # digits count most
TEXTS = st.text(max_size=400) | st.text('ab \n"\\é猫😀0', max_size=2000)

PROSE = {
    "english": "I am allergic to peanuts, and on Tuesdays I take the 7:42 train to Turin with my sister Ada.",
    "german": "Ich bin gegen Erdnüsse allergisch; dienstags fahre ich mit meiner Schwester nach Turin.",
    "russian": "Мне нельзя есть арахис, по вторникам мы ездим вместе поездом до Турина.",
    "chinese": "我对花生过敏 每周二和妹妹一起坐火车去都灵。",
    "hindi": "मुझे मूंगफली से एलर्जी है और मैं मंगलवार को बहन के साथ ट्यूरिन जाता हूँ।",
    "thai": "ฉันแพ้ถั่วลิสง และทุกวันอังคารฉันนั่งรถไฟไปตูรินกับน้องสาว",
    "emoji": "Peanuts 🥜 are bad for me 🤧, cats 🐈‍⬛ are fine 👍🏽.",
    "code": "def recall(query: str, limit: int = 10) -> list[dict[str, Any]]:\n    return search(query)[:limit]\n",
    "answer": json.dumps(
        [{"id": str(ID), "text": "Lives in Rome since March.", "created_at": "2026-11-21", "score": 0.61}] * 5
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    """The tokeniser that comes with the default embedder: 32,000 tokens, fewer than newer ones have."""
    found = Tokenizer.from_file(
        str(next(Path(importlib.util.find_spec("wordllama").origin).parent.rglob("*tokenizer*.json")))
    )
    found.no_truncation()
    found.no_padding()
    return found


@pytest.mark.parametrize("name", PROSE)
def test_a_real_tokenizer_needs_no_more(tokenizer, name):
    """What people and programs write takes at most as many tokens as are counted, in a real vocabulary."""
    text = PROSE[name] * 3
    assert len(tokenizer.encode(text, add_special_tokens=False).ids) <= tokens_of(text.encode())


def test_english_is_not_counted_twice_over():
    """The bound is not so high that half of the room is lost."""
    text = PROSE["english"].encode()
    assert tokens_of(text) < len(text) / 2


@given(TEXTS, TEXTS)
def test_parts_count_at_least_as_much_as_the_whole(one, other):
    """So bounds of parts are a bound of what is made of them; and no text counts less than its beginning."""
    one, other = one.encode(), other.encode()
    assert tokens_of(one) <= tokens_of(one + other) <= tokens_of(one) + tokens_of(other)


@given(TEXTS, st.integers(-5, 300))
def test_the_longest_beginning_that_fits_is_taken(text, tokens):
    """What is given fits, and one character more would not."""
    taken = fit(text, tokens)
    size = tokens_of(msgspec.json.encode(taken)) - 2
    assert text.startswith(taken)
    assert size <= max(tokens, 0)
    if taken != text:
        assert tokens_of(msgspec.json.encode(text[: len(taken) + 1])) - 2 > tokens


@settings(max_examples=200)
@given(st.lists(TEXTS, max_size=30), st.integers(150, 3000), st.floats(0, 1))
def test_previews_never_exceed_their_room(texts, tokens, score):
    """However long the texts are, a list of previews takes no more than its room, and each says when it was cut."""
    texts = texts[: fitting(100, tokens)]
    given_ = [FoundMemory(id=ID, text=text, created_at="2026-11-21", score=score) for text in texts]
    shortened = shorten(given_, tokens)
    assert tokens_of(msgspec.json.encode(shortened)[1:-1]) <= tokens
    for before, after in zip(given_, shortened, strict=True):
        assert after.cut == (after.text != before.text)
        assert before.text.startswith(after.text)


def test_short_memories_leave_room_to_long_ones():
    """Room that one text does not need is for those that follow."""
    given_ = [FoundMemory(id=ID, text=text, created_at="2026-11-21", score=0.5) for text in ("a", "b", "c " * 600)]
    first, second, last = shorten(given_, 600)
    assert (first.cut, second.cut, last.cut) == (False, False, True)
    assert tokens_of(last.text.encode()) > 300


def test_a_preview_has_room_for_more_than_its_frame():
    """What stands around a text is so little that every preview has some text, for the longest numbers too."""
    frames = (
        FoundMemory(id=ID, text="", cut=True, created_at="2026-11-21", score=0.123456),
        RelatedMemory(id=ID, text="", cut=True, created_at="2026-11-21", depth=4, weight=0.123456),
    )
    assert all(tokens_of(msgspec.json.encode(frame)) + 10 <= PREVIEW_TOKENS for frame in frames)


NAMES = st.text(min_size=1, max_size=512)


@settings(max_examples=200, deadline=None)
@given(
    st.text(min_size=1, max_size=3000),
    st.integers(0, 4000),
    st.integers(400, 3000),
    NAMES,
    NAMES,
    st.lists(st.text(min_size=1, max_size=128), max_size=64),
    st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=20),
)
def test_a_whole_memory_fits_and_says_what_is_left_out(text, offset, tokens, kind, source, tags, metadata):
    """An answer of any memory fits; what has no room is named, and the text goes on where it says."""
    now = datetime(2026, 11, 21, 1, 2, 3, 456789, tzinfo=UTC)
    memory = Memory(
        id=ID, user_id="ada", text=text, kind=kind, tags=tags, entities=tags, importance=0.123456,
        metadata=msgspec.Raw(msgspec.json.encode(metadata)), agent_id=source, run_id=source, source=source,
        created_at=now, updated_at=now, expires_at=now, version=123_456_789,
    )  # fmt: skip
    answer = full_memory(memory, offset, tokens)
    body = msgspec.json.encode(answer)
    assert tokens_of(body) <= tokens
    told = json.loads(body)
    assert text[offset:].startswith(told["text"])
    assert ("next_offset" in told) == (len(text[offset:]) > len(told["text"]))
    if "next_offset" in told:
        assert told["next_offset"] == offset + len(told["text"])
        assert told["text"], "the text goes on with every answer"
    for name in ("kind", "source", "agent_id", "run_id", "expires_at"):
        assert (name in told) != (name in told.get("left_out", []))
