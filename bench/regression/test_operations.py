"""How long the operations take in the process, without HTTP: `python -m pytest bench/regression --benchmark-only`.

One service's objects over an embedded PostgreSQL of its own, one user of 5,000 memories with texts of 20 words. The table
has operations per second beside the times; the numbers are for comparing two states of this project on one machine.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
import uvloop
from bench.harness.corpus import sentences
from bench.harness.service import scratch_dir

from memfast.bootstrap import Services, ground, open_services
from memfast.config import load
from memfast.model import Scope
from memfast.service.answers import derive_key
from memfast.service.question import Query
from memfast.service.recall import ListQuery
from memfast.service.remember import Draft

MEMORIES = 5_000
BATCHES = [10, 50, 100]


class World:
    """Live services on a loop of their own, called from outside of it."""

    def __init__(self, runner: asyncio.Runner, services: Services, scope: Scope) -> None:
        self.runner = runner
        self.services = services
        self.scope = scope
        self.texts = itertools.cycle(sentences(np.random.default_rng(3), 20_000))
        self.number = itertools.count()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end; `Runner.run` itself would cost 80 microseconds for its signal handler."""
        return self.runner.get_loop().run_until_complete(work)

    def text(self) -> str:
        """A text that was not used before."""
        return f"{next(self.texts)} {next(self.number)}"

    def drafts(self, count: int) -> list[tuple[Scope, Draft]]:
        """New memories."""
        return [(self.scope, Draft(text=self.text())) for _ in range(count)]

    def search(self, text: str) -> Any:
        """Search by a text."""
        return self.run(self.services.search.find(self.scope, Query(text=text), "json"))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """A user of 5,000 memories who is held in memory."""
    with scratch_dir() as scratch:
        alone = {"links.similar": 0, "links.entities": 0}  # made behind a create, they would void answers that are hot
        config = load({}, flags={"data_dir": str(scratch / "data")} | alone).config
        with ground(config, lambda _line: None) as site, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            context = open_services(site)
            services = runner.run(context.__aenter__())
            scope = services.access.scope(runner.run(services.access.authenticate(None)), "u")
            opened = World(runner, services, scope)
            for _ in range(MEMORIES // 500):
                opened.run(services.remember.create_many(opened.drafts(500)))
            opened.run(_loaded(services, scope))
            yield opened
            runner.run(context.__aexit__(None, None, None))


async def _loaded(services: Services, scope: Scope) -> bool:
    return await services.warm.load(scope)


def test_retain_single(benchmark: Callable[..., Any], world: World) -> None:
    """One memory: checked, embedded, committed."""
    create = world.services.remember.create
    benchmark(lambda: world.run(create(world.scope, Draft(text=world.text()))))


@pytest.mark.parametrize("count", BATCHES)
def test_retain_batch(benchmark: Callable[..., Any], world: World, count: int) -> None:
    """Many memories in one transaction."""
    create_many = world.services.remember.create_many
    benchmark(lambda: world.run(create_many(world.drafts(count))))


def test_recall_cold(benchmark: Callable[..., Any], world: World) -> None:
    """A search by text of a user who is not in memory."""

    def search() -> Any:
        world.services.warm.drop(world.scope.id)
        answer, _ = world.search(world.text())
        assert answer.tier == "cold"

    benchmark(search)


def test_recall_warm(benchmark: Callable[..., Any], world: World) -> None:
    """A new search by text of a user in memory."""
    world.run(_loaded(world.services, world.scope))

    def search() -> Any:
        answer, _ = world.search(world.text())
        assert answer.tier == "warm"

    benchmark(search)


def test_recall_hot(benchmark: Callable[..., Any], world: World) -> None:
    """The same search again."""
    world.search("the same question")

    def search() -> Any:
        answer, _ = world.search("the same question")
        assert answer.tier == "hot"

    benchmark(search)


def test_get(benchmark: Callable[..., Any], world: World) -> None:
    """One memory by its id, of a user in memory."""
    world.run(_loaded(world.services, world.scope))
    page = world.run(world.services.recall.list(world.scope, ListQuery(limit=1000)))
    targets = itertools.cycle(memory.id for memory in page.memories)
    benchmark(lambda: world.run(world.services.recall.get(world.scope, next(targets), "json")))


def test_embedding_single(benchmark: Callable[..., Any], world: World) -> None:
    """One new text."""
    benchmark(lambda: world.run(world.services.embedder.embed([world.text()])))


@pytest.mark.parametrize("count", BATCHES)
def test_embedding_batch(benchmark: Callable[..., Any], world: World, count: int) -> None:
    """Many new texts."""
    benchmark(lambda: world.run(world.services.embedder.embed([world.text() for _ in range(count)])))


def test_cache_operations(benchmark: Callable[..., Any], world: World) -> None:
    """A look-up of a finished answer: epochs, deadline, bytes."""
    _, target = world.search("the same question")
    assert target.key != derive_key(world.scope.id, b"another")
    benchmark(lambda: world.services.answers.look(*target))


@pytest.mark.parametrize("clients", [1, 5, 10, 20, 50])
def test_searches_at_once(benchmark: Callable[..., Any], world: World, clients: int) -> None:
    """New searches by text, so many at once; the time is for all of them."""
    world.run(_loaded(world.services, world.scope))
    search = world.services.search.find

    async def together() -> None:
        await asyncio.gather(*(search(world.scope, Query(text=world.text()), "json") for _ in range(clients)))

    benchmark(lambda: world.run(together()))
