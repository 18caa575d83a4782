"""JSON and msgpack, in and out, chosen by Content-Type and Accept."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from memfast.errors import InvalidRequest, UnsupportedMediaType
from memfast.search.encode import Form, recode

__all__ = [
    "JSON",
    "MSGPACK",
    "MSGPACK_TYPES",
    "NDJSON",
    "NDJSON_TYPES",
    "BodyDecoder",
    "encode",
    "encode_json",
    "request_form",
    "require_lines",
    "response_form",
]

JSON = b"application/json"
MSGPACK = b"application/msgpack"
NDJSON = b"application/x-ndjson"
NDJSON_TYPES = (NDJSON, b"application/ndjson", b"application/jsonl", b"")
MSGPACK_TYPES = (MSGPACK, b"application/x-msgpack", b"application/vnd.msgpack")

_T = TypeVar("_T")
_json_encoder = msgspec.json.Encoder()


def request_form(content_type: bytes) -> Form:
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


def require_lines(content_type: bytes) -> None:
    """Check that a body is a stream of lines; without a Content-Type it is taken for one.

    Raises:
        UnsupportedMediaType: it says to be something else.
    """
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type not in NDJSON_TYPES:
        raise UnsupportedMediaType(f"Content-Type is {media_type.decode('latin-1')!r}; send {NDJSON.decode()}")


def response_form(accept: bytes) -> Form:
    """How the answer is encoded: msgpack where the client names it, else JSON."""
    return "msgpack" if b"msgpack" in accept else "json"


def encode_json(value: Any) -> bytes:
    """Encode an answer as JSON."""
    return _json_encoder.encode(value)


def encode(value: Any, form: Form) -> bytes:
    """Encode an answer. `Raw` fields hold JSON, so msgpack is made from the JSON."""
    return recode(encode_json(value), form)


class BodyDecoder(Generic[_T]):
    """Decodes request bodies of one type, in one pass."""

    def __init__(self, kind: type[_T]) -> None:
        self.kind = kind
        self._json = msgspec.json.Decoder(kind)
        self._msgpack = msgspec.msgpack.Decoder(kind)

    def decode(self, body: bytes | msgspec.Raw, form: Form, *, root: str = "$") -> _T:
        """The decoded value.

        Args:
            body: the bytes as they came.
            form: how they are encoded.
            root: what `$` stands for in the paths of errors.

        Raises:
            InvalidRequest: broken syntax, a wrong type, an unknown or a missing field; the detail has its path.
        """
        try:
            return self._json.decode(body) if form == "json" else self._msgpack.decode(body)
        except msgspec.ValidationError as error:
            message, _, path = str(error).rpartition(" - at `")
            path = path.removeprefix("key` in `").rstrip("`").replace("$", root, 1) if message else root
            raise InvalidRequest(f"{path}: {message or error}", path=path) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            name = "JSON" if form == "json" else "msgpack"
            raise InvalidRequest(f"{root}: the body is not valid {name}: {error}", path=root) from error
