"""What a question may mean besides what it says: related words, and the direction of its best hits.

Both are options. Related words, of WordNet's first sense and at a small weight, changed recall on recorded dialogues by
less than its noise. Feedback finds more, though nothing more where neighbours lend; it costs a second scan, and lets
the best hits have a say in the scores of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from memfast.search.words import Words

__all__ = ["ExpansionSettings", "Thesaurus", "expand", "feedback"]


class ExpansionSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a query is widened. Off as it stands: 0.1 to 0.2 and 1.0 are the values to try."""

    synonym_weight: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """What a related word counts beside one of the query."""
    synonyms_per_word: Annotated[int, Meta(ge=1, le=16)] = 2
    synonyms: Annotated[int, Meta(ge=1, le=64)] = 8
    """Related words of a query at most."""
    frequent_share: Annotated[float, Meta(gt=0, le=1)] = 0.05
    """A term that more than this share of the memories have is too frequent to be added."""
    feedback_weight: Annotated[float, Meta(ge=0, le=4)] = 0.0
    """How far the query is moved towards its best hits."""
    feedback_hits: Annotated[int, Meta(ge=1, le=16)] = 3


class Thesaurus:
    """Related words as index terms.

    Args:
        synonyms: related words of a word, best first, such as `WordNet.synonyms`.
        words: makes the index terms.
    """

    def __init__(self, synonyms: Callable[[str], Sequence[str]], words: Words) -> None:
        self._synonyms = synonyms
        self._words = words

    def related(
        self, text: str, frequency: Callable[[str], int], memories: int, settings: ExpansionSettings
    ) -> list[str]:
        """What `expand` adds to the words of a query."""
        return expand(
            self._words.content_words(text),
            synonyms=self._synonyms,
            term=self._words.term_of,
            frequency=frequency,
            memories=memories,
            settings=settings,
        )


def expand(
    words: Iterable[str],
    *,
    synonyms: Callable[[str], Sequence[str]],
    term: Callable[[str], str],
    frequency: Callable[[str], int],
    memories: int,
    settings: ExpansionSettings,
) -> list[str]:
    """Terms that are related to the words of a query, each to be counted with `settings.synonym_weight`.

    Args:
        words: the query's words as they were written, in lower case, without stop words.
        synonyms: related words of a word, best first, such as `WordNet.synonyms`.
        term: the index term of a word (its stem); "" for none.
        frequency: how many of the user's memories have a term.
        memories: how many memories the user has.
        settings: the bounds.

    Returns:
        Distinct terms that some memory has, that are not frequent and that the query does not have itself; in order.
    """
    asked = list(dict.fromkeys(words))
    own = {term(word) for word in asked}
    most = settings.frequent_share * memories
    candidates = (term(related) for word in asked for related in islice(synonyms(word), settings.synonyms_per_word))
    kept = (one for one in dict.fromkeys(candidates) if one and one not in own and 0 < frequency(one) <= most)
    return list(islice(kept, settings.synonyms))


def feedback(
    query: NDArray[np.float64],
    centre: NDArray[np.float64],
    vectors: NDArray[np.float32],
    scores: NDArray[np.float64],
    weight: float,
) -> NDArray[np.float64]:
    """Move a centred query towards its best hits (Rocchio 1971), as far as they are good.

    Args:
        query: (dimensions,), centred.
        centre: (dimensions,), what was subtracted.
        vectors: float32 (hits, dimensions), unit rows: the best hits' vectors, a few.
        scores: (hits,), 0..1: a hit pulls by its score, so that a query without good hits stays where it is.
        weight: how far.

    Returns:
        (dimensions,), to be used in place of `query`.
    """
    if not len(scores):
        return query
    pull: NDArray[np.float64] = scores @ (vectors.astype(np.float64) - centre) / len(scores)
    return query + weight * pull
