"""Deleting memories and forgetting users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from memfast.claims import Claim
from memfast.errors import InvalidRequest, NotFound, Rejected
from memfast.filters import tests_of
from memfast.model import Delete, ForgetReceipt, Outcome, Scope
from memfast.ports import Clock, MemoryStore
from memfast.service.associations import Associations
from memfast.service.copies import Copies
from memfast.service.filters import read_filter
from memfast.service.limits import Limits
from memfast.service.sweeps import STEP_ROWS
from memfast.service.writer import Writer

__all__ = ["REMOVED_IDS_MAX", "REMOVED_MAX", "Forget", "Removal"]

REMOVED_MAX = 10_000
"""Memories that one delete by filter removes, in steps of `STEP_ROWS`."""

REMOVED_IDS_MAX = 1000
"""Ids of them that are told."""


class Removal(Struct, frozen=True, kw_only=True):
    """What a delete by filter did. `version` is the scope's after it; see `http.wire.RemovalAnswer` for the rest."""

    matched: int = 0
    deleted: int = 0
    changed: int = 0
    has_more: bool = False
    version: int = 0
    ids: list[UUID] = []

    def after(self, outcomes: Sequence[Outcome]) -> Removal:
        """With a step of deletes that came to this."""
        deleted = [outcome.id for outcome in outcomes if outcome.refused is None]
        return msgspec.structs.replace(
            self,
            matched=self.matched + len(outcomes),
            deleted=self.deleted + len(deleted),
            changed=self.changed + len(outcomes) - len(deleted),
            version=max(self.version, *(outcome.scope_version for outcome in outcomes)),
            ids=[*self.ids, *deleted][:REMOVED_IDS_MAX],
        )


class Forget:
    """Removes what was stored.

    Args:
        store: finds what a filter means.
        writer: the way of every change.
        copies: what this worker keeps beside the store.
        associations: memories that wait for links.
        limits: bounds of filters.
        clock: wall time.
    """

    def __init__(
        self,
        store: MemoryStore,
        writer: Writer,
        copies: Copies,
        associations: Associations,
        limits: Limits,
        clock: Clock,
    ) -> None:
        self._store = store
        self._writer = writer
        self._copies = copies
        self._associations = associations
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
        claim: Claim | None = None,
    ) -> Removal:
        """Delete the memories that a listing with this filter would show now, `limit` at most, in order of id.

        Each step is a transaction, of which the last one answers a claim. What is stored or changed after the first
        look is left alone; with `dry_run` all is.

        Raises:
            InvalidRequest: the filter is not valid, or names no condition.
            Unavailable: the store failed; steps before that are done, and the same request does the rest.
        """
        where = read_filter(wanted, self._limits, "$.filter")
        if next(tests_of(where), None) is None:
            detail = "$.filter: names no condition; DELETE /v1/users/{user_id} is what erases a whole user"
            raise InvalidRequest(detail, path="$.filter")
        done, first, upto = Removal(), UUID(int=0), None
        while True:
            step = min(STEP_ROWS, limit - done.matched)
            now = self._clock.now()
            page, version = await self._store.matching(scope, where, first=first, upto=upto, limit=step + 1, now=now)
            upto = version if upto is None else upto
            found, rest = page[:step], page[step:]
            reached = done.matched + len(found) >= limit
            done = msgspec.structs.replace(done, version=max(done.version, version), has_more=bool(rest) and reached)
            if dry_run:
                ids = [*done.ids, *(target for target, _ in found)][:REMOVED_IDS_MAX]
                done = msgspec.structs.replace(done, matched=done.matched + len(found), ids=ids)
            elif found:
                own = claim if not rest or reached else None
                done = await self._remove(scope, found, done, purge=purge, actor=actor, claim=own)
            if not rest or reached:
                return done
            first = rest[0][0]

    async def _remove(
        self,
        scope: Scope,
        found: Sequence[tuple[UUID, int]],
        done: Removal,
        *,
        purge: bool,
        actor: str | None,
        claim: Claim | None,
    ) -> Removal:
        changes = [
            Delete(scope=scope, id=target, expected_versions=frozenset({version}), purge=purge, actor=actor)
            for target, version in found
        ]
        own = None if claim is None else claim.of(done.after)
        outcomes = await self._writer.commit(changes, background=True, claim=own)
        for outcome in outcomes:
            if outcome.refused is not None and not isinstance(outcome.refused, Rejected):
                raise outcome.refused
        return done.after(outcomes)

    async def user(self, scope: Scope, *, claim: Claim | None = None) -> ForgetReceipt:
        """Erase a user: memories, vectors, tombstones, history, kept answers, the name, and what this worker keeps.

        Raises:
            NotFound: there is nothing under that name.
        """
        copies = msgspec.structs.asdict(await self._copies.kept(scope.id))  # a forget that is refused leaves them alone
        copies["redis"] = await self._copies.erase_shared(scope.id)
        receipt = await self._writer.forget(scope, claim, copies)
        if receipt is None:
            raise NotFound(f"there is no user {scope.user_id!r}")
        self._associations.forget(scope.id)
        await self._copies.erase(scope.id)
        return receipt
