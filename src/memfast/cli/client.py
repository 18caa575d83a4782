"""How commands speak with a running service."""

from __future__ import annotations

import os

import httpx

from memfast.config import Config

__all__ = ["detail_of", "open_client", "service_url"]

_TIMEOUT_S = 120.0


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
