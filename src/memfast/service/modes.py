"""How much of the service there is now, why, and since when: the one place where that is decided.

| mode | what is left |
|---|---|
| `full` | everything |
| `reduced` | everything that needs PostgreSQL alone; what an optional dependency would add is left out, or refused |
| `cache_only` | reads that are warm or kept; the rest is refused at once |
| `essential` | single memories by id, and health |

A mode is entered when its trigger shows and left by itself when the trigger has not shown for its hold time, so that
what flickers does not make the service flicker. Of several the last one of the table counts. Everything below only
reports: breakers their state, coherence the age of its copies, the event loop its lag.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

from memfast.metrics import Meter, unread
from memfast.ports import Clock
from memfast.resilience.breaker import Breaker, Transition
from memfast.service.coherence import Coherence

__all__ = ["HOLD_S", "LAG_READINGS", "LAG_S", "Mode", "Modes", "Order", "Standing"]

_log = logging.getLogger("memfast.modes")

Mode = Literal["full", "reduced", "cache_only", "essential"]
Order = Literal["auto", "full", "reduced", "cache_only", "essential"]

HOLD_S: dict[Mode, float] = {"essential": 10.0, "cache_only": 1.0, "reduced": 5.0}
"""Seconds without its trigger after which a mode is left; from the most to the least severe."""

LAG_S = 0.5
"""A lag of the event loop that is too long, in seconds: not even a refusal goes out in time."""

LAG_READINGS = 3
"""So many such lags in a row are overload; one alone is a pause of the machine."""

SAMPLE_S = 0.25
"""Time between readings of the lag, in seconds."""


class Standing(NamedTuple):
    """The mode, why, and the seconds since copies were last known to be true (0 where that does not matter)."""

    mode: Mode
    reason: str
    age_s: int


_FULL = Standing("full", "", 0)
_ORDERED = "ordered by resilience.mode"


class Modes:
    """The mode of one worker.

    Args:
        required: the breaker of PostgreSQL.
        optional: breakers of what the service can do without.
        coherence: knows since when copies could not be confirmed.
        clock: monotonic seconds.
        order: `auto`, or the mode that somebody ordered. Copies that cannot be confirmed are marked whatever the order.
    """

    def __init__(
        self,
        required: Breaker,
        optional: Sequence[Breaker],
        coherence: Coherence,
        clock: Clock,
        order: Order = "auto",
        meter: Meter | None = None,
    ) -> None:
        self._required = required
        self._optional = tuple(optional)
        self._coherence = coherence
        self._clock = clock
        self._lags = 0
        self._delays = (meter or unread()).histogram("memfast_event_loop_delay_seconds")
        self._shown_at: dict[Mode, float] = {}
        self._reasons: dict[Mode, str] = {}
        self._last: Mode = "full"
        for breaker in (required, *self._optional):
            breaker.listen(self._changed)
        self.order(order)

    def order(self, order: Order) -> None:
        """Keep a mode from now on, or with `auto` none; nothing is left of an order before."""
        for breaker in (self._required, *self._optional):
            breaker.restore()
        self._order = order
        self._calm = False
        self._shown_at.clear()
        if order == "cache_only":
            self._required.isolate(_ORDERED)
        elif order == "reduced":
            for breaker in self._optional:
                breaker.isolate(_ORDERED)

    def standing(self) -> Standing:
        """The mode now. Asked with every request."""
        stale_s = self._coherence.stale_for_s()
        if self._calm and not stale_s:
            return _FULL
        mode = self._mode(stale_s)
        if mode != self._last:
            _log.warning("mode %s, was %s: %s", mode, self._last, self._reasons.get(mode, "everything works"))
            self._last = mode
        if mode == "full":
            return _FULL
        return Standing(mode, self._reasons[mode], int(stale_s) + 1 if stale_s or mode == "cache_only" else 0)

    def note_lag(self, seconds: float) -> None:
        """The event loop came so much later than it should."""
        self._delays.observe(seconds)
        self._lags = self._lags + 1 if seconds >= LAG_S else 0
        if self._lags >= LAG_READINGS and self._order == "auto":
            self._show("essential", f"overload: the event loop is {seconds:.1f} s late")

    async def watch(self) -> None:
        """Read the lag for ever."""
        while True:
            due = self._clock.monotonic() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            self.note_lag(self._clock.monotonic() - due)
            self.standing()

    def _changed(self, _transition: Transition) -> None:
        self._calm = False

    def _show(self, mode: Mode, reason: str) -> None:
        """The trigger of a mode shows."""
        self._shown_at[mode] = self._clock.monotonic()
        self._reasons[mode] = reason
        self._calm = False

    def _mode(self, stale_s: float) -> Mode:
        if self._required.state != "closed":
            self._show("cache_only", f"{self._required.name}: {self._required.reason}")
        elif stale_s:
            self._show("cache_only", "postgresql does not confirm copies")
        if self._order in {"auto", "reduced"}:
            for breaker in self._optional:
                if breaker.state != "closed":
                    self._show("reduced", f"{breaker.name}: {breaker.reason}")
        if self._order in {"reduced", "essential"}:
            self._show(self._order, _ORDERED)
        now = self._clock.monotonic()
        for mode, hold_s in HOLD_S.items():
            if now - self._shown_at.get(mode, -hold_s) < hold_s:
                return mode
        self._calm = True
        return "full"
