"""The embedder of a service whose clients bring their vectors."""

import numpy as np
import pytest

from memfast.embedding.none import NoEmbedder
from memfast.errors import EmbeddingRequired


async def test_a_text_is_refused_with_what_to_send():
    """The error names the field and its length."""
    embedder = NoEmbedder(384)
    assert (embedder.model, embedder.dimensions) == ("client", 384)
    with pytest.raises(EmbeddingRequired, match="send `embedding` with 384 numbers"):
        await embedder.embed(["hello"])


async def test_no_texts_are_no_rows():
    """Nothing to embed is not an error, and check and close do nothing."""
    embedder = NoEmbedder(3)
    await embedder.check()
    rows = await embedder.embed([])
    assert (rows.shape, rows.dtype) == ((0, 3), np.float32)
    await embedder.close()
    await embedder.close()
