"""What the budget times: services set up in several ways, and in each the operations by what answers them."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.harness.corpus import fill, sentences, unit_vectors
from bench.harness.load import call, connections, encode
from bench.harness.turns import ask

__all__ = ["DELAY_S", "SCENES", "USER", "Case", "Scene", "World"]

USER = "u"
DELAY_S = 0.05
"""What the slow embedder takes for any number of texts, in seconds."""

_WRITERS = 50
"""Users who are written to in turns."""

_HELD = 100
_ASKED_MAX = 500


class World:
    """What requests are made of: one user of so many memories, texts and vectors that nobody asked for before."""

    def __init__(self, address: tuple[str, int], memories: int) -> None:
        self._address = address
        self._memories = memories
        self._rng = np.random.default_rng(41)
        self._numbers = itertools.count()

    async def prepare(self) -> None:
        """Fill the user, and have its memories in the service's memory where it keeps any."""
        async with connections(self._address, 1) as (connection,):
            await fill(connection, USER, self._memories, np.random.default_rng(7))
        await self.call("POST", "/v1/warm", {"users": [USER]})

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request over a connection of its own; returns the decoded answer."""
        async with connections(self._address, 1) as (connection,):
            return await call(connection, method, path, body)

    def text(self) -> str:
        """A text that was not used before."""
        return f"{sentences(self._rng, 1)[0]} {next(self._numbers)}"

    def vector(self) -> str:
        """A vector that was not used before, as the wire has it."""
        return base64.b64encode(unit_vectors(self._rng, 1)[0].astype("<f4").tobytes()).decode()

    def number(self) -> int:
        """A number that was not used before."""
        return next(self._numbers)

    async def again(self, request: bytes) -> bytes:
        """The request, once its answer is kept.

        Raises:
            RuntimeError: it is never kept.
        """
        async with connections(self._address, 1) as (connection,):
            for _ in range(_ASKED_MAX):
                await ask(connection, request)
                if b"memfast-tier: hot" in connection.head or b"memfast-tier: redis" in connection.head:
                    return request
                await asyncio.sleep(0.01)
        raise RuntimeError(f"not kept after {_ASKED_MAX} times: {request!r}")

    async def new_ids(self, count: int) -> list[tuple[str, str]]:
        """So many new memories: users and ids."""
        made: list[tuple[str, str]] = []
        while len(made) < count:
            user = f"writer-{len(made) % _WRITERS}"
            items = [{"text": self.text(), "embedding": self.vector()} for _ in range(min(100, count - len(made)))]
            body = {"user_id": user, "memories": items}
            answer = await self.call("POST", "/v1/memories/batch", body)
            made += [(user, result["id"]) for result in answer["results"]]
        return made


Work = Callable[[World, int], Awaitable[list[bytes]]]


@dataclass(frozen=True)
class Case:
    """One operation, what answers it (empty for writes), and how so many requests of it are made.

    `share` is how many requests it takes of those that a quick operation does.
    """

    name: str
    tier: str
    work: Work
    share: float = 1.0


@dataclass(frozen=True)
class Scene:
    """A service with some settings, and what is timed in it. `needs` is what must run beside it: redis or embedder."""

    name: str
    text: str
    cases: tuple[Case, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    needs: str = ""


def _search(**fields: Any) -> bytes:
    return encode("POST", "/v1/search", {"user_id": USER, "limit": 10, **fields})


async def _by_vector(world: World, count: int) -> list[bytes]:
    return [_search(embedding=world.vector()) for _ in range(count)]


async def _by_text(world: World, count: int) -> list[bytes]:
    return [_search(query=world.text()) for _ in range(count)]


async def _by_words(world: World, count: int) -> list[bytes]:
    return [_search(query=world.text(), mode="lexical") for _ in range(count)]


async def _by_held_text(world: World, count: int) -> list[bytes]:
    """New questions by texts that were asked before, whose vectors the service holds."""
    known = [world.text() for _ in range(min(_HELD, count))]
    for text in known:
        await world.again(_search(query=text, limit=1))
    return [_search(query=known[n % len(known)], min_score=world.number() / 1e9) for n in range(count)]


async def _again(world: World, count: int) -> list[bytes]:
    return [await world.again(_search(query=world.text()))] * count


async def _again_by_vector(world: World, count: int) -> list[bytes]:
    return [await world.again(_search(embedding=world.vector()))] * count


async def _listed(world: World) -> list[str]:
    page = await world.call("GET", f"/v1/memories?user_id={USER}&limit=1000")
    return [memory["id"] for memory in page["memories"]]


async def _get(world: World, count: int) -> list[bytes]:
    ids = itertools.cycle(await _listed(world))
    await world.call("POST", "/v1/cache/clear")
    await world.call("POST", "/v1/warm", {"users": [USER]})
    return [encode("GET", f"/v1/memories/{next(ids)}?user_id={USER}") for _ in range(count)]


async def _list(_world: World, count: int) -> list[bytes]:
    return [encode("GET", f"/v1/memories?user_id={USER}&limit=100")] * count


async def _list_again(world: World, count: int) -> list[bytes]:
    (request,) = await _list(world, 1)
    return [await world.again(request)] * count


async def _create(world: World, count: int) -> list[bytes]:
    return [_create_one({"text": world.text()}, n) for n in range(count)]


async def _create_with_vector(world: World, count: int) -> list[bytes]:
    return [_create_one({"text": world.text(), "embedding": world.vector()}, n) for n in range(count)]


def _create_one(memory: dict[str, Any], number: int) -> bytes:
    return encode("POST", "/v1/memories", {"user_id": f"writer-{number % _WRITERS}", **memory})


async def _create_many(world: World, count: int) -> list[bytes]:
    bodies = (
        {"user_id": f"writer-{n % _WRITERS}", "memories": [{"text": world.text()} for _ in range(100)]}
        for n in range(count)
    )
    return [encode("POST", "/v1/memories/batch", body) for body in bodies]


async def _change(world: World, count: int) -> list[bytes]:
    made = await world.new_ids(count)
    return [encode("PATCH", f"/v1/memories/{each}?user_id={user}", {"text": world.text()}) for user, each in made]


async def _delete(world: World, count: int) -> list[bytes]:
    made = await world.new_ids(count)
    return [encode("DELETE", f"/v1/memories/{each}?user_id={user}") for user, each in made]


_SLOW, _SLOWER = 0.3, 0.05

SCENES = (
    Scene(
        "as installed",
        "One worker, the embedder of the base installation in it, users in memory.",
        (
            Case("search again", "hot", _again),
            Case("search by a vector", "warm", _by_vector),
            Case("search by words", "warm", _by_words),
            Case("search by a new text", "warm", _by_text),
            Case("search by a text that was embedded before", "warm", _by_held_text),
            Case("get", "warm", _get),
            Case("list 100 again", "hot", _list_again),
            Case("create, vector given", "", _create_with_vector),
            Case("create", "", _create),
            Case("create 100 at once", "", _create_many, _SLOWER),
            Case("change a text", "", _change),
            Case("delete", "", _delete),
        ),
    ),
    Scene(
        "nothing in memory",
        "The same without copies in memory: PostgreSQL answers every request. A search by text reads the whole user.",
        (
            Case("search by a vector", "cold", _by_vector, _SLOW),
            Case("search by a new text", "cold", _by_text, _SLOWER),
            Case("get", "cold", _get),
            Case("list 100", "cold", _list, _SLOW),
        ),
        {"index.memory_mb": 0, "cache.memory_mb": 0},
    ),
    Scene(
        "Redis",
        "No copies in the workers, answers in a Redis on the same machine; a request waits for it as long as it takes.",
        (Case("search by a vector again", "redis", _again_by_vector),),
        {
            "index.memory_mb": 0,
            "cache.memory_mb": 0,
            "redis.min_cost_ms": 0,
            "redis.timeout_s": 5,
            "redis.failures": 1000,
        },
        "redis",
    ),
    Scene(
        "a slow embedder",
        f"An endpoint that takes {DELAY_S * 1000:g} ms for a vector, over HTTP on the same machine. Searches wait for it: the limit "
        "after which they do without (`search.leg_timeout_ms`) is out of the way.",
        (
            Case("search by a vector", "warm", _by_vector),
            Case("search by a new text", "warm", _by_text, _SLOW),
            Case("search by a text that was embedded before", "warm", _by_held_text, _SLOW),
            Case("create", "", _create, _SLOW),
        ),
        {
            "embedding.provider": "openai",
            "embedding.model": "slow",
            "embedding.dimensions": 256,
            "embedding.failures": 1000,
            "search.leg_timeout_ms": 10_000,
        },
        "embedder",
    ),
    Scene(
        "no embedder",
        "`embedding.provider = none`: clients bring vectors, a search by text alone is one by words.",
        (
            Case("search by a vector", "warm", _by_vector),
            Case("search by a new text", "warm", _by_text),
            Case("create, vector given", "", _create_with_vector),
        ),
        {"embedding.provider": "none", "embedding.dimensions": 256},
    ),
)
"""In the order of the page."""
