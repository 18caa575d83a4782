"""What tools, resources and prompts are given: the request, the worker's services, and whose memories are meant."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import unquote

from memfast.bootstrap import Services
from memfast.errors import Forbidden, InvalidRequest
from memfast.http.exchange import Exchange
from memfast.model import Scope
from memfast.service.answers import Answer, Target

__all__ = ["USER_HEADER", "Call"]

USER_HEADER = b"memfast-user"
"""The header that says whom a connection is for: a user's id, percent-encoded UTF-8."""


class Call:
    """A message that is being served. `basis` is the latest answer that was read for it."""

    __slots__ = ("actor", "basis", "exchange", "services")

    def __init__(self, exchange: Exchange, services: Services) -> None:
        self.exchange = exchange
        self.services = services
        self.actor = exchange.principal.key_id
        self.basis: Answer | None = None

    def fixed_user(self) -> str | None:
        """The one user that this connection is for: of the header `Memfast-User`, else of the key; `scope` checks both.

        Raises:
            InvalidRequest: the header is not percent-encoded UTF-8.
        """
        key_user = self.exchange.principal.user_id
        header = self.exchange.headers.get(USER_HEADER)
        if header is None:
            return key_user
        try:
            named = unquote(header.decode("ascii"), errors="strict")
        except UnicodeDecodeError as error:
            raise InvalidRequest("Memfast-User: must be a user's id in percent-encoded UTF-8") from error
        return self.services.limits.user_id(named, "Memfast-User")

    def user(self, given: str | None) -> str:
        """Whose memories are meant.

        Args:
            given: the user_id among the arguments.

        Raises:
            InvalidRequest: nobody is named.
            Forbidden: somebody else than the one this connection is for.
        """
        fixed = self.fixed_user()
        if fixed is not None:
            if given not in {None, fixed}:
                raise Forbidden("user_id: this connection is for another user; leave user_id out", path="user_id")
            return fixed
        if given is None:
            raise InvalidRequest(
                "user_id: say whose memories are meant; neither the API key nor the header Memfast-User names a user",
                path="user_id",
            )
        return self.services.limits.user_id(given, "user_id")

    def scope(self, given: str | None) -> Scope:
        """The scope of the user who is meant; see `user`."""
        return self.exchange.scope(self.user(given))

    async def read(self, scope: Scope, read: Callable[[], Awaitable[tuple[Answer, Target]]]) -> tuple[Answer, Target]:
        """The answer of a read that is as new as the request's headers ask for; see `service.freshness`."""
        demand = self.exchange.demand(None, None)
        answer, target = await self.services.freshness.read(scope.id, demand, read)
        self.exchange.unconfirmed(answer.unconfirmed_s)
        self.basis = answer
        return answer, target
