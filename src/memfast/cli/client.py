"""How commands speak with a running service."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx

from memfast.config import Config

__all__ = ["detail_of", "each_worker", "open_client", "service_url"]

_TIMEOUT_S = 120.0

_AT_ONCE = 8
"""Connections that are opened at the same moment: one after the other a single worker may take them all."""

_ROUNDS_MAX = 16
"""How often that is tried until every worker has answered."""

_PAUSE_S = 0.02
"""The pause after the first try, in seconds; each further one is longer by as much, 2.4 in all: a worker that is busy
leaves its connections to the others."""


def each_worker(config: Config, url: str | None) -> Iterator[tuple[int, httpx.Client]]:
    """The id of each worker that could be reached, and a client whose connection leads to it while it is looked at.

    Raises:
        httpx.TransportError: nobody answers, or not any more.
    """
    seen = set[int]()
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for turn in range(1, _ROUNDS_MAX + 1):
            with ExitStack() as stack:
                clients = [stack.enter_context(open_client(config, url)) for _ in range(_AT_ONCE)]
                for pid, client in zip(threads.map(_worker, clients), clients, strict=True):
                    if pid not in seen:
                        seen.add(pid)
                        yield pid, client
            if len(seen) >= config.server.workers or turn == _ROUNDS_MAX:
                return
            time.sleep(_PAUSE_S * turn)


def _worker(client: httpx.Client) -> int:
    pid: int = client.get("/v1/health").json()["pid"]
    return pid


def open_client(config: Config, url: str | None) -> httpx.Client:
    """A client of the configured service, or of the one at `url`, with the key of MEMFAST_API_KEY."""
    key = os.environ.get("MEMFAST_API_KEY", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = service_url(config, url)
    secure = not url.startswith("http://")  # reading the trusted certificates takes 30 ms
    return httpx.Client(base_url=url, timeout=_TIMEOUT_S, headers=headers, verify=secure)


def service_url(config: Config, url: str | None) -> str:
    """Where the service is: the configured address, if no other is named."""
    host = "127.0.0.1" if config.server.host in {"0.0.0.0", "::"} else config.server.host  # noqa: S104 - compared only
    return url or f"http://{f'[{host}]' if ':' in host else host}:{config.server.port}"


def detail_of(response: httpx.Response) -> str:
    """What a refusal says."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
