"""Deleting memories and forgetting users."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from memfast.errors import NotFound
from memfast.model import Delete, ForgetReceipt, Outcome, Scope
from memfast.service.writer import Writer

__all__ = ["Forget"]


class Forget:
    """Removes what was stored."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def delete(
        self,
        scope: Scope,
        target: UUID,
        *,
        expected_versions: frozenset[int] | None,
        purge: bool = False,
        actor: str | None = None,
    ) -> Outcome:
        """Delete one memory; doing so again is no error.

        What it said stays in history for a time; with `purge` it is erased there too, also of what was deleted before.

        Raises:
            NotFound: the scope never had a memory of that id.
            PreconditionFailed: it has none of the versions expected.
        """
        change = Delete(scope=scope, id=target, expected_versions=expected_versions, purge=purge, actor=actor)
        outcome = (await self._writer.commit([change]))[0]
        if outcome.refused is not None:
            raise outcome.refused
        return outcome

    async def delete_many(
        self, scope: Scope, targets: Sequence[UUID], *, purge: bool = False, actor: str | None = None
    ) -> list[Outcome]:
        """Delete memories of a scope in one transaction; each has its own outcome, in order. See `delete`."""
        changes = [Delete(scope=scope, id=target, purge=purge, actor=actor) for target in targets]
        return await self._writer.commit(changes, background=len(changes) > 1)

    async def user(self, scope: Scope) -> ForgetReceipt:
        """Erase a user: memories, vectors, tombstones, history and the name.

        Raises:
            NotFound: there is nothing under that name.
        """
        receipt = await self._writer.forget(scope)
        if receipt is None:
            raise NotFound(f"there is no user {scope.user_id!r}")
        return receipt
