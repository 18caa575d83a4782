"""A client of a service on several hosts: it sends the token of a user's last write along with every read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Protocol

from bench.coherence.fleet import Answer

__all__ = ["TokenClient", "Tokens"]

_USER = re.compile(r"(?:user_id=|/users/)([^&/?]+)")

_READS = frozenset({"/v1/search", "/v1/memories/get"})

REFUSALS_MAX = 50
"""How often a read is repeated that the service refuses for want of time."""
_PAUSE_S = 0.1

Tokens = dict[str, tuple[int, str]]
"""By user: the highest version that was acknowledged, and the token that came with it, empty if none says enough."""


class TakesHeaders(Protocol):
    """A worker that requests with headers of one's own can be sent to."""

    async def ask(self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str]) -> Answer:
        """One request."""
        ...


class TokenClient:
    """A worker as such a client sees it: `driver.Asked`.

    A write that is refused may raise the version and has no token: until the next one reads ask for the newest state.

    Args:
        worker: on one of the hosts.
        tokens: shared by the clients of all hosts, as by a user's devices.
        silent: send neither.
    """

    def __init__(self, worker: TakesHeaders, tokens: Tokens, *, silent: bool = False) -> None:
        self._worker = worker
        self._tokens = tokens
        self._silent = silent

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """See `driver.Asked.ask`."""
        user = _user(path, body)
        version, token = self._tokens.get(user, (0, ""))
        headers = {} if not version else {"Memfast-Min-Version": token} if token else {"Memfast-Consistency": "strong"}
        headers = {} if self._silent else headers
        answer = await self._worker.ask(method, path, body, headers=headers)
        for _ in range(REFUSALS_MAX):  # a read that cannot be answered in time is not a stale one
            if answer.status not in {503, 504} or not (method == "GET" or path in _READS):
                break
            await asyncio.sleep(_PAUSE_S)
            answer = await self._worker.ask(method, path, body, headers=headers)
        highest = self._tokens.get(user, (0, ""))[0]
        if answer.token and answer.version > highest:
            self._tokens[user] = (answer.version, answer.token)
        elif answer.status >= 400 and method != "GET":
            self._tokens[user] = (max(1, highest), "")
        return answer


def _user(path: str, body: Any) -> str:
    if isinstance(body, dict) and "user_id" in body:
        return str(body["user_id"])
    found = _USER.search(path)
    return found[1] if found else ""
