"""`memfast mcp`: MCP on standard input and output, carried to a running service.

One message a line in, one answer a line out, in their order: the next line is read when the answer before it is
written, so that nothing piles up here.
"""

from __future__ import annotations

import argparse
import base64
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct, field

from memfast.cli.client import detail_of, open_client
from memfast.config import Effective
from memfast.errors import CommandFailed
from memfast.mcp.messages import INTERNAL_ERROR, INVALID_REQUEST, Fault, failed

__all__ = ["mcp"]

_PIECE_BYTES = 64 * 1024
_PLAIN = re.compile(r"[!-~]([ -~]*[!-~])?")
"""What may stand in a header as it is."""

_JSON = "application/json"


class _Meta(Struct):
    version: str | None = field(name="io.modelcontextprotocol/protocolVersion", default=None)


class _Params(Struct):
    meta: _Meta | None = field(name="_meta", default=None)
    name: str | None = None
    uri: str | None = None


class _Line(Struct):
    """What of a message its headers repeat."""

    method: str | None = None
    params: _Params | None = None


_decoder = msgspec.json.Decoder(_Line)
_PROBE = b'{"jsonrpc":"2.0","id":0,"method":"ping"}'


def mcp(effective: Effective, arguments: argparse.Namespace) -> int:
    """Carry messages until standard input ends."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every message would bury what matters
    with open_client(effective.config, arguments.url) as client:
        client.headers["Content-Type"] = _JSON
        if arguments.user is not None:
            client.headers["Memfast-User"] = quote(arguments.user, safe="")
        _require_service(client)
        for line in _lines(sys.stdin.buffer, effective.config.server.body_max_bytes):
            answer = line if isinstance(line, Fault) else _carried(client, line)
            if isinstance(answer, Fault):
                answer = failed(b"" if isinstance(line, Fault) else line, answer)
            if answer:
                sys.stdout.buffer.write(answer + b"\n")
                sys.stdout.buffer.flush()
    return 0


def _require_service(client: httpx.Client) -> None:
    """Look whether there is a service that takes this key and user.

    Raises:
        CommandFailed: there is none; says what to do.
    """
    try:
        response = client.post("/mcp", content=_PROBE)
    except httpx.HTTPError as error:
        raise CommandFailed(
            f"no service answers at {client.base_url}: {error}; start one with `memfast serve`, or name it with --url"
        ) from error
    if response.status_code == 401:
        raise CommandFailed(f"{detail_of(response)}: set MEMFAST_API_KEY to a key of `memfast keys create`")
    if response.status_code != 200:
        raise CommandFailed(f"the service at {client.base_url} does not take messages: {detail_of(response)}")


def _lines(source: BinaryIO, most: int) -> Iterator[bytes | Fault]:
    """The lines of a stream that say something; of one that is too long, of which nothing is kept, an error."""
    while line := source.readline(most + 1):
        if len(line) > most and not line.endswith(b"\n"):
            while (piece := source.readline(_PIECE_BYTES)) and not piece.endswith(b"\n"):
                pass
            yield Fault(INVALID_REQUEST, f"a message has more than {most} bytes; at most so many are taken")
        elif not line.isspace():
            yield line.rstrip(b"\r\n")


def _carried(client: httpx.Client, line: bytes) -> bytes | Fault:
    """The service's answer to a message; empty for one that gets none."""
    try:
        response = _posted(client, line)
    except httpx.HTTPError as error:
        return Fault(INTERNAL_ERROR, f"the service at {client.base_url} cannot be reached: {error}")
    if response.headers.get("content-type", _JSON) == _JSON:
        return response.content
    return Fault(INTERNAL_ERROR, detail_of(response))


def _posted(client: httpx.Client, line: bytes) -> httpx.Response:
    headers = _headers(line)
    try:
        return client.post("/mcp", content=line, headers=headers)
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
        # A kept connection that the service has closed meanwhile. Whatever the message says may be done twice.
        return client.post("/mcp", content=line, headers=headers)


def _headers(line: bytes) -> dict[str, str]:
    """The headers of a message of the stateless era; others need none."""
    try:
        message = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}  # a batch, or what the service refuses
    params = message.params
    if params is None or params.meta is None or params.meta.version is None or message.method is None:
        return {}
    repeated: dict[str, Any] = {
        "MCP-Protocol-Version": params.meta.version,
        "Mcp-Method": message.method,
        "Mcp-Name": params.uri if message.method == "resources/read" else params.name,
    }
    return {name: _written(value) for name, value in repeated.items() if value is not None}


def _written(value: str) -> str:
    """A header's value: what would not arrive as it is goes as base64."""
    if _PLAIN.fullmatch(value) and not value.startswith("=?base64?"):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="
