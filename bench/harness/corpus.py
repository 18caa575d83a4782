"""Memories to measure with: sentences of made-up length and random unit vectors, the same for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.harness.load import MSGPACK, Connection, call

__all__ = ["BATCH_ITEMS", "DIMENSIONS", "fill", "sentences", "unit_vectors"]

DIMENSIONS = 256
BATCH_ITEMS = 1000

_VOCABULARY = (
    "I you we they my your our likes hates visited forgot remembers cooked painted bought sold lost found the a an "
    "old new red blue quiet loud small large mother brother friend doctor teacher neighbour dog cat garden kitchen "
    "office train river mountain guitar novel recipe ticket password meeting birthday holiday Monday March yesterday "
    "tomorrow often never because although and but with without in at on from to peanuts coffee bread cheese"
)


def sentences(rng: np.random.Generator, count: int) -> list[str]:
    """`count` texts of 8 to 24 words."""
    words = _VOCABULARY.split()
    return [" ".join(rng.choice(words, size)) for size in rng.integers(8, 25, count)]


def unit_vectors(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """float32 (count, DIMENSIONS), rows of norm 1 in random directions."""
    rows = rng.standard_normal((count, DIMENSIONS))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


async def fill(connection: Connection, user_id: str, count: int, rng: np.random.Generator) -> None:
    """Store `count` memories with given vectors through the API."""
    for start in range(0, count, BATCH_ITEMS):
        size = min(BATCH_ITEMS, count - start)
        vectors = unit_vectors(rng, size)
        items: list[dict[str, Any]] = [
            {"text": text, "embedding": vector.tobytes()}
            for text, vector in zip(sentences(rng, size), vectors, strict=True)
        ]
        answer = await call(
            connection, "POST", "/v1/memories/batch", {"user_id": user_id, "memories": items}, media_type=MSGPACK
        )
        assert all(result["status"] == "created" for result in answer["results"])
