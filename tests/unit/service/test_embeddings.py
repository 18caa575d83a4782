"""Vectors of texts that were embedded lately."""

import numpy as np
import pytest
from worlds import SetClock, cache

from memfast.errors import EmbedderUnavailable
from memfast.service.embeddings import CachedEmbedder


class Lengths:
    """An embedder: a text's length, its first character, and the number of its call."""

    def __init__(self, model="lengths", dimensions=3):
        self.model = model
        self.dimensions = dimensions
        self.calls = []
        self.error = None
        self.checked = self.closed = False

    async def embed(self, texts):
        self.calls.append(list(texts))
        if self.error is not None:
            raise self.error
        return np.array([[len(text), ord(text[0]), len(self.calls)] for text in texts], np.float32)

    async def check(self):
        self.checked = True

    async def close(self):
        self.closed = True


@pytest.fixture
def lengths():
    """The embedder behind the cache."""
    return Lengths()


@pytest.fixture
def cached(lengths):
    """The cache before it."""
    return CachedEmbedder(lengths, cache(), SetClock())


async def test_only_missing_texts_are_embedded(cached, lengths):
    """In one call, each in its place."""
    first = await cached.embed(["a", "bb"])
    second = await cached.embed(["bb", "ccc", "a", "dddd"])
    assert lengths.calls == [["a", "bb"], ["ccc", "dddd"]]
    assert second.dtype == np.float32
    assert second.tolist() == [first[1].tolist(), [3, ord("c"), 2], first[0].tolist(), [4, ord("d"), 2]]
    assert (await cached.embed(["a"])).tolist() == [first[0].tolist()]
    assert len(lengths.calls) == 2


async def test_no_text_is_no_call(cached, lengths):
    """An empty list of texts is an empty array."""
    assert (await cached.embed([])).shape == (0, 3)
    assert lengths.calls == []


async def test_failures_are_not_kept(cached, lengths):
    """The next call asks again."""
    lengths.error = EmbedderUnavailable("away")
    with pytest.raises(EmbedderUnavailable):
        await cached.embed(["a"])
    assert cached.held("a") is None
    lengths.error = None
    assert (await cached.embed(["a"])).tolist() == [[1, ord("a"), 2]]


@pytest.mark.parametrize("other", [Lengths(model="others"), Lengths(dimensions=4), Lengths(model="length")])
async def test_another_model_has_other_vectors(lengths, other):
    """One cache under two models or lengths gives neither the other's vectors."""
    kept = cache()
    await CachedEmbedder(lengths, kept, SetClock()).embed(["a"])
    assert CachedEmbedder(other, kept, SetClock()).held("a") is None
    assert CachedEmbedder(Lengths(), kept, SetClock()).held("a") is not None


async def test_broken_unicode_has_a_key(cached):
    """A lone surrogate is a text like another."""
    await cached.embed(["\ud800"])
    assert cached.held("\ud800") is not None


async def test_the_embedder_shows_through(cached, lengths):
    """Its name and its length, its check and its end; the cache is counted."""
    assert (cached.model, cached.dimensions) == ("lengths", 3)
    await cached.check()
    await cached.embed(["a"])
    assert lengths.checked
    assert cached.stats().entries == 1
    await cached.close()
    assert lengths.closed


async def test_a_held_vector_cannot_be_changed(cached):
    """It is the cache's own."""
    await cached.embed(["a"])
    with pytest.raises(ValueError, match="read-only"):
        cached.held("a")[0] = 1
