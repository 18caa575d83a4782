"""The floor of a request: a handler that reads the body and sends finished headers and bytes, on the service's server.

    python -m bench.harness.floor <port> <answer file>

Litestar's cheapest handler on one Granian worker with the service's settings. The answer is what the service sent,
as `save_answer` wrote it; the body is read once, up to its declared length.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
from granian import Granian
from granian.constants import Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send

from bench.harness.load import Connection
from bench.harness.service import Program, free_port

__all__ = ["Floor", "save_answer"]

_SERVERS_OWN = frozenset({"date", "server"})


class Floor(Program):
    """The floor as a program.

    Args:
        answer_file: what it sends.
    """

    def __init__(self, answer_file: Path) -> None:
        port = free_port()
        command = [sys.executable, "-m", "bench.harness.floor", str(port), str(answer_file)]
        super().__init__(command, port, answer_file.with_suffix(".log"))


def save_answer(connection: Connection, body: bytes, answer_file: Path) -> None:
    """Write the latest answer of a connection for the floor to send."""
    lines = connection.head.decode().split("\r\n")[1:]
    headers = [tuple(part.strip() for part in line.split(":", 1)) for line in lines]
    kept = [(name.encode(), value.encode()) for name, value in headers if name not in _SERVERS_OWN]
    answer_file.write_bytes(msgspec.msgpack.encode((kept, body)))


def _build(answer_file: Path) -> Litestar:
    headers, body = msgspec.msgpack.decode(answer_file.read_bytes(), type=tuple[list[tuple[bytes, bytes]], bytes])
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    end = {"type": "http.response.body", "body": body, "more_body": False}

    @asgi(["/v1/search", "/v1/memories", "/v1/health/ready"], copy_scope=False)
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        declared, received = 0, 0
        for name, value in scope["headers"]:
            if name == b"content-length":
                declared = int(value)
        while received < declared:
            message: Any = await receive()
            received += len(message["body"])
        await send(start)  # type: ignore[arg-type]  # a plain dictionary is what a message is
        await send(end)  # type: ignore[arg-type]  # the same

    return Litestar(route_handlers=[answer], openapi_config=None, logging_config=None)


def main(port: int, answer_file: Path) -> None:
    """Run until told to stop."""
    server: Any = Granian(
        "bench.harness.floor",
        port=port,
        interface=Interfaces.ASGI,
        workers=1,
        loop=Loops.uvloop,
        http1_settings=HTTP1Settings(),
        websockets=False,
        log_level=LogLevels.warning,
        log_access=False,
    )
    server.serve(target_loader=lambda: _build(answer_file), wrap_loader=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
