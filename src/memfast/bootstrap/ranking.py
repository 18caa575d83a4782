"""How searches rank: the settings as what `search` takes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from memfast.config import Config
from memfast.search.expand import ExpansionSettings, Thesaurus
from memfast.search.fuse import BoostSettings, FusionSettings
from memfast.search.hybrid import Ranking
from memfast.search.wordnet import WordNet
from memfast.search.words import Words

__all__ = ["build_ranking", "open_thesaurus"]

_WEAK, _STRONG = (0.7, 0.3), (0.5, 0.5)
"""Weights of words and of meaning: beside static word vectors such as WordLlama's, and beside a contextual model."""


def build_ranking(config: Config) -> Ranking:
    """What a search does that does not say otherwise."""
    search = config.search
    words, meaning = _WEAK if config.embedding.provider == "wordllama" else _STRONG
    weights = {
        "lexical": words if search.lexical_weight < 0 else search.lexical_weight,
        "vector": search.vector_weight,
        "context": meaning if search.context_weight < 0 else search.context_weight,
    }
    return Ranking(
        fusion=FusionSettings(
            method=search.fusion, weights=weights, convergence=search.convergence, guaranteed=search.guaranteed
        ),
        boosts=BoostSettings(
            similarity_weight=search.similarity_weight,
            importance_weight=search.importance_weight,
            recency_factor=search.recency_factor,
            recency_window_s=search.recency_window_s,
        ),
        expansion=ExpansionSettings(
            synonym_weight=search.synonym_weight if search.wordnet_dir else 0.0,
            feedback_weight=search.feedback_weight,
        ),
        neighbors=search.neighbors,
    )


def open_thesaurus(config: Config, words: Words, stack: AsyncExitStack) -> Thesaurus | None:
    """The dictionary that is configured, closed with the stack; None without one.

    Raises:
        ConfigError: the folder holds no WordNet.
    """
    if not config.search.wordnet_dir:
        return None
    return Thesaurus(stack.enter_context(WordNet(Path(config.search.wordnet_dir))).synonyms, words)
