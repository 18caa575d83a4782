"""What every `Embedder` that makes vectors promises, over each of them."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from memfast.embedding.openai import OpenAIEmbedder
from memfast.embedding.wordllama import WordLlamaEmbedder
from memfast.errors import EmbedderUnavailable, InvalidRequest
from memfast.ports import Embedder

TEXTS = ["prefers dark mode", "", " ", "naïve café", "記憶は宝物", "🎉🚀", "a\x00b", "word " * 13_000, "x"]


def _endpoint_module():
    """The local embeddings endpoint of the integration tests, loaded once for both."""
    name = "embedding_endpoint"
    if name not in sys.modules:
        file = Path(__file__).parents[1] / "integration" / "embedding" / "endpoint.py"
        spec = importlib.util.spec_from_file_location(name, file)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(params=["wordllama", "openai-base64", "openai-float"])
async def embedder(request, monkeypatch):
    """Each embedder, the remote one over a local server in both forms of the answer."""
    if request.param == "wordllama":
        subject = WordLlamaEmbedder()
        yield subject
        await subject.close()
        return
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with _endpoint_module().serving() as endpoint:
        form = request.param.removeprefix("openai-")
        subject = OpenAIEmbedder(
            base_url=endpoint.base_url,
            model="m",
            dimensions=_endpoint_module().DIMENSIONS,
            encoding_format=form,
            batch_size=4,
        )
        yield subject
        await subject.close()


async def test_it_has_a_stable_name_and_a_length(embedder: Embedder):
    """Both are known before anything is loaded or reached, and stay."""
    before = (embedder.model, embedder.dimensions)
    await embedder.check()
    assert (embedder.model, embedder.dimensions) == before
    provider, _, model = embedder.model.partition("/")
    assert provider
    assert model
    assert embedder.dimensions >= 1


async def test_rows_are_contiguous_float32_of_norm_1(embedder: Embedder):
    """One row for each text, whatever it holds."""
    rows = await embedder.embed(TEXTS)
    assert rows.dtype == np.float32
    assert rows.shape == (len(TEXTS), embedder.dimensions)
    assert rows.flags.c_contiguous
    assert rows.flags.writeable
    assert np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1).max() < 1e-6


async def test_no_texts_are_no_rows(embedder: Embedder):
    """(0, dimensions), also as the first call and for any kind of sequence."""
    for empty in ([], ()):
        rows = await embedder.embed(empty)
        assert (rows.shape, rows.dtype) == ((0, embedder.dimensions), np.float32)


async def test_a_text_has_the_same_bytes_in_every_call(embedder: Embedder):
    """Alone, among others, in another order, repeated, at the same time as others."""
    alone = {text: (await embedder.embed([text]))[0].tobytes() for text in TEXTS}
    orders = [TEXTS, TEXTS[::-1], TEXTS * 3, tuple(TEXTS[4:]), [TEXTS[3]] * 5]
    for texts, rows in zip(orders, await asyncio.gather(*map(embedder.embed, orders)), strict=True):
        assert [row.tobytes() for row in rows] == [alone[text] for text in texts]


async def test_different_texts_have_different_rows(embedder: Embedder):
    """No two texts of the list collapse into one."""
    rows = await embedder.embed(TEXTS)
    assert len({row.tobytes() for row in rows}) == len(TEXTS)


async def test_rows_of_one_call_do_not_reach_into_another(embedder: Embedder):
    """The caller owns its rows: writing into them changes no later answer."""
    first = await embedder.embed(["a", "b"])
    kept = first.copy()
    first[:] = 0
    assert (await embedder.embed(["a", "b"])).tobytes() == kept.tobytes()


async def test_half_a_surrogate_pair_is_the_callers_fault(embedder: Embedder):
    """The message names the text; the embedder goes on working."""
    with pytest.raises(InvalidRequest, match="text 1 holds a lone surrogate"):
        await embedder.embed(["fine", "\ud800"])
    assert len(await embedder.embed(["fine"])) == 1


async def test_a_closed_embedder_refuses(embedder: Embedder):
    """Closing twice is safe; what comes later is refused, not hung."""
    await embedder.embed(["a"])
    await embedder.close()
    await embedder.close()
    with pytest.raises(EmbedderUnavailable, match="closed"):
        await embedder.embed(["a"])
