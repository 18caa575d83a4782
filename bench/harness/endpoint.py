"""An embedding endpoint that takes its time: the OpenAI protocol over HTTP, on the loop of whoever measures."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import numpy as np

from bench.harness.corpus import DIMENSIONS, unit_vectors

__all__ = ["slow_endpoint"]


@asynccontextmanager
async def slow_endpoint(delay_s: float) -> AsyncIterator[str]:
    """Give any text some unit vector after `delay_s`, however many ask at once; the value is the base address."""
    encoded = base64.b64encode(unit_vectors(np.random.default_rng(5), 1)[0].astype("<f4").tobytes()).decode()
    busy: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        try:
            while texts := await _texts(reader):
                await asyncio.sleep(delay_s)
                data = [{"object": "embedding", "index": n, "embedding": encoded} for n in range(len(texts))]
                body = msgspec.json.encode({"object": "list", "model": "slow", "data": data, "usage": {}})
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            busy.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in list(busy):
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await server.wait_closed()


async def _texts(reader: asyncio.StreamReader) -> list[str]:
    """The texts of one request; none when the client has gone."""
    head = await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b""
    if not head:
        return []
    _, _, rest = head.lower().partition(b"content-length:")
    request = msgspec.json.decode(await reader.readexactly(int(rest.partition(b"\r\n")[0])))
    assert request.get("dimensions", DIMENSIONS) == DIMENSIONS
    return list(request["input"])
