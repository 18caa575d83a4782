"""Answers that are kept under idempotency keys: found and written under the lock on their scope, and `KeyedAnswers`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from memfast.claims import Claim, Kept, Written
from memfast.model import Change, Outcome, Scope
from memfast.store.pool import Pool
from memfast.store.queries import READ, WRITE

__all__ = ["PostgresKeyedAnswers", "find_answer", "find_answers", "keep_answer", "keep_answers"]

_decoder = msgspec.msgpack.Decoder(Written)


class PostgresKeyedAnswers:
    """Answers by key, read by themselves: what is found here needs no transaction."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, scope: Scope, key: bytes, *, now: datetime) -> Kept | None:
        """See `ports.KeyedAnswers.find`."""
        records = await self._pool.fetch(READ.kept_answer, scope.id, key, now)
        return _kept(records[0]) if records else None


async def find_answers(connection: Any, changes: Sequence[Change], *, now: datetime) -> dict[int, Kept]:
    """What changes with a claim were answered before, by their positions.

    Their scopes are locked, so that no other transaction writes answers of theirs. Keys that are taken no longer become
    free.
    """
    asked: dict[UUID, dict[bytes, list[int]]] = {}
    for position, change in enumerate(changes):
        if change.claim is not None:
            asked.setdefault(change.scope.id, {}).setdefault(change.claim.key, []).append(position)
    if not asked:
        return {}
    found: dict[int, Kept] = {}
    arguments = [(scope_id, list(keys), now) for scope_id, keys in asked.items()]
    for record in await connection.fetchmany(WRITE.kept_answers, arguments):
        kept = _kept(record)
        for position in asked[record["scope_id"]][record["key"]]:
            found[position] = kept
    return found


async def find_answer(connection: Any, scope: Scope, claim: Claim, *, now: datetime) -> Kept | None:
    """What a claim was answered before; its scope is locked."""
    record = await connection.fetchrow(WRITE.kept_answers, scope.id, [claim.key], now)
    return None if record is None else _kept(record)


async def keep_answers(connection: Any, changes: Sequence[Change], outcomes: Sequence[Outcome]) -> None:
    """Keep the answers to claims whose changes have these outcomes, unless all were refused.

    Where two requests of one transaction have the same key, it fails, and they are written one by one.
    """
    claims: dict[tuple[UUID, Claim], list[Outcome]] = {}
    for change, outcome in zip(changes, outcomes, strict=True):
        if change.claim is not None and outcome.before is None:
            claims.setdefault((change.scope.id, change.claim), []).append(outcome)
    rows = [
        _row(scope_id, claim, claim.answer(own))
        for (scope_id, claim), own in claims.items()
        if any(outcome.refused is None for outcome in own)
    ]
    if rows:
        await connection.executemany(WRITE.keep_answer, rows)


async def keep_answer(connection: Any, scope: Scope, claim: Claim, result: Any) -> None:
    """Keep the answer to a claim that came to this result."""
    await connection.execute(WRITE.keep_answer, *_row(scope.id, claim, claim.answer(result)))


def _row(scope_id: UUID, claim: Claim, written: Written) -> tuple[Any, ...]:
    encoded = msgspec.msgpack.encode(written)
    return scope_id, claim.key, claim.request, written.shows, claim.expires_at, encoded


def _kept(record: Any) -> Kept:
    answer = record["answer"]
    return Kept(record["request"], None if answer is None else _decoder.decode(answer))
