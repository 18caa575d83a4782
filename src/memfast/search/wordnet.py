"""WordNet, read from its own files: the first sense of a word and what else is called so.

The files are those of Princeton's distribution (`index.noun`, `data.noun`, `noun.exc` and so on; formats wndb(5WN) and
morphy(7WN)), as the Debian package `wordnet-base` puts them into /usr/share/wordnet; Open English WordNet is published
in the same form. They are mapped, not loaded: an index is sorted, and a word is found in it by bisection.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Self

from memfast.errors import ConfigError

__all__ = ["WordNet"]

_ENDINGS = {
    "noun": (
        ("s", ""),
        ("ses", "s"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    "verb": (("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}
"""Morphy's rules of detachment: an inflected ending and what stands for it, by part of speech."""

_KEPT_WORDS = 8192
"""Words whose synonyms are kept, in words: about 1.5 MB."""


class WordNet:
    """A WordNet on disk. Safe to use from several threads; close it, or use it in a `with` block."""

    def __init__(self, folder: Path) -> None:
        """Map the files of `folder`.

        Raises:
            ConfigError: a file is missing, empty or cannot be read.
        """
        self._stack = ExitStack()
        try:
            self._parts = [_Part(folder, name, self._stack) for name in _ENDINGS]
            for part in self._parts:
                part.check()
        except (OSError, ValueError, IndexError) as error:  # ValueError: an empty file cannot be mapped
            self._stack.close()
            raise ConfigError(
                f"{folder} holds no WordNet ({error}): name a folder with its index, data and exception files, "
                "such as /usr/share/wordnet of the Debian package wordnet-base, or leave the setting empty"
            ) from error
        self._kept = lru_cache(_KEPT_WORDS)(self._look_up)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap the files. Safe to call twice."""
        self._stack.close()

    def synonyms(self, word: str) -> tuple[str, ...]:
        """The other words of a word's first sense, in the order of the file.

        Of several parts of speech the one that was met most often in WordNet's tagged texts is taken, so that no
        sense of another part of speech comes in. Collocations of several words are left out.

        Args:
            word: in lower case, inflected or not.
        """
        return self._kept(word)

    def _look_up(self, word: str) -> tuple[str, ...]:
        key = word.encode()
        if not key:
            return ()
        entries = [entry for part in self._parts for entry in part.entries(key)]
        if not entries:
            return ()
        best = max(entries, key=lambda entry: entry.tagged)  # the first of equals: nouns before verbs
        return tuple(
            name.decode() for name in best.part.names(best.offset) if name not in {key, best.lemma} and b"_" not in name
        )


class _Entry:
    """One line of an index, as far as it is used."""

    __slots__ = ("lemma", "offset", "part", "tagged")

    def __init__(self, part: _Part, line: bytes) -> None:
        fields = line.split()
        senses = int(fields[2])
        self.part = part
        self.lemma = fields[0]
        self.tagged = int(fields[-senses - 1])
        self.offset = int(fields[-senses])


class _Part:
    """The three files of one part of speech."""

    def __init__(self, folder: Path, name: str, stack: ExitStack) -> None:
        self._endings = [(ending.encode(), instead.encode()) for ending, instead in _ENDINGS[name]]
        self._index = _map(folder / f"index.{name}", stack)
        self._data = _map(folder / f"data.{name}", stack)
        self._exceptions = _map(folder / f"{name}.exc", stack)

    def check(self) -> None:
        """Look the last word up.

        Raises:
            ValueError, IndexError: the files are of another form, or do not belong together.
        """
        entry = _Entry(self, _line(self._index, len(self._index) - 1))
        if entry.lemma not in self.names(entry.offset):
            raise ValueError(f"index and data disagree about {entry.lemma.decode()!r}")

    def entries(self, word: bytes) -> Iterator[_Entry]:
        """The entry of a word's base form, if any."""
        for base in self._bases(word):
            line = _find(self._index, base)
            if line:
                yield _Entry(self, line)
                return

    def names(self, offset: int) -> list[bytes]:
        """The words of the synset at `offset`, in lower case, without the marks of adjectives' places."""
        fields = self._data[offset : self._data.find(b"|", offset)].split()
        count = int(fields[3], 16)
        return [name.partition(b"(")[0].lower() for name in fields[4 : 4 + 2 * count : 2]]

    def _bases(self, word: bytes) -> Iterator[bytes]:
        yield word
        irregular = _find(self._exceptions, word)
        if irregular:
            yield from irregular.split()[1:]
            return
        for ending, instead in self._endings:
            if word.endswith(ending) and len(word) > len(ending):
                yield word[: -len(ending)] + instead


def _map(path: Path, stack: ExitStack) -> mmap.mmap:
    with path.open("rb") as file:
        return stack.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _find(lines: mmap.mmap, key: bytes) -> bytes:
    """The line of a sorted file whose first field is `key`, or nothing. The licence's lines begin with a space."""
    at = bisect_left(range(len(lines)), key, key=lambda place: _line(lines, place).partition(b" ")[0])
    if at == len(lines):
        return b""
    line = _line(lines, at)
    return line if line.partition(b" ")[0] == key else b""


def _line(lines: mmap.mmap, place: int) -> bytes:
    """The line that holds the byte at `place`."""
    end = lines.find(b"\n", place)
    return lines[lines.rfind(b"\n", 0, place) + 1 : end if end >= 0 else len(lines)]
