"""Who has memories here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from uuid import UUID

from msgspec import Struct

from memfast.errors import Conflict, NotFound
from memfast.metrics import Stage, measured
from memfast.model import Owner, Scope, User
from memfast.ports import MemoryStore
from memfast.service.cursors import Cursors
from memfast.service.limits import Limits

__all__ = ["NOTED_MAX", "Directory", "UsersPage"]

NOTED_MAX = 16_384
"""Ids of memories of which a worker notes whose they were last, some 4 MB."""


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
        self._noted: OrderedDict[str, UUID] = OrderedDict()

    def note(self, scope_id: UUID, ids: Iterable[str]) -> None:
        """These memories were shown as the scope's. No name is noted, and nothing that is noted counts unverified."""
        for each in ids:
            self._noted[each] = scope_id
            self._noted.move_to_end(each)
        while len(self._noted) > NOTED_MAX:
            self._noted.popitem(last=False)

    async def list(self, namespace: str, *, limit: int, cursor: str | None) -> UsersPage:
        """One page of a namespace's users, in byte order of their ids.

        Raises:
            InvalidRequest: the limit or the cursor is not valid.
        """
        binding = b"users:" + namespace.encode()
        after = None if cursor is None else self._cursors.open(cursor, str, binding=binding)
        with measured(Stage.SQL):
            page = await self._store.users(namespace, after, self._limits.page(limit, "limit"))
        following = self._cursors.seal(page.users[-1].user_id, binding=binding) if page.has_more else None
        return UsersPage(page.users, following)

    async def get(self, scope: Scope) -> User:
        """One user.

        Raises:
            NotFound: nothing was ever stored under that name, or it was forgotten.
        """
        with measured(Stage.SQL):
            user = await self._store.user(scope)
        if user is None:
            raise NotFound(f"there is no user {scope.user_id!r}")
        return user

    async def owners(self, namespace: str, ids: Sequence[UUID]) -> dict[UUID, str]:
        """Whose memories these are, for a face that names memories without their users.

        A memory that was deleted is found too, as long as its tombstone lasts and nobody has one of its id. It takes
        time for every user of the namespace.

        Raises:
            Conflict: several users have one of the id: a memory is named by its user and its id.
        """
        found: dict[UUID, list[Owner]] = {}
        for owner in await self._store.owners(namespace, ids):
            found.setdefault(owner.id, []).append(owner)
        return {target: _only(target, owners) for target, owners in found.items()}

    async def reader(self, namespace: str, target: UUID) -> str | None:
        """Whose memory to show by its id alone: the noted user's, if it still is, else as `owners`; None = nobody's.

        Of a memory that several users have by now, the noted one is shown; a change has to look at them all.

        Raises:
            Conflict: several users have one of the id, and none is noted.
        """
        noted = self._noted.get(str(target))
        if noted is not None:
            for owner in await self._store.owners(namespace, [target], noted):
                if owner.lives:
                    return owner.user_id
        return (await self.owners(namespace, [target])).get(target)


def _only(target: UUID, owners: Sequence[Owner]) -> str:
    candidates = [owner for owner in owners if owner.lives] or owners
    if len(candidates) > 1:
        raise Conflict(
            f"{len(candidates)} users have a memory with the id {target}; use an API key that was made for one of them"
        )
    return candidates[0].user_id
