"""What a memory can be found by, and what a query asks for."""

from collections import Counter
from datetime import UTC, datetime

import pytest
import Stemmer
from hypothesis import given
from hypothesis import strategies as st

from memfast.model import Memory
from memfast.search import words
from memfast.search.words import FUNCTION_WORDS, LANGUAGES, Words
from memory_world import memory_of

ENGLISH = Words()
PLAIN = Words("none")

TERMS = {
    "Running dogs": ["run", "dog"],
    "foo_bar.baz": ["foo_bar.baz", "foo", "bar", "baz"],
    "ERR-4711": ["err-4711", "err", "4711"],
    "(bob.smith@example.com),": ["bob.smith@example.com", "bob", "smith", "exampl", "com"],
    "https://example.com/a?q=1": ["https://example.com/a?q=1", "https", "exampl", "com", "a", "q", "1"],
    "/etc/nginx/nginx.conf": ["etc/nginx/nginx.conf", "etc", "nginx", "nginx", "conf"],
    "1.2.3": ["1.2.3", "1", "2", "3"],
    "1,234,567.8 and 1,2": ["1234567.8", "and", "1,2", "1", "2"],
    "getUserName": ["getusernam", "get", "user", "name"],
    "HTTPServer URLs": ["httpserver", "http", "server", "url"],
    "C++ C#.": ["c++", "c", "c#", "c"],
    "well-known": ["well", "known"],
    "covid-19": ["covid-19", "covid", "19"],
    "the 8th": ["the", "8th", "8"],
    "Ann\u2019s don't O'Neil": ["ann", "don't", "o'neil", "o", "neil"],
    "wait...what": ["wait...what", "wait", "what"],
    "東京都": ["東京", "京都", "東", "京", "都"],
    "猫 CATS猫": ["猫", "cat", "猫"],
    "한국어": ["한국", "국어", "한", "국", "어"],
    "ｶﾀｶﾅ \uff21\uff22\uff23": ["カタ", "タカ", "カナ", "カ", "タ", "カ", "ナ", "abc"],
    "ภาษา": ["ภา", "าษ", "ษา", "ภ", "า", "ษ", "า"],
    "हिन्दी": ["हिन्दी"],
    "STRASSE Straße": ["strass", "strass"],
    "soft\u00adware cafe\u0301": ["softwar", "café"],
    "!? \u2026 \U0001f600 \x00": [],
    "": [],
}


@pytest.mark.parametrize("text", TERMS)
def test_terms_of_a_text(text):
    """Words are folded and stemmed, identifiers stand whole and in parts, unspaced scripts in pairs."""
    assert ENGLISH.of_text(text) == TERMS[text]
    assert ENGLISH.of_text(text) == TERMS[text], "the second time, remembered"


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("What did Ann paint?", ["ann", "paint"]),
        ("Where is ERR-4711", ["err-4711", "err", "4711"]),
        ("who are you", ["who", "are", "you"]),
        ("isn't", ["isn't"]),
        ("willing will", ["will", "will"]),
        ("to_do or not", ["to_do", "not"]),
        ("paint a painting", ["paint", "paint"]),
        ("東京都", ["東京", "京都"]),
        ("猫", ["猫"]),
        ("?", []),
    ],
)
def test_terms_of_a_query(query, terms):
    """Function words are not asked for unless there is nothing else; of a run of characters only pairs are."""
    assert ENGLISH.of_query(query) == [(term, float(count)) for term, count in Counter(terms).items()]


@given(st.text() | st.text("aZ1.-_'@/:#+ ,東京한ภ\u0301\u200d\u2019\ufdfaİßﬁ½", max_size=40))
def test_every_text_is_found_by_itself(text):
    """Whatever a query asks for stands in a memory of the same text, and terms are neither empty nor spaced."""
    for each in (ENGLISH, PLAIN):
        terms = each.of_text(text)
        assert {term for term, _ in each.of_query(text)} <= set(terms)
        assert all(term and not any(map(str.isspace, term)) for term in terms)
        assert bool(each.of_query(text)) == bool(terms)


def test_words_for_a_thesaurus():
    """Content words come as they were written, and each has a term."""
    assert ENGLISH.content_words("What are the Paintings of foo_bar, paintings\u2019 caf\u00e9 東京?") == [
        "paintings",
        "foo",
        "bar",
        "caf\u00e9",
    ]
    assert ENGLISH.term_of("Paintings") == "paint"
    assert PLAIN.content_words("The End") == ["the", "end"]


def memory(**fields) -> Memory:
    """A memory made on a Monday."""
    at = datetime(2023, 5, 8, 23, 59, tzinfo=UTC)
    return memory_of(at, updated_at=at.replace(year=2024), **fields)


def test_terms_of_a_memory():
    """A memory is found by its text, tags, entities and source, and by the day on which it was made."""
    day = ["8", "may", "2023", "monday", "2023-05-08"]
    full = memory(text="Ann paints", tags=["home", "to-do"], entities=["Ann Lee"], source="chat")
    assert ENGLISH.of_memory(full) == ["ann", "paint", "home", "to", "do", "ann", "lee", "chat", *day]
    assert ENGLISH.of_memory(memory()) == day
    assert set(dict(ENGLISH.of_query("Monday, May 8th 2023"))) < {*day, "8th"}


def test_languages():
    """Each language stems its own way, only English knows function words, and an unknown one is refused."""
    assert Words("german").of_query("die Häuser") == [("die", 1.0), ("haus", 1.0)]
    assert "avion" in Words("french").of_text("l'avion")
    assert PLAIN.of_query("the Houses") == [("the", 1.0), ("houses", 1.0)]
    assert set(LANGUAGES) == {"none", *Stemmer.algorithms()} - {"porter", "dutch_porter"}
    assert len({Words(language).name for language in LANGUAGES}) == len(LANGUAGES)
    assert all(word == word.lower() for word in FUNCTION_WORDS)
    with pytest.raises(ValueError, match=r"'klingon' is no language of words; choose one of none, arabic"):
        Words("klingon")


def test_what_is_remembered_is_bounded(monkeypatch):
    """Neither many pieces of text nor long ones fill the memory, and nothing changes by forgetting."""
    monkeypatch.setattr(words, "STORED_PIECES_MAX", 10)
    each = Words()
    assert each.of_text(" ".join(f"w{number}" for number in range(95))) == [f"w{number}" for number in range(95)]
    assert len(each._stored) == 5
    each.of_text("x" * 33)
    assert len(each._stored) == 5
    assert each.of_text("x" * 5000) == ["x" * words.WORD_CHARS_MAX]
    assert len(each.of_text("a_" * 5000)[0]) == words.WHOLE_CHARS_MAX
