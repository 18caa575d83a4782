"""Texts as Llama 2 tokens, a word at a time: words that came lately are not tokenised again.

No token of that vocabulary has a space behind anything else, and none has a digit beside anything else. So merges never
cross the border before a space, the tokens of a text are those of its words one behind the other, and a number is its
digits. Tokenising a word takes 4 µs or more, looking it up 50 ns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Any

from msgspec import Struct

from memfast.embedding.batch import text_cost

__all__ = ["REMEMBERED_CHARS_MAX", "REMEMBERED_MAX", "Parts", "Tokens"]

REMEMBERED_MAX = 16_384
"""Words whose tokens are remembered; about 250 bytes each. Emptied when full: the next texts fill it again."""
REMEMBERED_CHARS_MAX = 32
"""Longer ones never are."""

_WORD_OVERHEAD = 12
"""What tokenising a word costs besides its bytes, in bytes: about 4 µs."""
_find_spaced = re.compile(r" +[^ ]*").findall
_find_special = re.compile(r"</?s>|<unk>").search
_SPACE_SIGN = "▁"
"""What the tokeniser puts in the place of a space. A text that brings one itself is tokenised as a whole."""


class Parts(Struct, frozen=True):
    """Texts as words, and the tokens of those that are known.

    Attributes:
        words: of each text; what stands behind a space each, so that the tokens of a word have a space before it.
        tokens: of each distinct word, None where they are to be found.
        unknown: words that must be tokenised.
    """

    words: list[list[str]]
    tokens: dict[str, list[int] | None]
    unknown: list[str]

    @property
    def cost(self) -> int:
        """About how many bytes must be tokenised."""
        return sum(map(text_cost, self.unknown)) + _WORD_OVERHEAD * len(self.unknown)


class Tokens:
    """A tokeniser that remembers words. Threads may share one.

    Args:
        tokenizer: Llama 2's, without padding and truncation.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        self._digits = dict(zip(" 0123456789", self._of_whole("0123456789"), strict=True))

    def parts(self, texts: Iterable[str]) -> Parts:
        """Cut texts into words and look those up."""
        words = [_words(text) for text in texts]
        known, digits = self._known, self._digits
        tokens: dict[str, list[int] | None] = {word: known.get(word) for word in set[str]().union(*words)}
        unknown = []
        for word, found in tokens.items():
            if found is not None:
                continue
            if not word or (word.isascii() and word.isdigit()):
                tokens[word] = [digits[character] for character in f" {word}"]
            else:
                unknown.append(word)
        return Parts(words, tokens, unknown)

    def inline(self, parts: Parts) -> list[list[int]]:
        """The tokens of each text, found in the calling thread alone, which keeps the GIL and wakes no other."""
        return self._joined(parts, map(self._of_whole, parts.unknown))

    def chunk(self, parts: Parts) -> list[list[int]]:
        """The same with the GIL released while unknown words are tokenised, for which all cores are used."""
        encodings = self.tokenizer.encode_batch_fast(parts.unknown, add_special_tokens=False) if parts.unknown else ()
        return self._joined(parts, (encoding.ids for encoding in encodings))

    def _joined(self, parts: Parts, found: Iterable[list[int]]) -> list[list[int]]:
        tokens: dict[str, Any] = parts.tokens
        for word, ids in zip(parts.unknown, found, strict=True):
            tokens[word] = ids
            if len(word) <= REMEMBERED_CHARS_MAX:
                if len(self._known) >= REMEMBERED_MAX:
                    self._known.clear()
                self._known[word] = ids
        return [list(chain.from_iterable(map(tokens.__getitem__, words))) for words in parts.words]

    def _of_whole(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def _words(text: str) -> list[str]:
    if not text:
        return []
    if _SPACE_SIGN in text or ("<" in text and _find_special(text)):
        return [text]
    if "  " not in text and text[0] != " " and text[-1] != " ":
        return text.split(" ")
    return [word[1:] for word in _find_spaced(f" {text}")]
