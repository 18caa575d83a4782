"""What a client does next, drawn from a seed: writes of every kind, and the reads that must show them."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from bench.coherence.model import (
    Ask,
    Batch,
    Delete,
    Forget,
    Get,
    GetMany,
    Item,
    List,
    Operation,
    Patch,
    Put,
    Search,
    State,
    Undelete,
    unit,
)
from bench.coherence.words import Words

__all__ = ["DIMENSIONS", "LEG_TIMEOUT_MS", "VECTORS", "VOCABULARY", "Plan"]

DIMENSIONS = 8
LEG_TIMEOUT_MS = 60_000
"""The most that the service takes: a search that gives words up because the machine is busy is not stale."""
MEMORIES_MAX = 30
"""Memories of a user, about: few, so that most writes change what most reads say."""

MARGIN = timedelta(seconds=2)
"""No write touches a memory so near its end: whether it is there would be chance."""

WEIGHTS = {"create": 20, "delete": 20, "patch": 30, "delete again": 5, "repeat": 5, "replace": 5, "revive": 5}
WEIGHTS |= {"undelete": 7, "purge": 3}
BATCHES = 0.04
"""Shares of the kinds of writes."""

TAGS = ("work", "home", "ümlaut")
VOCABULARY = ("kestrel", "harbour", "violin", "glacier")
"""Few, so that most memories that come or go change how much a word counts."""
_noise = np.random.default_rng(3).standard_normal((12, DIMENSIONS))
VECTORS: list[NDArray[np.float32]] = [unit(row) for row in (*np.eye(DIMENSIONS), *-np.eye(DIMENSIONS), *_noise)]
"""Few, so that memories tie; opposite ones, so that many score zero."""


class Plan:
    """Operations and asks for one user after another.

    Args:
        seed: two plans of one seed that see the same states do the same.
        name: of the user; a plan that forgets one goes on with the next.
        lifetime: writes until a user is forgotten.
        short_lived: whether some memories expire while it runs.
    """

    def __init__(self, seed: str, name: str, *, lifetime: int = 60, short_lived: bool = True) -> None:
        self._chance = random.Random(seed)
        self._name = name
        self._lifetime = lifetime
        self._short_lived = short_lived
        self._users = self._age = self._written = 0
        self._words_first = False

    def begin(self) -> State:
        """The state of a user that nobody has heard of."""
        self._users += 1
        self._age = 0
        self._words_first = self._chance.random() < 0.5  # only the first searches of a user are cold
        return State(f"{self._name}-{self._users}")

    @property
    def over(self) -> bool:
        """Whether the user is old enough to be forgotten and left."""
        return self._age > self._lifetime

    def write(self, state: State, now: datetime) -> Operation:
        """The next write."""
        self._age += 1
        if self._age >= self._lifetime:
            return Forget(state.user_id)
        settled = [item for item in state.items.values() if item.expires_at is None or item.expires_at > now + MARGIN]
        if not settled or self._chance.random() < BATCHES:
            return self._batch(state, now)
        many = len(settled) >= MEMORIES_MAX
        kinds, weights = (
            list(WEIGHTS),
            list((WEIGHTS | {"create": 0, "revive": 0, "undelete": 0} if many else WEIGHTS).values()),
        )
        target = self._chance.choice(sorted(item.id for item in settled))
        ends = {name: item.expires_at for name, item in state.buried.items() if item is not None}
        far = [name for name in state.buried if (end := ends.get(name)) is None or end > now + MARGIN]
        gone = self._chance.choice(sorted(far) or [target])
        kind = self._chance.choices(kinds, weights)[0]
        if kind in {"delete", "delete again", "purge", "undelete"}:
            chosen = {"delete": target, "delete again": gone}.get(kind) or self._chance.choice((target, gone, gone))
            return (
                Undelete(state.user_id, chosen)
                if kind == "undelete"
                else Delete(state.user_id, chosen, kind == "purge")
            )
        if kind == "patch":
            return Patch(state.user_id, target, self._fields(now))
        if kind == "repeat":
            return Put(state.user_id, state.items[target], self._chance.choice(("ignore", "error")))
        fresh = self._item(now)
        named = {"create": fresh.id, "replace": target, "revive": gone}[kind]
        return Put(state.user_id, replace(fresh, id=named), "error" if kind == "create" else "update")

    def asks(self, state: State) -> list[Ask]:
        """Reads of everything that can be read of a user, each of a kind that earlier states were asked too."""
        user_id, ids = state.user_id, sorted(state.items)
        buried = sorted(state.buried)[:2]
        searches = [Search(user_id, tuple(VECTORS[row].astype(float)), limit) for row, limit in SEARCHES]
        lists = [List(user_id), List(user_id, limit=3, ascending=True), List(user_id, tag=TAGS[0])]
        single = [Get(user_id, target) for target in (*ids[:2], *ids[-1:], *buried)]
        many = [GetMany(user_id, (*ids[:6], *buried))] if ids or buried else []
        words: list[Ask] = [
            Words(user_id, " ".join(VOCABULARY[:2])),
            Words(user_id, VOCABULARY[2], tuple(VECTORS[17].astype(float))),
            *(Words(user_id, item.text) for item in map(state.known, (*ids[:1], *buried)) if item is not None),
        ]
        both = [*words, *searches] if self._words_first else [*searches, *words]
        return [*both, *lists, *single, *many]

    def _batch(self, state: State, now: datetime) -> Batch:
        size = self._chance.randint(2, 10)
        puts = [Put(state.user_id, self._item(now), "update") for _ in range(size)]
        if self._chance.random() < 0.5:
            puts.append(replace(puts[0], item=replace(self._item(now), id=puts[0].item.id)))
        return Batch(state.user_id, tuple(puts))

    def _item(self, now: datetime) -> Item:
        self._written += 1
        return Item(
            id=str(UUID(int=self._chance.getrandbits(128))),
            text=self._text(),
            vector=self._vector(),
            created_at=now - timedelta(seconds=self._chance.randint(1, 50)),
            tags=self._tags(),
            expires_at=self._end(now),
        )

    def _fields(self, now: datetime) -> tuple[tuple[str, Any], ...]:
        self._written += 1
        kind = self._chance.randrange(4)
        if kind == 0:  # a new text needs a new vector: nothing here can embed
            return ("text", self._text()), ("vector", self._vector())
        if kind == 1:
            return (("tags", self._tags()),)
        if kind == 2:
            return (("expires_at", self._end(now)),)
        return (("vector", self._vector()),)

    def _text(self) -> str:
        words = self._chance.choices(VOCABULARY, k=self._chance.randrange(4))
        return " ".join((self._name, str(self._written), *words))

    def _vector(self) -> NDArray[np.float32]:
        return self._chance.choice(VECTORS)

    def _tags(self) -> tuple[str, ...]:
        return tuple(tag for tag in TAGS if self._chance.random() < 0.4)

    def _end(self, now: datetime) -> datetime | None:
        draw = self._chance.random()
        if draw < 0.1:
            return now + timedelta(hours=1)
        soon = self._short_lived and draw < 0.15
        return now + MARGIN + timedelta(milliseconds=self._chance.randint(1, 1500)) if soon else None


SEARCHES = ((0, 5), (3, 10), (17, 5), (20, 100))
"""Vectors and limits of the searches."""
