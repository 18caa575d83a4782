"""Which writes share a transaction, and when it is sent: a state machine without tasks, clocks or a store.

A **flush** is one transaction. Single changes gather in groups; a write of many changes (a batch, a forget) is a flush
of its own. The rules:

- A group is sent at once when no other group is under way. While one is, changes gather: the next group goes when it
  is full, when its first change has waited for `wait_s`, or when the one before is done.
- Single changes of one scope are sent in the order in which they came, and while a flush of theirs is under way they
  wait for its end: their row is locked anyway, and a second transaction would only hold a connection to wait for it.
  Writes of many changes wait for no scope; the lock alone orders them.
- At most `flushes` are under way; one of them is always left to groups, so that batches never stop single changes.
- Interactive writes go before background ones. A background write that has waited for `age_s` counts as an interactive
  one of its age: it is never overtaken by what came after that.
- Both queues are bounded, by changes; a write for which there is no room is refused. An empty queue takes any write.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain, islice, takewhile
from operator import attrgetter
from typing import Generic, TypeVar
from uuid import UUID

from msgspec import Struct

from memfast.errors import QueueFull, Stopping

__all__ = ["SIZE_BOUNDS", "WAIT_BOUNDS_MS", "GroupCounters", "GroupLimits", "Groups", "Item"]

SIZE_BOUNDS = (1, 2, 5, 10, 20, 50, 100)
"""Upper bounds of the counted sizes of flushes, in changes; the last count is of everything above."""

WAIT_BOUNDS_MS = (1, 2, 5, 10, 25, 50, 100, 250, 1000)
"""Upper bounds of the counted waits of writes, in milliseconds; the last count is of everything above."""


class GroupLimits(Struct, frozen=True, kw_only=True):
    """The bounds of `Groups`.

    Attributes:
        flush_items: changes of one group, at most.
        wait_s: how long a change waits for company while another group is under way, in seconds.
        flushes: flushes under way at once.
        queue_items: interactive changes that may wait.
        background_items: background changes that may wait.
        age_s: the wait after which a background write counts as an interactive one, in seconds.
    """

    flush_items: int
    wait_s: float
    flushes: int
    queue_items: int
    background_items: int
    age_s: float


class GroupCounters(Struct, frozen=True, kw_only=True):
    """Counts since the start, and what is there now.

    `sizes` and `waits` count flushes and writes between the bounds of `SIZE_BOUNDS` and `WAIT_BOUNDS_MS`.
    """

    waiting_interactive: int
    waiting_background: int
    under_way: int
    flushes: int
    changes: int
    refused: int
    withdrawn: int
    wait_us: int
    sizes: tuple[int, ...]
    waits: tuple[int, ...]


class Item:
    """A write that waits to be sent.

    Args:
        scopes: the scopes that it writes to.
        size: the number of its changes.
        alone: whether it is a flush of its own; else it has one change of one scope.
        background: whether interactive writes go first.
    """

    __slots__ = ("alone", "arrived_s", "background", "number", "scopes", "sent_s", "size")

    def __init__(self, scopes: Sequence[UUID], size: int, *, alone: bool, background: bool) -> None:
        self.scopes = scopes
        self.size = size
        self.alone = alone
        self.background = background
        self.number = 0
        self.arrived_s = 0.0
        self.sent_s: float | None = None


_Item = TypeVar("_Item", bound=Item)
_number = attrgetter("number")


class _Priority(Generic[_Item]):
    """What waits in one of the two queues, each part in order of arrival. Parked items are counted too."""

    __slots__ = ("alone", "bound", "changes", "single")

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.changes = 0
        self.single: dict[_Item, None] = {}
        self.alone: dict[_Item, None] = {}


class Groups(Generic[_Item]):
    """The writes that wait, and the flushes that are under way."""

    def __init__(self, limits: GroupLimits) -> None:
        self._limits = limits
        self._interactive: _Priority[_Item] = _Priority(limits.queue_items)
        self._background: _Priority[_Item] = _Priority(limits.background_items)
        self._parked: dict[UUID, dict[_Item, None]] = {}
        self._writing: dict[UUID, int] = {}
        self._groups = self._alone = 0
        self._arrivals = 0
        self._stopped = False
        self._refused = self._withdrawn = self._wait_us = self._changes = 0
        self._sizes = [0] * (len(SIZE_BOUNDS) + 1)
        self._waits = [0] * (len(WAIT_BOUNDS_MS) + 1)

    @property
    def waiting(self) -> int:
        """Changes that wait."""
        return self._interactive.changes + self._background.changes

    def offer(self, item: _Item, now_s: float) -> None:
        """Take a write in.

        Raises:
            Stopping: nothing is taken any more.
            QueueFull: its queue is full.
        """
        queue = self._queue(item)
        if self._stopped:
            raise Stopping("the service is stopping; nothing was written", begun=False)
        if queue.changes and queue.changes + item.size > queue.bound:
            self._refused += 1
            detail = f"{queue.changes} changes wait to be written already; nothing was written of this request"
            raise QueueFull(detail, begun=False)
        self._arrivals += 1
        item.number, item.arrived_s = self._arrivals, now_s
        queue.changes += item.size
        if item.alone:
            queue.alone[item] = None
        elif item.scopes[0] in self._writing:
            self._park(item)
        else:
            queue.single[item] = None

    def withdraw(self, item: _Item) -> bool:
        """Take a write back; False when it was sent, and nothing is changed."""
        queue = self._queue(item)
        for place in (queue.single, queue.alone, self._parked.get(item.scopes[0], {})):
            if item in place:
                del place[item]
                queue.changes -= item.size
                self._withdrawn += 1
                return True
        return False

    def next_flush(self, now_s: float) -> list[_Item]:
        """The writes of the flush that is to be sent now, which is under way from here on; empty when there is none."""
        limits = self._limits
        if self._groups + self._alone >= limits.flushes or not self.waiting:
            return []
        group = self._gather(now_s) if self._may_be_due(now_s) else []
        due = bool(group) and (
            not self._groups
            or len(group) == limits.flush_items
            or now_s >= min(item.arrived_s for item in group) + limits.wait_s
        )
        alone = self._next_alone(now_s)
        if alone is not None and not (due and self._rank(group[0], now_s) < self._rank(alone, now_s)):
            return self._send([alone], now_s)
        return self._send(group, now_s) if due else []

    def wake_at(self) -> float | None:
        """When a group will have waited long enough; None when only a new write or the end of a flush matters."""
        if not self._groups or self._groups + self._alone >= self._limits.flushes:
            return None
        free = (item for item in self._by_arrival() if item.scopes[0] not in self._writing)
        oldest = next(free, None)  # those that are not free are few, and parked at the next look
        return None if oldest is None else oldest.arrived_s + self._limits.wait_s

    def finished(self, flush: Sequence[_Item]) -> None:
        """A flush is over: what waited for its scopes may go."""
        if flush[0].alone:
            self._alone -= 1
        else:
            self._groups -= 1
        freed: list[_Item] = []
        for scope_id in chain.from_iterable(item.scopes for item in flush):
            if self._writing[scope_id] > 1:
                self._writing[scope_id] -= 1
                continue
            del self._writing[scope_id]
            freed += self._parked.pop(scope_id, ())
        if freed:
            for queue in (self._interactive, self._background):
                own = [item for item in freed if self._queue(item) is queue]
                queue.single = dict.fromkeys(sorted(chain(queue.single, own), key=_number))

    def stop(self) -> None:
        """Take nothing in any more; what waits is still sent."""
        self._stopped = True

    def abandon(self) -> list[_Item]:
        """Take back everything that waits."""
        waiting = []
        for queue in (self._interactive, self._background):
            waiting += [*queue.single, *queue.alone]
        waiting += chain.from_iterable(self._parked.values())
        for item in waiting:
            self.withdraw(item)
        return waiting

    def snapshot(self) -> GroupCounters:
        """Counters."""
        return GroupCounters(
            waiting_interactive=self._interactive.changes,
            waiting_background=self._background.changes,
            under_way=self._groups + self._alone,
            flushes=sum(self._sizes),
            changes=self._changes,
            refused=self._refused,
            withdrawn=self._withdrawn,
            wait_us=self._wait_us,
            sizes=tuple(self._sizes),
            waits=tuple(self._waits),
        )

    def _queue(self, item: _Item) -> _Priority[_Item]:
        return self._background if item.background else self._interactive

    def _park(self, item: _Item) -> None:
        self._parked.setdefault(item.scopes[0], {})[item] = None

    def _by_arrival(self) -> Iterator[_Item]:
        return merge(self._interactive.single, self._background.single, key=_number)

    def _oldest_single(self) -> _Item | None:
        heads = (next(iter(queue.single), None) for queue in (self._interactive, self._background))
        return min((head for head in heads if head is not None), key=_number, default=None)

    def _may_be_due(self, now_s: float) -> bool:
        """Whether it is worth looking through what waits: every change asks this when it comes."""
        if not self._groups:
            return True
        limits = self._limits
        if len(self._interactive.single) + len(self._background.single) >= limits.flush_items:
            return True
        oldest = self._oldest_single()
        return oldest is not None and now_s >= oldest.arrived_s + limits.wait_s

    def _gather(self, now_s: float) -> list[_Item]:
        """The single changes that come first and whose scopes nobody writes to. Those that must wait are parked."""
        group: list[_Item] = []
        blocked: list[_Item] = []
        for item in self._singles(now_s):
            if item.scopes[0] in self._writing:
                blocked.append(item)
                continue
            group.append(item)
            if len(group) == self._limits.flush_items:
                break
        for item in blocked:
            del self._queue(item).single[item]
            self._park(item)
        return group

    def _singles(self, now_s: float) -> Iterator[_Item]:
        first, later = self._interactive.single, self._background.single
        if not later:
            return iter(first)
        aged = list(takewhile(lambda item: self._aged(item, now_s), later))
        before: Iterable[_Item] = merge(first, aged, key=_number) if aged else first
        return chain(before, islice(later, len(aged), None))

    def _next_alone(self, now_s: float) -> _Item | None:
        if self._alone >= max(1, self._limits.flushes - 1):
            return None
        heads = (next(iter(queue.alone), None) for queue in (self._interactive, self._background))
        return min((head for head in heads if head is not None), key=lambda item: self._rank(item, now_s), default=None)

    def _aged(self, item: _Item, now_s: float) -> bool:
        return now_s - item.arrived_s >= self._limits.age_s

    def _rank(self, item: _Item, now_s: float) -> tuple[bool, int]:
        return item.background and not self._aged(item, now_s), item.number

    def _send(self, flush: list[_Item], now_s: float) -> list[_Item]:
        if flush[0].alone:
            self._alone += 1
        else:
            self._groups += 1
        size = 0
        for item in flush:
            queue = self._queue(item)
            del (queue.alone if item.alone else queue.single)[item]
            queue.changes -= item.size
            size += item.size
            item.sent_s = now_s
            wait_us = int((now_s - item.arrived_s) * 1e6)
            self._wait_us += wait_us
            self._waits[bisect_left(WAIT_BOUNDS_MS, wait_us / 1000)] += 1
            for scope_id in item.scopes:
                self._writing[scope_id] = self._writing.get(scope_id, 0) + 1
        self._changes += size
        self._sizes[bisect_left(SIZE_BOUNDS, size)] += 1
        return flush
