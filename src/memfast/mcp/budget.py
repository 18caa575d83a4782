"""Answers that fit into a number of tokens, whichever model reads them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Annotated, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

__all__ = ["PREVIEW_TOKENS", "Preview", "fit", "fitting", "shorten", "tokens_of"]

PREVIEW_TOKENS = 130
"""Room that every memory of an answer has at least: what stands around its text takes up to 110."""

_CHEAP = (string.ascii_letters + " ").encode()
_CHEAP_BYTES = 3

_encode = msgspec.json.Encoder().encode


class Preview(Struct, kw_only=True, omit_defaults=True):
    """A memory as far as there is room for its text."""

    id: UUID
    text: str
    cut: Annotated[bool, Meta(description="the text goes on: get it by its id")] = False
    created_at: Annotated[str, Meta(description="the day, in UTC")]


_P = TypeVar("_P", bound=Preview)


def tokens_of(data: bytes) -> int:
    """How many tokens UTF-8 text has at most: one for three letters of ASCII or blanks, one for every other byte.

    An estimate from above for what people and programs write, in any script (docs/mcp.md has figures). A tokeniser
    needs more only for letters without any sense, and never more than one token a byte.
    """
    dear = len(data.translate(None, _CHEAP))
    return dear - (dear - len(data)) // _CHEAP_BYTES


def fit(text: str, tokens: int) -> str:
    """The longest beginning of a text that takes at most so many tokens between the quotes of JSON."""
    low, high = 0, min(len(text), max(0, _CHEAP_BYTES * tokens))
    if high == len(text) and tokens_of(_encode(text)) - 2 <= tokens:
        return text
    while low < high:
        middle = (low + high + 1) // 2
        if tokens_of(_encode(text[:middle])) - 2 <= tokens:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def fitting(limit: int, tokens: int) -> int:
    """As many of `limit` memories as have room in so many tokens, one at least."""
    return max(1, min(limit, tokens // PREVIEW_TOKENS))


def shorten(previews: Sequence[_P], tokens: int) -> list[_P]:
    """The same memories with texts so short that together they take at most so many tokens as a JSON list's elements.

    Each may take an equal part of what those before it have left. There must be room: see `fitting`.
    """
    shortened: list[_P] = []
    for number, preview in enumerate(previews):
        share = tokens // (len(previews) - number) - 1  # a comma
        size = tokens_of(_encode(preview))
        if size > share:
            bare = msgspec.structs.replace(preview, text="", cut=True)
            text = fit(preview.text, share - tokens_of(_encode(bare)))
            preview = msgspec.structs.replace(bare, text=text)  # noqa: PLW2901 - the loop is about one preview
            size = tokens_of(_encode(preview))
        shortened.append(preview)
        tokens -= size + 1
    return shortened
