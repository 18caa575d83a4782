"""A client of a service on several hosts: it sends the token of a user's last write along with every read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from bench.coherence.fleet import Answer

__all__ = ["TokenClient", "Tokens"]

_USER = re.compile(r"(?:user_id=|/users/)([^&/?]+)")

Tokens = dict[str, tuple[int, str]]
"""By user: the highest version that was acknowledged, and the token that came with it."""


class TakesHeaders(Protocol):
    """A worker that requests with headers of one's own can be sent to."""

    async def ask(self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str]) -> Answer:
        """One request."""
        ...


class TokenClient:
    """A worker as such a client sees it: `driver.Asked`.

    Args:
        worker: on one of the hosts.
        tokens: shared by the clients of all hosts, as by a user's devices.
        header: the name of the header that the token is sent in.
    """

    def __init__(self, worker: TakesHeaders, tokens: Tokens, header: str = "Memfast-Min-Version") -> None:
        self._worker = worker
        self._tokens = tokens
        self._header = header

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """See `driver.Asked.ask`."""
        user = _user(path, body)
        _, token = self._tokens.get(user, (0, ""))
        answer = await self._worker.ask(method, path, body, headers={self._header: token} if token else {})
        if answer.token and answer.version > self._tokens.get(user, (0, ""))[0]:
            self._tokens[user] = (answer.version, answer.token)
        return answer


def _user(path: str, body: Any) -> str:
    if isinstance(body, dict) and "user_id" in body:
        return str(body["user_id"])
    found = _USER.search(path)
    return found[1] if found else ""
