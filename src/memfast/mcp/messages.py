"""JSON-RPC messages: reading one in either era, and what its answer looks like."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from memfast import __version__

__all__ = [
    "BATCHED",
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "LEGACY",
    "METHOD_NOT_FOUND",
    "RESOURCE_NOT_FOUND",
    "SERVER",
    "SUPPORTED",
    "Fault",
    "Message",
    "Params",
    "Result",
    "failed",
    "members",
    "read_message",
    "split_batch",
    "succeeded",
]

MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26")
SUPPORTED = (MODERN, *LEGACY)
"""Revisions of the protocol, the newest first."""

BATCHED = 20
"""Messages in one batch, which only the oldest revision knows."""

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
RESOURCE_NOT_FOUND = -32002
"""Of the legacy era alone; the stateless revision says `INVALID_PARAMS`."""
_HEADER_MISMATCH = -32020
_UNSUPPORTED_VERSION = -32022

SERVER = {"name": "memfast", "title": "memfast: a memory for agents", "version": __version__}

_TTL_MS = 3_600_000
"""How long a client may keep what only another version of the service changes, in milliseconds."""

_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
"""Which parameter the header Mcp-Name repeats."""

_VERSION_HEADER = b"mcp-protocol-version"
_encode = msgspec.json.Encoder().encode


class _Meta(Struct, frozen=True):
    """What the stateless revision says with every request."""

    version: str | None = field(name="io.modelcontextprotocol/protocolVersion", default=None)
    capabilities: dict[str, Any] | None = field(name="io.modelcontextprotocol/clientCapabilities", default=None)


class Params(Struct, frozen=True):
    """Parameters of any method here."""

    meta: _Meta | None = field(name="_meta", default=None)
    name: str | None = None
    uri: str | None = None
    cursor: str | None = None
    arguments: Raw = Raw(b"{}")
    version: str | None = field(name="protocolVersion", default=None)


class Message(Struct, frozen=True):
    """A request, or without an id a notification."""

    jsonrpc: Literal["2.0"]
    method: str
    id: int | str | UnsetType = UNSET
    params: Params = Params()


class _Identity(Struct):
    id: Any = None


class Fault(Exception):
    """The message cannot be served: the code and the data of JSON-RPC, and the status of the HTTP answer."""

    def __init__(self, code: int, detail: str, *, status: int = 200, data: dict[str, Any] | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.data = data


class Result(NamedTuple):
    """The members of a result as JSON, and how a client may keep it; None = not at all."""

    members: bytes
    kept: Literal["public", "private"] | None = None


_decoder = msgspec.json.Decoder(Message)
_identity_decoder = msgspec.json.Decoder(_Identity)
_batch_decoder = msgspec.json.Decoder(list[Raw])


def read_message(body: bytes | Raw, headers: Mapping[bytes, bytes]) -> tuple[Message, bool]:
    """A message, and whether it is of the stateless era.

    Raises:
        Fault: it is none, or what it says and what the headers say do not go together.
    """
    try:
        message = _decoder.decode(body)
    except msgspec.ValidationError as error:
        code = INVALID_PARAMS if "$.params" in str(error) else INVALID_REQUEST
        raise Fault(code, f"not a message of JSON-RPC 2.0: {error}", status=400) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(PARSE_ERROR, f"the body is not JSON: {error}", status=400) from error
    header = headers.get(_VERSION_HEADER)
    named = None if header is None else header.decode("latin-1")
    said = None if message.params.meta is None else message.params.meta.version
    if said is None and (named is None or named in LEGACY or message.method == "initialize"):
        return message, False
    if message.id is UNSET:
        return message, True
    if said is not None:
        _compare(message, headers, named, said)
    version = said or named
    if version not in SUPPORTED:
        data = {"supported": SUPPORTED, "requested": version}
        raise Fault(_UNSUPPORTED_VERSION, f"the protocol version {version!r} is not supported", status=400, data=data)
    if said is None or message.params.meta is None or message.params.meta.capabilities is None:
        missing = "protocolVersion" if said is None else "clientCapabilities"
        raise Fault(INVALID_PARAMS, f"params._meta: io.modelcontextprotocol/{missing} is missing", status=400)
    return message, version == MODERN


def _compare(message: Message, headers: Mapping[bytes, bytes], named: str | None, said: str) -> None:
    """Hold the headers to the body: who routes by the one must not route what the other says."""
    about = _NAMED.get(message.method)
    expected = {"MCP-Protocol-Version": (named, said), "Mcp-Method": (_text(headers, b"mcp-method"), message.method)}
    if about is not None:
        expected["Mcp-Name"] = (_text(headers, b"mcp-name"), getattr(message.params, about))
    for header, (got, wanted) in expected.items():
        if got is None:
            raise Fault(_HEADER_MISMATCH, f"Header mismatch: {header} is missing", status=400)
        if got != wanted:
            detail = f"Header mismatch: {header} says {got!r}, the body says {wanted!r}"
            raise Fault(_HEADER_MISMATCH, detail, status=400)


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    """A header's value, which may be UTF-8 in base64: `=?base64?…?=`."""
    value = headers.get(name)
    if value is None:
        return None
    if value.startswith(b"=?base64?") and value.endswith(b"?="):
        try:
            return base64.b64decode(value[9:-2], validate=True).decode()
        except (binascii.Error, ValueError) as error:
            detail = f"Header mismatch: {name.decode()} is not base64 of UTF-8"
            raise Fault(_HEADER_MISMATCH, detail, status=400) from error
    return value.decode("latin-1").strip(" \t")


def split_batch(body: bytes, headers: Mapping[bytes, bytes]) -> list[Raw] | None:
    """The messages of a batch; None for a body that is none.

    Raises:
        Fault: a batch where the revision has none, without messages, or with too many.
    """
    if not body.lstrip(b" \t\r\n").startswith(b"["):
        return None
    if headers.get(_VERSION_HEADER, b"2025-03-26") != b"2025-03-26":
        raise Fault(INVALID_REQUEST, "this revision of the protocol has no batches: send one message", status=400)
    try:
        messages = _batch_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Fault(PARSE_ERROR, f"the body is not JSON: {error}", status=400) from error
    if not 1 <= len(messages) <= BATCHED:
        raise Fault(INVALID_REQUEST, f"a batch has 1 to {BATCHED} messages, not {len(messages)}", status=400)
    return messages


def members(value: Struct | Mapping[str, Any]) -> bytes:
    """The members of an object as JSON, without its braces."""
    return _encode(value)[1:-1]


_SELF = b',"resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":%b}' % _encode(SERVER)
_KEPT = {
    "public": b',"ttlMs":%d,"cacheScope":"public"' % _TTL_MS,
    "private": b',"ttlMs":0,"cacheScope":"private"',
}


def succeeded(message: Message, result: Result, *, modern: bool) -> bytes:
    """The answer to a request."""
    about = b""
    if modern:
        about = _SELF if result.kept is None else _SELF + _KEPT[result.kept]
        about = about if result.members else about[1:]
    return b'{"jsonrpc":"2.0","id":%b,"result":{%b%b}}' % (_encode(message.id), result.members, about)


def failed(body: bytes | Raw, fault: Fault) -> bytes:
    """The answer to a message that could not be served."""
    error: dict[str, Any] = {"code": fault.code, "message": str(fault)}
    if fault.data is not None:
        error["data"] = fault.data
    try:
        identity = _identity_decoder.decode(body).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        identity = None
    if type(identity) not in {int, str}:  # the newer revisions leave it out, the oldest has no word on it
        return _encode({"jsonrpc": "2.0", "error": error})
    return _encode({"jsonrpc": "2.0", "id": identity, "error": error})
