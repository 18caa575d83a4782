"""No model: every request brings its own vectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memfast.errors import EmbeddingRequired

__all__ = ["NoEmbedder"]


class NoEmbedder:
    """The embedder of a service whose clients make the vectors. It only knows their length."""

    model = "client"

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Refuse any text.

        Returns:
            float32 (0, dimensions) when there are no texts.

        Raises:
            EmbeddingRequired: there is a text.
        """
        if texts:
            raise EmbeddingRequired(
                f"this service makes no vectors from text: send `embedding` with {self.dimensions} numbers, "
                "or let the service embed with embedding.provider = wordllama or openai"
            )
        return np.empty((0, self.dimensions), dtype=np.float32)

    async def check(self) -> None:
        """Nothing to load, nothing to reach."""

    async def close(self) -> None:
        """Nothing to release."""
