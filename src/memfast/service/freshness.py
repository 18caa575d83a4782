"""How new an answer must be: what a read's token, or its wish for the newest state, asks of what may answer it.

Within a host slots say which copies are good, and every read sees every acknowledged write. What another host wrote
they do not say. A **token**, which every write is answered with, names the version that a read must show at least:
copies that are new enough answer at once, others are brought up to the database's state first. Without a token a
service of several hosts (`coherence.mode = cluster`) believes copies of a scope for `TRUST_S` and then asks before it
uses one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

from memfast.errors import MemfastError, NotFound, OtherLineage, StoreUnavailable, VersionAhead
from memfast.service.answers import Answer, Target
from memfast.service.coherence import Coherence
from memfast.service.tokens import Token

__all__ = ["ATTEMPTS", "CONFIRM_S", "Demand", "Freshness"]

CONFIRM_S = 0.1
"""How long a read waits until copies whose trust has ended are confirmed, in seconds; then it uses them as they are."""

ATTEMPTS = 3
"""How often a read is made. The first may join a computation that is too old, the second one that began before it was
known to be; the third cannot."""


class Demand(NamedTuple):
    """What a read asks for: not older than the token, and with `strong` not older than the read itself."""

    token: Token | None
    strong: bool = False


class Freshness:
    """Lets reads be answered from a state that is new enough."""

    def __init__(self, coherence: Coherence) -> None:
        self._coherence = coherence

    async def read(
        self, scope_id: UUID, demand: Demand | None, read: Callable[[], Awaitable[tuple[Answer, Target]]]
    ) -> tuple[Answer, Target]:
        """The answer of a read that meets its demand.

        Args:
            scope_id: whose.
            demand: what is asked for beyond what every read gives.
            read: makes the read; may be called `ATTEMPTS` times.

        Raises:
            OtherLineage: the token is of another life of the database.
            VersionAhead: the token's version does not exist.
            StoreUnavailable: no copy is new enough, and the database cannot be asked.
        """
        if demand is None:
            if self._coherence.trusts(scope_id.bytes):
                return await read()
            unconfirmed_s = await self._confirm(scope_id)
            answer, target = await read()
            return answer._replace(unconfirmed_s=unconfirmed_s), target
        needed = await self._needed(scope_id, demand)
        for attempt in range(ATTEMPTS):
            epochs = self._coherence.epochs(scope_id)
            try:
                found = await read()
            except NotFound:
                if attempt > 0 or needed == 0:
                    raise
            else:
                if found[0].state >= needed:
                    return found
            current = await self._at_least(scope_id, needed)
            if self._coherence.holds(epochs):  # what answered had begun before that state was committed
                self._coherence.wrote(scope_id, current)
        raise StoreUnavailable("the user's memories changed too often to be read in the state that was asked for")

    async def _needed(self, scope_id: UUID, demand: Demand) -> int:
        """The version to be shown, with copies that are older made void."""
        token, coherence = demand.token, self._coherence
        if token is not None and token.lineage != coherence.facts.lineage:
            await coherence.confirm(scope_id)  # a new life may have begun, of which the other host heard first
            if token.lineage != coherence.facts.lineage:
                raise OtherLineage("the token was given before the database was restored or replaced; read without it")
        version = 0 if token is None else token.version
        if demand.strong:
            return await self._at_least(scope_id, version)
        floor = coherence.floor(scope_id, coherence.epochs(scope_id))
        if 0 <= floor < version:
            await self._at_least(scope_id, version)
        elif not coherence.trusts(scope_id.bytes):
            await self._confirm(scope_id)
        return version

    async def _at_least(self, scope_id: UUID, version: int) -> int:
        """The scope's version in the database.

        Raises:
            VersionAhead: it is lower.
        """
        current = await self._coherence.confirm(scope_id)
        if current < version:
            raise VersionAhead(f"the token asks for version {version} of the user's memories, which are at {current}")
        return current

    async def _confirm(self, scope_id: UUID) -> float:
        """Have the copies confirmed if that does not take long; gives the seconds since they were, 0 if it was done."""
        coherence = self._coherence
        if not coherence.stale_for_s():  # else the database is silent, and a check that goes on asks it
            try:
                async with asyncio.timeout(CONFIRM_S):
                    await coherence.confirm(scope_id)
            except (MemfastError, TimeoutError):
                pass
            else:
                return 0.0
        return coherence.unconfirmed_s(scope_id.bytes)
