"""Arguments as bytes, and answers out of bytes."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from memfast.client.exchange import Answer
from memfast.errors import UnexpectedAnswer

__all__ = ["Shape", "encode_body", "memory_path", "pack", "with_query"]

_T = TypeVar("_T")


def _plain(value: Any) -> Any:
    """Numbers and arrays of NumPy, and what else knows how to be plain."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


encode_body = msgspec.msgpack.Encoder(enc_hook=_plain).encode


class Shape(Generic[_T]):
    """Reads the body of an answer as a type."""

    def __init__(self, kind: type[_T]) -> None:
        self._msgpack = msgspec.msgpack.Decoder(kind)
        self._json = msgspec.json.Decoder(kind)

    def __call__(self, answer: Answer) -> _T:
        """The value.

        Raises:
            UnexpectedAnswer: the body is something else.
        """
        try:
            if b"msgpack" in answer.headers.get(b"content-type", b""):
                return self._msgpack.decode(answer.body)
            return self._json.decode(answer.body)
        except msgspec.DecodeError as error:
            raise UnexpectedAnswer(
                f"the service answered {answer.status} with a body that this client does not understand: {error}"
            ) from error


def pack(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Fields as they are sent: the embedding as bytes, without a copy where it is float32 already."""
    embedding = fields.get("embedding")
    return fields if embedding is None or isinstance(embedding, bytes) else {**fields, "embedding": _float32(embedding)}


def _float32(vector: Any) -> memoryview | bytes:
    if hasattr(vector, "__array__"):
        import numpy as np  # noqa: PLC0415 - who has an array has NumPy; others need not wait for it

        return np.ascontiguousarray(vector, dtype="<f4").reshape(-1).data.cast("B")
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def with_query(path: str, parameters: Mapping[str, Any]) -> str:
    """A path with those parameters that are not None."""
    given = [f"{name}={quote(_text(value), safe='')}" for name, value in parameters.items() if value is not None]
    return f"{path}?{'&'.join(given)}" if given else path


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def memory_path(memory_id: object, rest: str = "") -> str:
    """The path of a memory."""
    return f"/v1/memories/{quote(str(memory_id), safe='')}{rest}"
