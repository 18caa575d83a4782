"""The service that a quality run talks to: a running one, or one of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlsplit

from bench.harness.load import Connection, call
from bench.harness.service import Service, scratch_dir

__all__ = ["forget", "served", "store"]

_BATCH_ITEMS = 1000


@contextmanager
def served(url: str | None) -> Iterator[tuple[str, int]]:
    """The address of the service at `url`, or of a fresh one that ends with the block."""
    if url is not None:
        parts = urlsplit(url)
        yield parts.hostname or "127.0.0.1", parts.port or 80
        return
    with scratch_dir() as root, Service(root / "data") as service:
        yield service.address


async def store(connection: Connection, user_id: str, memories: Sequence[dict[str, Any]]) -> None:
    """Store memories in batches.

    Raises:
        RuntimeError: the service did not take one of them.
    """
    for start in range(0, len(memories), _BATCH_ITEMS):
        items = memories[start : start + _BATCH_ITEMS]
        body = {"user_id": user_id, "memories": items}
        answer = await call(connection, "POST", "/v1/memories/batch", body)
        refused = [result["problem"]["detail"] for result in answer["results"] if result["status"] == "error"]
        if refused:
            raise RuntimeError(f"{len(refused)} of {len(items)} memories were refused: {refused[0]}")


async def forget(connection: Connection, user_id: str) -> None:
    """Leave nothing behind."""
    await call(connection, "DELETE", f"/v1/users/{quote(user_id, safe='')}")
