"""JSON and msgpack, in and out, chosen by Content-Type and Accept."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

from memfast.errors import InvalidRequest, UnsupportedMediaType

__all__ = [
    "JSON",
    "MSGPACK",
    "MSGPACK_TYPES",
    "BodyDecoder",
    "Format",
    "encode",
    "request_format",
    "response_format",
]

Format = Literal["json", "msgpack"]

JSON = b"application/json"
MSGPACK = b"application/msgpack"
MSGPACK_TYPES = (MSGPACK, b"application/x-msgpack", b"application/vnd.msgpack")

_T = TypeVar("_T")
_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()


def request_format(content_type: bytes) -> Format:
    """How a body is encoded; without a Content-Type it is JSON.

    Raises:
        UnsupportedMediaType: neither JSON nor msgpack.
    """
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type in {b"", JSON}:
        return "json"
    if media_type in MSGPACK_TYPES:
        return "msgpack"
    raise UnsupportedMediaType(
        f"Content-Type is {media_type.decode('latin-1')!r}; send application/json or application/msgpack"
    )


def response_format(accept: bytes) -> Format:
    """How the answer is encoded: msgpack where the client names it, else JSON."""
    return "msgpack" if b"msgpack" in accept else "json"


def encode(value: Any, answer_format: Format) -> bytes:
    """Encode an answer. `Raw` fields hold JSON; for msgpack they are decoded first."""
    if answer_format == "json":
        return _json_encoder.encode(value)
    return _msgpack_encoder.encode(msgspec.json.decode(_json_encoder.encode(value)))


class BodyDecoder(Generic[_T]):
    """Decodes request bodies of one type, in one pass."""

    def __init__(self, kind: type[_T]) -> None:
        self.kind = kind
        self._json = msgspec.json.Decoder(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind)

    def decode(self, body: bytes | msgspec.Raw, body_format: Format, *, root: str = "$") -> _T:
        """The decoded value.

        Args:
            body: the bytes as they came.
            body_format: how they are encoded.
            root: what `$` stands for in the paths of errors.

        Raises:
            InvalidRequest: broken syntax, a wrong type, an unknown or a missing field; the detail has its path.
        """
        try:
            return self._json.decode(body) if body_format == "json" else self._msgpack.decode(body)
        except msgspec.ValidationError as error:
            message, _, path = str(error).rpartition(" - at `")
            path = path.rstrip("`").replace("$", root, 1) if message else root
            raise InvalidRequest(f"{path}: {message or error}", path=path) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            name = "JSON" if body_format == "json" else "msgpack"
            raise InvalidRequest(f"{root}: the body is not valid {name}: {error}", path=root) from error
