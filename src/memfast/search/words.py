"""Texts as index terms: what a memory can be found by, and what a query asks for.

A term is a string. Words are folded (NFKC, case) and stemmed by Snowball; what is written together is one term as a
whole, unstemmed, and each of its parts one more, but for compounds as in `well-known`, which are their parts:

    nginx.conf   nginx.conf nginx conf          ERR-4711      err-4711 err 4711
    getUserName  getusernam get user name       東京都        東京 京都, and in a memory also 東 京 都

Scripts that put no spaces between words (Chinese, Japanese, Korean beside its spaces, Thai and its neighbours) become
pairs of neighbouring characters. Memories also keep the single ones, so that a query of one character finds them.

Function words are indexed but not asked for, unless a query consists of nothing else. The list is short on purpose:
on conversations, words of time, order and degree (`before`, `more`, `again`) say something.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import date
from functools import lru_cache, partial
from itertools import chain
from sys import intern
from typing import NamedTuple, TypeVar, get_args

import Stemmer

from memfast.config import Language
from memfast.model import Memory

__all__ = ["FUNCTION_WORDS", "LANGUAGES", "Words", "words_of"]

LANGUAGES: tuple[Language, ...] = get_args(Language)
"""What words can be stemmed as; `none` leaves them as they are."""

_FUNCTION_WORDS = """
a an the and or but if about as at by for from in into of on to with than then so
i me my mine myself we us our ours ourselves you your yours yourself yourselves
he him his himself she her hers herself it its itself they them their theirs themselves
this that these those such there here what when where who whom whose which why how
am is are was were be been being do does did doing have has had having would could will can should shall might must
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words that are not asked for: articles, pronouns, auxiliaries, a few conjunctions and prepositions."""

REVISION = 1
"""Raised with every change of the terms that a text gives."""

WORD_CHARS_MAX = 64
"""A longer word counts as its beginning."""
WHOLE_CHARS_MAX = 512
"""The same for what is written together."""
STORED_PIECES_MAX = 16_384
"""Pieces of memories, as they stand between spaces, whose terms are remembered; about 250 bytes each."""
ASKED_PIECES_MAX = 4096
"""The same for queries; about 350 bytes each."""
REMEMBERED_CHARS_MAX = 32
"""Longer ones never are."""
DAYS_MAX = 4096
"""Days whose terms are remembered."""

_NAMES = """
January February March April May June July August September October November December
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
"""
_MONTHS, _WEEKDAYS = (line.split() for line in _NAMES.strip().splitlines())
_APOSTROPHES = "\u2019\u02bc"
_UNSPACED = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3040-\u318f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese, Japanese, Korean
    "\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
)
_WORD = rf"[^\s\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f{_UNSPACED}]+"
_JOINT = r"[-._@/:+~=&?%#\\']{1,3}"
_find_runs = re.compile(rf"([{_UNSPACED}]+)|({_WORD}(?:(?:{_JOINT}|(?<=[0-9]),(?=[0-9])){_WORD})*(?:\+\+|#)?)").findall
_find_words = re.compile(_WORD).findall
_split_humps = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])(?![A-Z]s$)").split
_without_clitic = re.compile(r"'(?:s|ll|d|m|re|ve)?$", re.IGNORECASE).sub
_grouped_number = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?").fullmatch
_ordinal = re.compile(r"([0-9]+)(?:st|nd|rd|th)").fullmatch


class _Term(NamedTuple):
    text: str
    function_word: bool = False


_Found = TypeVar("_Found")


class _Memo(dict[str, tuple[_Found, ...]]):
    """What was found by piece of text. Emptied when it is full: the next texts fill it with what is common now."""

    __slots__ = ("_find", "_limit")

    def __init__(self, find: Callable[[str], Iterator[_Found]], limit: int) -> None:
        super().__init__()
        self._find = find
        self._limit = limit

    def __missing__(self, piece: str) -> tuple[_Found, ...]:
        found = tuple(self._find(piece))
        if len(piece) <= REMEMBERED_CHARS_MAX:
            if len(self) >= self._limit:
                self.clear()
            self[piece] = found
        return found

    def of(self, text: str) -> Iterator[_Found]:
        """What is found in the pieces of a text, one behind the other."""
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        return chain.from_iterable(map(self.__getitem__, text.split()))


class Words:
    """The terms of one language. Threads may share one.

    Args:
        language: one of `LANGUAGES`, by which words are stemmed.

    Attributes:
        name: what the terms of a text depend on; terms made under different names do not belong together.

    Raises:
        ValueError: there is no such language.
    """

    def __init__(self, language: Language = "english") -> None:
        if language not in LANGUAGES:
            raise ValueError(f"{language!r} is no language of words; choose one of {', '.join(LANGUAGES)}")
        self.name = f"{REVISION}/{language}/{Stemmer.version()}/{unicodedata.unidata_version}"
        self._stem = _unstemmed if language == "none" else Stemmer.Stemmer(language, 0).stemWord
        self._english = language == "english"
        self._stored = _Memo(self._stored_terms, STORED_PIECES_MAX)
        self._asked = _Memo(partial(self._terms, whole_runs=True), ASKED_PIECES_MAX)
        self._day_terms = lru_cache(DAYS_MAX)(self._terms_of_day)

    def of_text(self, text: str) -> list[str]:
        """The terms of a text in its order, each as often as it occurs."""
        return list(self._stored.of(text))

    def of_memory(self, memory: Memory) -> list[str]:
        """The terms by which a memory is found: of its text, tags, entities and source, and of the day it was made.

        The day is that of `created_at` in UTC, as number, English month, year and weekday, and as one ISO date.
        """
        text = "\n".join((memory.text, *memory.tags, *memory.entities, memory.source or ""))
        return [*self.of_text(text), *self._day_terms(memory.created_at.date())]

    def of_query(self, text: str) -> list[tuple[str, float]]:
        """The terms that a query asks for, in its order; the weight is how often it names each."""
        counts: dict[str, float] = {}
        asked: set[str] = set()
        for term, function_word in self._asked.of(text):
            counts[term] = counts.get(term, 0.0) + 1.0
            if not function_word:
                asked.add(term)
        return [(term, count) for term, count in counts.items() if not asked or term in asked]

    def content_words(self, text: str) -> list[str]:
        """The words of a text in lower case, unstemmed, without function words, each once; what a thesaurus knows."""
        if not text.isascii():
            text = "".join(map(_kept, unicodedata.normalize("NFKC", text)))
        words = dict.fromkeys(map(_folded, _find_words(text)))
        return [word for word in words if not (self._english and word in FUNCTION_WORDS)]

    def term_of(self, word: str) -> str:
        """The term of a single word."""
        return self._term(word).text

    def _terms_of_day(self, day: date) -> tuple[str, ...]:
        words = f"{day.day} {_MONTHS[day.month - 1]} {day.year} {_WEEKDAYS[day.weekday()]}"
        return (*self.of_text(words), day.isoformat())

    def _stored_terms(self, piece: str) -> Iterator[str]:
        return (intern(term.text) for term in self._terms(piece, whole_runs=False))

    def _terms(self, piece: str, *, whole_runs: bool) -> Iterator[_Term]:
        """The terms of what stands between spaces; `whole_runs` leaves single characters out of longer runs."""
        if not piece.isascii():
            piece = "".join(map(_kept, piece))
        for run, together in _find_runs(piece):
            if together:
                yield from self._terms_together(together)
                continue
            yield from (_Term(run[start : start + 2]) for start in range(len(run) - 1))
            if len(run) == 1 or not whole_runs:
                yield from map(_Term, run)

    def _terms_together(self, together: str) -> Iterator[_Term]:
        """The terms of words with nothing but joints between them, or of a single word."""
        if self._english and "'" in together:
            together = _without_clitic("", together)
            if together[-3:].lower() == "n't":
                yield _Term(_folded(together[:WORD_CHARS_MAX]), function_word=True)
                return
        if _grouped_number(together):
            yield _Term(together.replace(",", "")[:WORD_CHARS_MAX])
            return
        words = _find_words(together)
        compound = together.replace("-", "").isalpha()  # a single word, or prose as in `well-known`
        if not compound and words != [together]:
            yield _Term(_folded(together[:WHOLE_CHARS_MAX]))
        for word in words:
            yield from self._terms_of_word(word[:WORD_CHARS_MAX])

    def _terms_of_word(self, word: str) -> Iterator[_Term]:
        """The whole word, for who asks in lower case, and its humps: getUserName as get, user and name."""
        yield self._term(word)
        if self._english and (ordinal := _ordinal(word)):
            yield _Term(ordinal[1])
        if not word.islower() and len(humps := _split_humps(word)) > 1:
            yield from map(self._term, humps)

    def _term(self, word: str) -> _Term:
        folded = _folded(word)
        return _Term(self._stem(folded), self._english and folded in FUNCTION_WORDS)


@lru_cache(len(LANGUAGES))
def words_of(language: Language) -> Words:
    """The terms of a language; all who ask share what is remembered.

    Raises:
        ValueError: there is no such language.
    """
    return Words(language)


def _unstemmed(word: str) -> str:
    return word


def _folded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text.casefold())


def _kept(character: str) -> str:
    """The character where it can be part of a term, nothing where it is invisible, else a space."""
    if character in _APOSTROPHES:
        return "'"
    if character.isalnum() or character.isascii():
        return character
    category = unicodedata.category(character)
    if category[0] == "M":
        return character
    return "" if category == "Cf" else " "
