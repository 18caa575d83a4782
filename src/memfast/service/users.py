"""Who has memories here."""

from __future__ import annotations

from msgspec import Struct

from memfast.errors import NotFound
from memfast.model import Scope, User
from memfast.ports import MemoryStore
from memfast.service.cursors import Cursors
from memfast.service.limits import Limits

__all__ = ["Directory", "UsersPage"]


class UsersPage(Struct, frozen=True):
    """A page of users and the cursor of the next one (None on the last)."""

    users: list[User]
    next_cursor: str | None


class Directory:
    """The users of a namespace."""

    def __init__(self, store: MemoryStore, limits: Limits, cursors: Cursors) -> None:
        self._store = store
        self._limits = limits
        self._cursors = cursors

    async def list(self, namespace: str, *, limit: int, cursor: str | None) -> UsersPage:
        """One page of a namespace's users, in byte order of their ids.

        Raises:
            InvalidRequest: the limit or the cursor is not valid.
        """
        binding = b"users:" + namespace.encode()
        after = None if cursor is None else self._cursors.open(cursor, str, binding=binding)
        page = await self._store.users(namespace, after, self._limits.page(limit, "limit"))
        following = self._cursors.seal(page.users[-1].user_id, binding=binding) if page.has_more else None
        return UsersPage(page.users, following)

    async def get(self, scope: Scope) -> User:
        """One user.

        Raises:
            NotFound: nothing was ever stored under that name, or it was forgotten.
        """
        user = await self._store.user(scope)
        if user is None:
            raise NotFound(f"there is no user {scope.user_id!r}")
        return user
