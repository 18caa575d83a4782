"""One user's memories as a client knows them from acknowledgements, and what every read must therefore say."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

__all__ = [
    "Ask",
    "Batch",
    "Delete",
    "Forget",
    "Get",
    "GetMany",
    "Item",
    "List",
    "Operation",
    "Patch",
    "Put",
    "Search",
    "State",
    "Undelete",
    "Wire",
    "packed",
    "unit",
]

T = TypeVar("T")
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def unit(vector: Sequence[float] | NDArray[Any]) -> NDArray[np.float32]:
    """A vector of norm 1, float32, that the service takes as it is: scaling it again changes nothing."""
    given = np.asarray(vector, np.float64)
    while True:
        scaled = (given / math.sqrt(float(given @ given))).astype(np.float32).astype(np.float64)
        if (scaled == given).all():
            return scaled.astype(np.float32)
        given = scaled


def packed(vector: NDArray[np.float32]) -> str:
    """A vector as JSON carries it."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


@dataclass(frozen=True, slots=True)
class Item:
    """A memory: what was sent, and the version that the acknowledgement named. `vector` is float32, norm 1."""

    id: str
    text: str
    vector: NDArray[np.float32]
    created_at: datetime
    tags: tuple[str, ...] = ()
    expires_at: datetime | None = None
    version: int = 0

    def live(self, now: datetime) -> bool:
        """Whether readers see it."""
        return self.expires_at is None or self.expires_at > now

    def sent(self) -> dict[str, Any]:
        """It as a request carries it."""
        body = {
            "id": self.id,
            "text": self.text,
            "tags": list(self.tags),
            "created_at": self.created_at,
            "embedding": packed(self.vector),
        }
        return body if self.expires_at is None else body | {"expires_at": self.expires_at}


@dataclass(frozen=True)
class State:
    """A user's memories at one version. `named` is false before the first write and after a forget.

    `buried` are ids of deleted memories with what they were, None where that was purged.
    """

    user_id: str
    version: int = 0
    items: Mapping[str, Item] = field(default_factory=lambda: _NOTHING)
    buried: Mapping[str, Item | None] = field(default_factory=lambda: _NOTHING)
    named: bool = False

    def changed(self, version: int, **changes: Any) -> State:
        """The state after a write."""
        return replace(self, version=version, **changes)

    def touched(self, target: str, text: str) -> State:
        """The state after a text was changed by plain SQL."""
        after = replace(self.items[target], text=text, version=self.version + 1)
        return self.changed(after.version, items={**self.items, target: after})

    def known(self, target: str) -> Item | None:
        """A memory that is there, or was and can be brought back."""
        return self.items.get(target, self.buried.get(target))

    def live(self, now: datetime) -> list[Item]:
        """What readers see, by id."""
        return sorted((item for item in self.items.values() if item.live(now)), key=lambda item: item.id)

    def turns(self, first: datetime, last: datetime) -> list[datetime]:
        """The moments between two, both included, from which on the state may read differently by itself."""
        ends = {item.expires_at for item in self.items.values() if item.expires_at is not None}
        return [first, *sorted(end for end in ends if first < end <= last), last]


class Wire(Struct):
    """What is compared of a memory in an answer."""

    id: str
    user_id: str
    text: str
    tags: list[str]
    created_at: datetime
    expires_at: datetime | None
    version: int
    score: float | None = None

    def same(self, user_id: str, item: Item, score: float | None = None) -> bool:
        """Whether it is this memory as the model has it."""
        return (self.id, self.text, self.version, self.score, self.user_id) == (
            item.id,
            item.text,
            item.version,
            score,
            user_id,
        ) and (tuple(self.tags), self.expires_at, self.created_at) == (item.tags, item.expires_at, item.created_at)


class _Found(Struct):
    results: list[Wire]
    version: int


class _Page(Struct):
    memories: list[Wire]
    has_more: bool


class _Many(Struct):
    memories: list[Wire]
    missing: list[str]


@dataclass(frozen=True)
class Ask:
    """A read: its request, and whether an answer to it is that of a state at a moment."""

    user_id: str

    def request(self) -> tuple[str, str, Any]:
        """Method, path and body."""
        raise NotImplementedError

    def holds(self, state: State, now: datetime, status: int, version: int, body: bytes) -> bool:
        """Whether the answer is what the state says at this moment; `version` is that of the header."""
        raise NotImplementedError


@dataclass(frozen=True)
class Search(Ask):
    """A search by vector, of norm 1 as `unit` makes it."""

    vector: tuple[float, ...]
    limit: int = 10

    def request(self) -> tuple[str, str, Any]:
        """See `Ask.request`."""
        body = {"user_id": self.user_id, "embedding": packed(np.array(self.vector)), "limit": self.limit}
        return "POST", "/v1/search", body

    def holds(self, state: State, now: datetime, status: int, version: int, body: bytes) -> bool:
        """See `Ask.holds`: the same ids, texts, versions and scores, in the same order."""
        if status != 200:
            return False
        found = msgspec.json.decode(body, type=_Found)
        wanted = self.expected(state, now)
        return (
            found.version == version == state.version
            and len(found.results) == len(wanted)
            and all(hit.same(self.user_id, *pair) for hit, pair in zip(found.results, wanted, strict=True))
        )

    def expected(self, state: State, now: datetime) -> list[tuple[Item, float]]:
        """The hits, computed from nothing but the vectors that were sent."""
        items = state.live(now)
        if not items:
            return []
        rows = np.array([item.vector for item in items]).astype(np.float64)
        scores = np.maximum(np.round(rows @ np.array(self.vector), 6), 0.0)
        order = np.lexsort((np.arange(len(items)), -scores))[: self.limit]
        return [(items[row], float(scores[row])) for row in order.tolist()]


@dataclass(frozen=True)
class List(Ask):
    """The first page of a listing."""

    limit: int = 20
    tag: str | None = None
    ascending: bool = False

    def request(self) -> tuple[str, str, Any]:
        """See `Ask.request`."""
        order = "created_asc" if self.ascending else "created_desc"
        tag = "" if self.tag is None else f"&tag={quote(self.tag)}"
        return "GET", f"/v1/memories?user_id={quote(self.user_id)}&limit={self.limit}&order={order}{tag}", None

    def holds(self, state: State, now: datetime, status: int, version: int, body: bytes) -> bool:
        """See `Ask.holds`."""
        if status != 200:
            return False
        page = msgspec.json.decode(body, type=_Page)
        items = [item for item in state.live(now) if self.tag is None or self.tag in item.tags]
        items.sort(key=lambda item: (item.created_at, item.id), reverse=not self.ascending)
        wanted = items[: self.limit]
        return (
            version == state.version
            and page.has_more == (len(items) > self.limit)
            and len(page.memories) == len(wanted)
            and all(got.same(self.user_id, item) for got, item in zip(page.memories, wanted, strict=True))
        )


@dataclass(frozen=True)
class Get(Ask):
    """One memory."""

    id: str

    def request(self) -> tuple[str, str, Any]:
        """See `Ask.request`."""
        return "GET", f"/v1/memories/{self.id}?user_id={quote(self.user_id)}", None

    def holds(self, state: State, now: datetime, status: int, version: int, body: bytes) -> bool:
        """See `Ask.holds`; the header's version is the memory's."""
        item = state.items.get(self.id)
        if item is None or not item.live(now):
            return status == 404
        return (
            status == 200 and version == item.version and msgspec.json.decode(body, type=Wire).same(self.user_id, item)
        )


@dataclass(frozen=True)
class GetMany(Ask):
    """Memories by id."""

    ids: tuple[str, ...]

    def request(self) -> tuple[str, str, Any]:
        """See `Ask.request`."""
        return "POST", "/v1/memories/get", {"user_id": self.user_id, "ids": list(self.ids)}

    def holds(self, state: State, now: datetime, status: int, version: int, body: bytes) -> bool:
        """See `Ask.holds`."""
        if status != 200:
            return False
        many = msgspec.json.decode(body, type=_Many)
        there = {item.id: item for item in state.live(now)}
        wanted = [there[target] for target in self.ids if target in there]
        return (
            version == state.version
            and many.missing == [target for target in self.ids if target not in there]
            and len(many.memories) == len(wanted)
            and all(got.same(self.user_id, item) for got, item in zip(many.memories, wanted, strict=True))
        )


@dataclass(frozen=True)
class Operation:
    """A write: its request, the statuses that may answer it, and what it makes of a state."""

    user_id: str

    def request(self) -> tuple[str, str, Any]:
        """Method, path and body."""
        raise NotImplementedError

    def raises(self) -> int:
        """By how much it raises the version where there is a user."""
        return 1

    def applied(self, state: State, now: datetime) -> tuple[State, int]:
        """The state after it, and the status of its answer. Every change of a user that is there has a version."""
        raise NotImplementedError


@dataclass(frozen=True)
class Put(Operation):
    """A create under an id that the client chose."""

    item: Item
    on_conflict: str = "error"

    def request(self) -> tuple[str, str, Any]:
        """See `Operation.request`."""
        return "POST", "/v1/memories", {"user_id": self.user_id, "on_conflict": self.on_conflict} | self.item.sent()

    def applied(self, state: State, now: datetime) -> tuple[State, int]:
        """See `Operation.applied`."""
        version, before = state.version + 1, state.items.get(self.item.id)
        after, status = replace(self.item, version=version), 201
        if before is not None and before.live(now):
            if self.on_conflict != "update":
                return state.changed(version), 200 if self.on_conflict == "ignore" else 409
            after, status = replace(after, created_at=before.created_at), 200
        items = {**state.items, after.id: after}
        return state.changed(version, items=items, buried=_without(state.buried, after.id), named=True), status


@dataclass(frozen=True)
class Batch(Operation):
    """Creates in one transaction."""

    puts: tuple[Put, ...]

    def request(self) -> tuple[str, str, Any]:
        """See `Operation.request`."""
        memories = [put.item.sent() | {"on_conflict": put.on_conflict} for put in self.puts]
        return "POST", "/v1/memories/batch", {"user_id": self.user_id, "memories": memories}

    def raises(self) -> int:
        """See `Operation.raises`."""
        return len(self.puts)

    def applied(self, state: State, now: datetime) -> tuple[State, int]:
        """See `Operation.applied`."""
        for put in self.puts:
            state, _ = put.applied(state, now)
        return state, 200


@dataclass(frozen=True)
class Patch(Operation):
    """A change of text, tags, expires_at or vector."""

    id: str
    fields: tuple[tuple[str, Any], ...]

    def request(self) -> tuple[str, str, Any]:
        """See `Operation.request`."""
        body = {"embedding" if name == "vector" else name: value for name, value in self.fields}
        if "embedding" in body:
            body["embedding"] = packed(body["embedding"])
        return "PATCH", f"/v1/memories/{self.id}?user_id={quote(self.user_id)}", body

    def applied(self, state: State, now: datetime) -> tuple[State, int]:
        """See `Operation.applied`."""
        before = state.items.get(self.id)
        if not state.named:
            return state, 404
        if before is None or not before.live(now):
            return state.changed(state.version + 1), 404
        after = replace(before, **dict(self.fields), version=state.version + 1)
        return state.changed(after.version, items={**state.items, self.id: after}), 200


@dataclass(frozen=True)
class Delete(Operation):
    """A delete; with `purge` nothing can be brought back."""

    id: str
    purge: bool = False

    def request(self) -> tuple[str, str, Any]:
        """See `Operation.request`."""
        purge = "&purge=true" if self.purge else ""
        return "DELETE", f"/v1/memories/{self.id}?user_id={quote(self.user_id)}{purge}", None

    def applied(self, state: State, now: datetime) -> tuple[State, int]:
        """See `Operation.applied`."""
        if not state.named:
            return state, 404
        version = state.version + 1
        if self.id not in state.items and self.id not in state.buried:
            return state.changed(version), 404
        buried = {**state.buried, self.id: None if self.purge else state.known(self.id)}
        return state.changed(version, items=_without(state.items, self.id), buried=buried), 204


@dataclass(frozen=True)
class Undelete(Operation):
    """The return of a deleted memory."""

    id: str

    def request(self) -> tuple[str, str, Any]:
        """See `Operation.request`."""
        return "POST", f"/v1/memories/{self.id}/undelete?user_id={quote(self.user_id)}", None

    def applied(self, state: State, now: datetime) -> tuple[State, int]:
        """See `Operation.applied`."""
        if not state.named:
            return state, 404
        version, present, before = state.version + 1, state.items.get(self.id), state.buried.get(self.id)
        if present is not None:
            return state.changed(version), 409 if present.live(now) else 404
        if before is None or not before.live(now):
            return state.changed(version), 404
        items = {**state.items, self.id: replace(before, version=version)}
        return state.changed(version, items=items, buried=_without(state.buried, self.id)), 200


def _without(named: Mapping[str, T], name: str) -> dict[str, T]:
    return {key: value for key, value in named.items() if key != name}


@dataclass(frozen=True)
class Forget(Operation):
    """The end of a user. Its version never starts again."""

    def request(self) -> tuple[str, str, Any]:
        """See `Operation.request`."""
        return "DELETE", f"/v1/users/{quote(self.user_id)}", None

    def applied(self, state: State, now: datetime) -> tuple[State, int]:
        """See `Operation.applied`."""
        if not state.named:
            return state, 404
        return state.changed(state.version + 1, items=_NOTHING, buried=_NOTHING, named=False), 200
