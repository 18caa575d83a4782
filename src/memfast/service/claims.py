"""Requests with an `Idempotency-Key`: each is done once, whoever sends it how often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from hashlib import blake2b
from typing import Any, TypeVar
from uuid import UUID

from memfast.claims import AnsweredBeforeError, Claim, Kept, Written
from memfast.errors import KeyInUse, OutcomeUnknown
from memfast.model import Scope
from memfast.ports import Clock, KeyedAnswers

__all__ = ["Claims"]

_KEY_BYTES = 16

_T = TypeVar("_T")


class Claims:
    """Keeps requests with the same key apart from each other.

    Those that this worker has wait for the first; beyond the worker the scope's lock in the store decides, so that
    nothing here is needed for a write to happen once. As many may wait as requests may be under way.

    Args:
        answers: what was answered before.
        clock: wall time.
        retention: how long a key is taken.
    """

    def __init__(self, answers: KeyedAnswers, clock: Clock, retention: timedelta) -> None:
        self._answers = answers
        self._clock = clock
        self._retention = retention
        self._under_way: dict[tuple[UUID, bytes], asyncio.Future[Kept | None]] = {}

    async def once(
        self,
        scope: Scope,
        key: bytes,
        request: bytes,
        work: Callable[[Claim], Awaitable[_T]],
        answer: Callable[[_T], Written],
    ) -> tuple[Written, bool]:
        """The answer to a request, and whether it was given before.

        Args:
            scope: the one that the request writes to.
            key: as the client sent it.
            request: digest of what the request says.
            work: does the write under a claim.
            answer: see `claims.Claim`.

        Raises:
            KeyReused: the key belongs to another request.
            KeyInUse: the request's time was up while the first one was under way; nothing was begun.
            AnswerErased: see `claims.Kept`.
        """
        digest = blake2b(key, digest_size=_KEY_BYTES).digest()
        place = (scope.id, digest)
        while (first := self._under_way.get(place)) is not None:
            earlier = await _ended(first)
            if earlier is not None:
                return earlier.answer_to(request), True
        ended = self._under_way[place] = asyncio.get_running_loop().create_future()
        kept: Kept | None = None
        try:
            now = self._clock.now()
            kept = await self._answers.find(scope, digest, now=now)
            if kept is None:
                claim = Claim(key=digest, request=request, expires_at=now + self._retention, answer=answer)
                written = answer(await _done(work, claim))
                kept = Kept(request, written)
                return written, False
        except AnsweredBeforeError as error:
            kept = error.kept
        finally:
            del self._under_way[place]
            ended.set_result(kept)
        return kept.answer_to(request), True


async def _ended(first: asyncio.Future[Kept | None]) -> Kept | None:
    """What was answered to the request that came first; None where it failed."""
    try:
        return await asyncio.shield(first)
    except asyncio.CancelledError:
        raise KeyInUse(
            "Idempotency-Key: the first request with this key is still under way; send it again with the same key",
            begun=False,
        ) from None


async def _done(work: Callable[[Claim], Awaitable[Any]], claim: Claim) -> Any:
    try:
        return await work(claim)
    except OutcomeUnknown as error:
        detail = "whether the write happens is not known yet; send it again with the same key, and it happens once"
        raise OutcomeUnknown(detail, retry_after_s=error.retry_after_s) from error
