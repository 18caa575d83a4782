"""What clients meant to write and what they were told, and whether what is found afterwards agrees with it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

__all__ = ["Account", "Item", "Journal", "State", "body_of"]

DIMENSIONS = 8

_GONE = frozenset({404, 409, 412})
"""Answers that no write of this harness may get: its memories are there, their ids are its own."""


class State(NamedTuple):
    """How a memory stands: the number of the write that made its content, and its version.

    `number` None: it is not there. `version` None: whatever the service gave it.
    """

    number: int | None
    version: int | None = None


_ABSENT = State(None)


@dataclass
class Item:
    """One memory of one writer, which writes again only when it was told how the write before ended.

    Attributes:
        sure: how it stands by what was acknowledged.
        maybe: how else it may stand, after a write of which nobody told the end.
        group: the batch that may have made it; of one batch all are there or none.
        denied: how it would stand after the latest write that was refused, until another one is acknowledged.
        told: what was sent and answered, for a person.
    """

    user_id: str
    id: str
    sure: State = _ABSENT
    maybe: State | None = None
    group: int | None = None
    denied: State | None = None
    told: list[str] = field(default_factory=list)


@dataclass
class Account:
    """What a comparison found. Everything but the first four must be 0.

    Attributes:
        acknowledged: writes that were answered with success, items of a batch each.
        refused: writes that were answered with an error that says that nothing was written.
        unanswered: writes whose end nobody told.
        made: of these, those that happened.
        lost: memories that do not stand as they were acknowledged.
        undead: writes that were refused and happened, and memories that nobody wrote.
        half: memories of which a part is there, or batches of which some items are.
        twice: memories that are there more than once, and versions that were given twice.
        backwards: users whose version is below an acknowledged one.
    """

    acknowledged: int = 0
    refused: int = 0
    unanswered: int = 0
    made: int = 0
    lost: int = 0
    undead: int = 0
    half: int = 0
    twice: int = 0
    backwards: int = 0
    told: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """Faults of every kind."""
        return self.lost + self.undead + self.half + self.twice + self.backwards

    def add(self, other: Account) -> None:
        """Add what another one found."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    def note(self, kind: str, text: str) -> None:
        """Count a fault and tell it."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.told.append(f"{kind}: {text}")


def _clock() -> str:
    return f"{time.monotonic():.3f}"


def body_of(item_id: str, number: int, noise_bytes: int = 100) -> dict[str, Any]:
    """The content of a memory: everything in it tells the number of the write that made it."""
    angle = [float((number * 7 + place * 3) % 11 + 1) for place in range(DIMENSIONS)]
    noise = random.Random(f"{item_id} {number}").randbytes(noise_bytes).hex()  # nothing that could be packed
    return {
        "text": f"{number} of {item_id}: {noise}",
        "tags": [f"n{number}"],
        "importance": number % 100 / 100,
        "metadata": {"number": number},
        "embedding": angle,
    }


def _number_of(found: Mapping[str, Any], noise_bytes: int) -> int | None:
    """The number of the write that made a memory; None when its parts tell different ones."""
    number = found["metadata"].get("number")
    if not isinstance(number, int):
        return None
    meant = body_of(found["id"], number, noise_bytes)
    return number if all(found[name] == meant[name] for name in ("text", "tags", "importance")) else None


class Journal:
    """Everything that a round of clients wrote, meant to write and was told.

    Once it is closed, as at the moment of a power cut, success that arrives is no longer believed to have been told.
    `noise_bytes` is about half the length of a memory's text. `statuses` counts the answers that refused a write.
    """

    def __init__(self, noise_bytes: int = 100) -> None:
        self.noise_bytes = noise_bytes
        self.statuses: Counter[int] = Counter()
        self.items: dict[str, Item] = {}
        self.account = Account()
        self.closed = False
        self._versions: dict[str, int] = {}
        self._given: set[tuple[str, int]] = set()
        self._groups = 0

    def users(self) -> list[str]:
        """Whose memories are in it."""
        return sorted({item.user_id for item in self.items.values()})

    def meant(self, items: Sequence[Item], states: Sequence[State]) -> None:
        """A write is sent that changes these memories to these states, all or none."""
        self._groups += 1
        for item, state in zip(items, states, strict=True):
            self.items[item.id] = item
            item.maybe, item.group = state, self._groups
            item.told.append(f"{_clock()} to {state.number}")

    def acknowledged(self, items: Sequence[Item], versions: Sequence[int | None], user_version: int) -> None:
        """It was answered with success and these versions."""
        if self.closed:
            self.unanswered(items)
            return
        self.account.acknowledged += len(items)
        for item, version in zip(items, versions, strict=True):
            assert item.maybe is not None
            if version is not None and (item.user_id, version) in self._given:
                self.account.note("twice", f"{item.user_id}: version {version} was given to two writes")
            self._given.add((item.user_id, version or 0))
            item.told.append(f"{_clock()} acknowledged")
            item.sure, item.denied = item.maybe._replace(version=version), None
            item.maybe, item.group = None, None
        user_id = items[0].user_id
        self._versions[user_id] = max(self._versions.get(user_id, 0), user_version)

    def refused(self, items: Sequence[Item], status: int, why: str) -> None:
        """It was answered with an error; some say that an acknowledged memory is not there."""
        self.account.refused += len(items)
        self.statuses[status] += 1
        for item in items:
            item.told.append(f"{_clock()} refused: {status} {why}")
            item.denied, item.maybe, item.group = item.maybe, None, None
            if status in _GONE:
                self.account.note("lost", f"{item.user_id} {item.id}, acknowledged as {item.sure}: {status} {why}")

    def unsent(self, items: Sequence[Item]) -> None:
        """It never left the client."""
        for item in items:
            item.maybe, item.group = None, None

    def unanswered(self, items: Sequence[Item]) -> None:
        """Nobody told how it ended: the memories are left alone until they were looked at."""
        for item in items:
            item.told.append(f"{_clock()} unanswered")
        self.account.unanswered += len(items)

    def judge(self, user_id: str, version: int, found: Iterable[Mapping[str, Any]], searched: set[str] | None) -> None:
        """Compare a user's memories with the journal, and take what is found where nobody knew.

        Args:
            user_id: the user.
            version: the user's version now.
            found: all memories, as the service lists them.
            searched: the ids that a search finds, which need a vector too; None where there are too many for one.
        """
        account = self.account
        if version < self._versions.get(user_id, 0):
            account.note("backwards", f"{user_id} is at version {version}, was at {self._versions[user_id]}")
        there: dict[str, State] = {}
        for memory in found:
            item_id, number = memory["id"], _number_of(memory, self.noise_bytes)
            if item_id in there:
                account.note("twice", f"{user_id} {item_id}")
            if item_id not in self.items:
                account.note("undead", f"{user_id} {item_id}, which nobody wrote")
            elif number is None or (searched is not None and item_id not in searched):
                account.note("half", f"{user_id} {memory}")
            there[item_id] = State(number, memory["version"])
        groups: dict[int, set[bool]] = {}
        for item in self.items.values():
            if item.user_id == user_id:
                self._judge_item(item, there.get(item.id, _ABSENT), groups)
        for group, outcomes in groups.items():
            if len(outcomes) > 1:
                account.note("half", f"{user_id}: batch {group} is there in part")

    def _judge_item(self, item: Item, now: State, groups: dict[int, set[bool]]) -> None:
        if _agree(now, item.sure):
            happened = False
        elif item.maybe is not None and _agree(now, item.maybe):
            happened = True
        else:
            self._blame(item, now)
            happened = None
        if item.maybe is not None and item.group is not None and happened is not None:
            groups.setdefault(item.group, set()).add(happened)
            self.account.made += happened
        item.sure, item.maybe, item.group = now, None, None

    def _blame(self, item: Item, now: State) -> None:
        """Neither the acknowledged state nor one that may be: a refused write happened, or an acknowledged one did not."""
        told = f"{item.user_id} {item.id} stands as {now}, acknowledged {item.sure}: {'; '.join(item.told[-6:])}"
        happened = item.denied is not None and _agree(now, item.denied)
        self.account.note("undead" if happened else "lost", told)


def _agree(now: State, then: State) -> bool:
    """Whether a memory stands so; an absent one has no version to compare."""
    if now.number != then.number:
        return False
    return now.number is None or then.version is None or now.version == then.version
