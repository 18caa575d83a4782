"""A circuit breaker: after a few failures of a dependency nobody waits for it any more, until it has shown life.

```
       failures within window_s, a fifth at least      hold_s over
   closed ───────────────────────────► open ────────────────────────────► half_open
     ▲ ▲                                │ ▲         a probe fails            │  │
     │ └────────── ping answered ───────┘ └──────────────────────────────────┘  │
     └────────────────── every probe succeeded, or ping answered ───────────────┘
```
Failures open it only where they are at least one in `SUCCESSES_EACH + 1` of what was settled since the first of them:
what works for most callers, slowly or not every time, is not away, and to refuse all of them would be the outage.
What was merely slow does not open it by itself: when a machine is busy for a second, much is slow at once, and its
servers are there. It counts until a ping is answered; the next that is not answered, or an error, opens.
A caller asks for a ticket, does its work, and settles the ticket with how it went. In `half_open` exactly `probes`
tickets are given; one whose work came to nothing (cancelled, refused for its content) or that is not settled within
`window_s` gives its place to another. What settles after the state has changed says nothing about the new state and is
ignored. The state is this process's own and is never kept in what it guards.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from msgspec import Struct

from memfast.ports import Clock

__all__ = ["Breaker", "BreakerSnapshot", "Outcome", "State", "Transition", "log_transition"]

_log = logging.getLogger("memfast.breaker")

State = Literal["closed", "open", "half_open", "isolated"]
Outcome = Literal["success", "failure", "slow", "neutral"]
"""How work went. `slow` is a failure that only a ping can confirm, or take back; `neutral` says nothing about the
dependency (a cancellation, an error of the request's own)."""


SUCCESSES_EACH = 4
"""Successes for each failure, since the first of them, up to which failures open the breaker."""


class Transition(NamedTuple):
    """A change of state, and why."""

    name: str
    before: State
    after: State
    reason: str


class BreakerSnapshot(Struct, frozen=True, kw_only=True):
    """What a breaker counted since the process started. `failures` are those of the current window."""

    name: str
    state: State
    failures: int
    opened: int
    refused: int
    reason: str | None


class Breaker:
    """See the module. Not for several threads.

    Args:
        name: of the dependency, for people.
        clock: monotonic seconds.
        failures: so many within `window_s` open it, if not most of what was done meanwhile succeeded.
        hold_s: how long it stays open without a ping that is answered, in seconds.
        probes: tickets in `half_open`.
        window_s: the rolling window, and how long a probe may take before it is given up, in seconds.
    """

    def __init__(
        self, name: str, clock: Clock, *, failures: int, hold_s: float, probes: int = 1, window_s: float = 10.0
    ) -> None:
        self.name = name
        self._clock = clock
        self._hold_s = hold_s
        self._window_s = window_s
        self._places = probes
        self._state: State = "closed"
        self._era = 0
        self._limit = failures
        self._failed: deque[tuple[float, int]] = deque(maxlen=failures)
        self._slow: deque[tuple[float, int]] = deque(maxlen=failures)
        self._succeeded = 0
        self._opened_at = 0.0
        self._probes: dict[int, float] = {}
        self._probe_number = 0
        self._successes = 0
        self._listeners: list[Callable[[Transition], None]] = []
        self._reason: str | None = None
        self._opened = self._refused = 0

    @property
    def state(self) -> State:
        """The state now."""
        self._advance()
        return self._state

    @property
    def reason(self) -> str | None:
        """Why it is not closed; None while it is."""
        return self._reason

    @property
    def opens_in_s(self) -> float:
        """Seconds until it gives tickets by itself; 0 where it does, `hold_s` while it is isolated."""
        if self.state == "isolated":
            return self._hold_s
        return max(0.0, self._opened_at + self._hold_s - self._clock.monotonic()) if self._state == "open" else 0.0

    def listen(self, listener: Callable[[Transition], None]) -> None:
        """Call a function at every change of state. It must not raise."""
        self._listeners.append(listener)

    def admit(self) -> int | None:
        """A ticket, which `settle` must take back whatever happens; None when the work must not begin."""
        if self._state == "closed":
            return self._era
        self._advance()
        if self._state == "half_open":
            now = self._clock.monotonic()
            for ticket in [ticket for ticket, began in self._probes.items() if began <= now - self._window_s]:
                del self._probes[ticket]
            if len(self._probes) + self._successes < self._places:
                self._probe_number -= 1
                self._probes[self._probe_number] = now
                return self._probe_number
        self._refused += 1
        return None

    def settle(self, ticket: int, outcome: Outcome, reason: str = "") -> None:
        """Take back a ticket with how its work went; `reason` says what a failure was."""
        if ticket < 0:
            if self._probes.pop(ticket, None) is not None:
                self._probed(outcome, reason)
        elif ticket == self._era and outcome == "failure":
            self._fail(reason)
        elif ticket == self._era and outcome == "slow":
            self._slow.append((self._clock.monotonic(), self._succeeded))
        elif ticket == self._era and outcome == "success":
            self._succeeded += 1

    def pinged(self, *, answered: bool, reason: str = "") -> None:
        """A cheap question from the background was answered, or not. It is asked whatever the state is."""
        if answered and self._state in {"open", "half_open"}:
            self._change("closed", "a ping was answered")
        elif answered:
            self._slow.clear()
        elif not answered and self._state == "closed":
            self._fail(reason)

    def isolate(self, reason: str) -> None:
        """Give no tickets, whatever happens, until `restore`."""
        self._change("isolated", reason)

    def restore(self) -> None:
        """End an isolation."""
        if self._state == "isolated":
            self._change("closed", "restored")

    def snapshot(self) -> BreakerSnapshot:
        """Counters and state now."""
        state = self.state
        horizon = self._clock.monotonic() - self._window_s
        return BreakerSnapshot(
            name=self.name,
            state=state,
            failures=min(self._limit, sum(at >= horizon for at, _ in (*self._failed, *self._slow))),
            opened=self._opened,
            refused=self._refused,
            reason=self._reason,
        )

    def _advance(self) -> None:
        if self._state == "open" and self._clock.monotonic() >= self._opened_at + self._hold_s:
            self._change("half_open", self._reason or "")

    def _fail(self, reason: str) -> None:
        now = self._clock.monotonic()
        self._failed.append((now, self._succeeded))
        failed = sorted((*self._failed, *self._slow))[-self._limit :]
        at, succeeded = failed[0]
        few = self._succeeded - succeeded <= SUCCESSES_EACH * len(failed)
        if len(failed) == self._limit and at >= now - self._window_s and few:
            self._change("open", reason)

    def _probed(self, outcome: Outcome, reason: str) -> None:
        if outcome in {"failure", "slow"}:
            self._change("open", reason)
        elif outcome == "success":
            self._successes += 1
            if self._successes >= self._places:
                self._change("closed", "it works again")

    def _change(self, after: State, reason: str) -> None:
        before, self._state = self._state, after
        self._era += 1
        self._probes.clear()
        self._successes = 0
        self._failed.clear()
        self._slow.clear()
        self._succeeded = 0
        self._reason = None if after == "closed" else reason
        if after == "open":
            self._opened_at = self._clock.monotonic()
            self._opened += 1
        for listener in self._listeners:
            listener(Transition(self.name, before, after, reason))


def log_transition(transition: Transition) -> None:
    """One line for people: a listener."""
    level = logging.INFO if transition.after in {"closed", "half_open"} else logging.WARNING
    _log.log(level, "%s: %s, was %s: %s", transition.name, transition.after, transition.before, transition.reason)
