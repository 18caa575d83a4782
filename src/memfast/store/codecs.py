"""How values of a connection are written and read: vectors and JSON, both without a text in between."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Raw
from numpy.typing import NDArray

from memfast.store.queries import WRITE

__all__ = ["decode_vector", "decode_vectors", "register_codecs"]

_ROW_HEADER_BYTES = 4


def _encode_vector(vector: NDArray[np.float32]) -> bytes:
    return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(">f4").tobytes()


def decode_vectors(values: list[bytes], dimensions: int) -> NDArray[np.float32]:
    """Vectors as PostgreSQL sends them, to float32 (len(values), dimensions), native byte order."""
    width = _ROW_HEADER_BYTES + 4 * dimensions
    raw = np.frombuffer(b"".join(values), dtype=np.uint8).reshape(len(values), width)
    big_endian = np.ascontiguousarray(raw[:, _ROW_HEADER_BYTES:]).view(">f4")
    return big_endian.astype(np.float32)


def decode_vector(value: bytes) -> NDArray[np.float32]:
    """One vector as PostgreSQL sends it, to float32 (dimensions,)."""
    return np.frombuffer(value, dtype=">f4", offset=_ROW_HEADER_BYTES).astype(np.float32)


async def register_codecs(connection: Any) -> None:
    """Teach a new connection the types `vector` and `json`."""
    schema = await connection.fetchval(WRITE.vector_schema)
    if schema is not None:
        await connection.set_type_codec("vector", schema=schema, encoder=_encode_vector, decoder=bytes, format="binary")
    await connection.set_type_codec("json", schema="pg_catalog", encoder=bytes, decoder=Raw, format="binary")
