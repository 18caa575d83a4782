"""A remote embedder behind a breaker: while it is away nobody waits for it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memfast.errors import EmbedderUnavailable, MemfastError
from memfast.ports import Clock, Embedder
from memfast.resilience.breaker import Breaker, Outcome

__all__ = ["PING_INTERVAL_S", "GuardedEmbedder"]

_log = logging.getLogger("memfast.embedding")

PING_INTERVAL_S = 2.0
"""Time between looks whether an endpoint that is away is back, in seconds: each has it embed one word."""

PING_S = 5.0
"""How long such a look may take, in seconds."""

RETRY_AFTER_S = 5
"""The longest wait that a client is told, in seconds: a look finds the endpoint long before the hold is over."""


class GuardedEmbedder:
    """`ports.Embedder`: asks another one unless its breaker says not to, and reports how that went.

    Failures are what the endpoint did wrong, and calls that somebody gave up after `slow_s`. A refusal of one request
    alone (a text that is too long) and what was given up earlier say nothing.

    Args:
        embedder: asks the endpoint; every call of it has a bound of its own.
        breaker: the endpoint's.
        clock: monotonic seconds.
        slow_s: a call that was given up after so long was slow, whoever gave it up, in seconds.
        hold_s: the longest time between looks, where the endpoint asks for patience, in seconds.
    """

    def __init__(self, embedder: Embedder, breaker: Breaker, clock: Clock, *, slow_s: float, hold_s: float) -> None:
        self._embedder = embedder
        self._clock = clock
        self._slow_s = slow_s
        self._hold_s = hold_s
        self.breaker = breaker

    @property
    def model(self) -> str:
        """See `ports.Embedder.model`."""
        return self._embedder.model

    @property
    def dimensions(self) -> int:
        """See `ports.Embedder.dimensions`."""
        return self._embedder.dimensions

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `ports.Embedder.embed`."""
        ticket = self.breaker.admit()
        if ticket is None:
            raise self._not_asked()
        began_s = self._clock.monotonic()
        outcome: tuple[Outcome, str] = ("neutral", "")
        try:
            rows = await self._embedder.embed(texts)
            outcome = "success", ""
        except EmbedderUnavailable as error:
            if error.failure is not None:
                outcome = "failure", error.failure
            raise
        except asyncio.CancelledError:
            took_s = self._clock.monotonic() - began_s
            if took_s >= self._slow_s:
                outcome = "failure", f"it took {took_s:.3g} s"
            raise
        else:
            return rows
        finally:
            self.breaker.settle(ticket, *outcome)

    async def check(self) -> None:
        """See `ports.Embedder.check`."""
        await self.embed(["memfast"])

    async def close(self) -> None:
        """See `ports.Embedder.close`."""
        await self._embedder.close()

    async def watch(self) -> None:
        """Look for ever whether it is back, while it is away."""
        wait_s = PING_INTERVAL_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = PING_INTERVAL_S
            if self.breaker.state not in {"open", "half_open"}:
                continue
            try:
                async with asyncio.timeout(PING_S):
                    await self._embedder.check()
            except EmbedderUnavailable as error:
                wait_s = min(max(wait_s, error.retry_after_s), self._hold_s)
            except (MemfastError, TimeoutError):
                pass
            except Exception:  # noqa: BLE001 - a task's edge: the watch must outlive whatever it meets
                _log.exception("the watch over the embedder failed")
            else:
                self.breaker.pinged(answered=True)

    def _not_asked(self) -> EmbedderUnavailable:
        wait_s = min(RETRY_AFTER_S, max(1, math.ceil(self.breaker.opens_in_s)))
        reason = f"the embedder is not asked now ({self.breaker.reason}); nothing was begun. Send an embedding, or wait"
        return EmbedderUnavailable(reason, retry_after_s=wait_s, begun=False)
