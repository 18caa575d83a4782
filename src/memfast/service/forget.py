"""Deleting memories and forgetting users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct

from memfast.claims import Claim
from memfast.errors import InvalidRequest, NotFound, Rejected
from memfast.filters import tests_of
from memfast.model import Delete, ForgetReceipt, Outcome, Scope
from memfast.ports import Clock, MemoryStore
from memfast.service.filters import read_filter
from memfast.service.limits import Limits
from memfast.service.sweeps import STEP_ROWS
from memfast.service.writer import Writer

__all__ = ["REMOVED_IDS_MAX", "REMOVED_MAX", "Forget", "Removal"]

REMOVED_MAX = 10_000
"""Memories that one delete by filter removes, in steps of `STEP_ROWS`."""

REMOVED_IDS_MAX = 1000
"""Ids of them that are told."""


class Removal(Struct, kw_only=True):
    """What a delete by filter did. `version` is the scope's after it; see `http.wire.RemovalAnswer` for the rest."""

    matched: int = 0
    deleted: int = 0
    changed: int = 0
    has_more: bool = False
    version: int = 0
    ids: list[UUID] = []


class Forget:
    """Removes what was stored.

    Args:
        store: finds what a filter means.
        writer: the way of every change.
        limits: bounds of filters.
        clock: wall time.
    """

    def __init__(self, store: MemoryStore, writer: Writer, limits: Limits, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._limits = limits
        self._clock = clock

    async def delete(
        self,
        scope: Scope,
        target: UUID,
        *,
        expected_versions: frozenset[int] | None,
        purge: bool = False,
        actor: str | None = None,
        claim: Claim | None = None,
    ) -> Outcome:
        """Delete one memory; doing so again is no error.

        What it said stays in history for a time; with `purge` it is erased there too, also of what was deleted before.

        Raises:
            NotFound: the scope never had a memory of that id.
            PreconditionFailed: it has none of the versions expected.
        """
        change = Delete(scope=scope, id=target, expected_versions=expected_versions, purge=purge, actor=actor)
        outcome = (await self._writer.commit([change], claim=claim))[0]
        if outcome.refused is not None:
            raise outcome.refused
        return outcome

    async def delete_many(
        self,
        scope: Scope,
        targets: Sequence[UUID],
        *,
        purge: bool = False,
        actor: str | None = None,
        claim: Claim | None = None,
    ) -> list[Outcome]:
        """Delete memories of a scope in one transaction; each has its own outcome, in order. See `delete`."""
        changes = [Delete(scope=scope, id=target, purge=purge, actor=actor) for target in targets]
        return await self._writer.commit(changes, background=len(changes) > 1, claim=claim)

    async def delete_matching(
        self,
        scope: Scope,
        wanted: dict[str, Any],
        *,
        limit: int = REMOVED_MAX,
        dry_run: bool = False,
        purge: bool = False,
        actor: str | None = None,
    ) -> Removal:
        """Delete the memories that a listing with this filter would show now, `limit` at most, in order of id.

        Each step is a transaction. What is stored or changed after the first look is left alone; with `dry_run` all is.

        Raises:
            InvalidRequest: the filter is not valid, or names no condition.
            Unavailable: the store failed; steps before that are done, and the same request does the rest.
        """
        where = read_filter(wanted, self._limits, "$.filter")
        if next(tests_of(where), None) is None:
            detail = "$.filter: names no condition; DELETE /v1/users/{user_id} is what erases a whole user"
            raise InvalidRequest(detail, path="$.filter")
        done, first, upto = Removal(), UUID(int=0), None
        while not done.has_more:
            step = min(STEP_ROWS, limit - done.matched)
            now = self._clock.now()
            page, version = await self._store.matching(scope, where, first=first, upto=upto, limit=step + 1, now=now)
            done.version, upto = max(done.version, version), version if upto is None else upto
            found, rest = page[:step], page[step:]
            if found and not dry_run:
                await self._remove(scope, found, done, purge=purge, actor=actor)
            elif dry_run:
                done.ids += [target for target, _ in found]
            done.matched += len(found)
            done.has_more = bool(rest) and done.matched >= limit
            if not rest:
                break
            first = rest[0][0]
        done.ids = done.ids[:REMOVED_IDS_MAX]
        return done

    async def _remove(
        self, scope: Scope, found: Sequence[tuple[UUID, int]], done: Removal, *, purge: bool, actor: str | None
    ) -> None:
        changes = [
            Delete(scope=scope, id=target, expected_versions=frozenset({version}), purge=purge, actor=actor)
            for target, version in found
        ]
        for outcome in await self._writer.commit(changes, background=True):
            if outcome.refused is None:
                done.ids.append(outcome.id)
                done.deleted += 1
            elif isinstance(outcome.refused, Rejected):
                done.changed += 1
            else:
                raise outcome.refused
            done.version = max(done.version, outcome.scope_version)

    async def user(self, scope: Scope, *, claim: Claim | None = None) -> ForgetReceipt:
        """Erase a user: memories, vectors, tombstones, history, kept answers and the name.

        Raises:
            NotFound: there is nothing under that name.
        """
        receipt = await self._writer.forget(scope, claim)
        if receipt is None:
            raise NotFound(f"there is no user {scope.user_id!r}")
        return receipt
