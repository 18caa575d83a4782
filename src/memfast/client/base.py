"""What both clients are made with."""

from __future__ import annotations

import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from random import Random, SystemRandom

from memfast.client.operations import Operations
from memfast.client.session import Session, Settings

__all__ = ["Base"]


class Base(Operations, ABC):
    """A client of one service. Making it connects nothing.

    Args:
        url: where the service is; without it MEMFAST_URL, else http://127.0.0.1:8077.
        api_key: without it MEMFAST_API_KEY, else none.
        timeout_s: seconds for a call, all tries together; the service is told of it. Without it 30, and the service
            keeps to its own bounds.
        retries: further tries of a call that may succeed later.
        connections_max: connections at once; whoever needs another one waits.
        users_max: users of whom it is remembered how far the client's own writes have come.
        tls: certificates to trust for https; without it the system's.
        clock: seconds that only grow.
        random: of pauses and idempotency keys, which must not repeat; SystemRandom does not, also after a fork.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float | None = None,
        retries: int = 6,
        connections_max: int = 64,
        users_max: int = 10_000,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self._session = Session(
            Settings(
                url=url,
                api_key=api_key,
                timeout_s=timeout_s,
                retries=retries,
                connections_max=connections_max,
                users_max=users_max,
                tls=tls,
                clock=clock,
                random=random or SystemRandom(),
            )
        )
        self._open()

    @abstractmethod
    def _open(self) -> None:
        """Make what the calls of `_session` go over."""

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._session.url

    def token(self, user_id: str) -> str | None:
        """The token of this client's newest write of a user: `min_version` for a read by another client."""
        return self._session.tokens.get(user_id)
