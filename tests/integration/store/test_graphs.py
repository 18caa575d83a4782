"""Walks by a copy of the links, and when PostgreSQL makes them itself."""

from itertools import pairwise
from uuid import UUID, uuid4

import msgspec
import pytest
from changes_world import NOW

from memfast.errors import GraphUnavailable
from memfast.links import Link, Walk
from memfast.model import Delete, PutLink
from memfast.projection import LinkPut, Mark, NodePut, Step
from memfast.service.graphs import CopiedGraph
from memfast.store.links import PostgresLinks
from projection_world import MemoryProjection

IDS = [UUID(int=number) for number in range(1, 6)]


class World:
    """A user with a chain of four memories and one alone, a copy that knows them, and both engines together."""

    def __init__(self, store, scope):
        self.store, self.scope = store, scope
        self.links = PostgresLinks(store._pool)
        self.copy = MemoryProjection()
        self.graph = CopiedGraph(self.copy, self.links, self.links)
        self.walk = Walk(start=IDS[0], depth=2, limit=10)

    async def prepare(self, new_create):
        await self.store.apply([new_create(each) for each in IDS], now=NOW)
        pairs = list(pairwise(IDS[:4]))
        links = [
            Link(
                from_id=a,
                to_id=b,
                type="x",
                weight=0.5,
                directed=True,
                metadata=msgspec.Raw(b"{}"),
                created_at=NOW,
                version=0,
            )
            for a, b in pairs
        ]
        outcomes = await self.store.apply([PutLink(scope=self.scope, link=each) for each in links], now=NOW)
        self.mark = Mark(await self.lineage(), 1)
        await self.copy.begin(self.mark)
        nodes = [NodePut(each, NOW, None) for each in IDS]
        puts = [LinkPut(a, b, "x", 0.5, True, NOW) for a, b in pairs]
        await self.copy.apply(self.mark, [Step(self.scope.id, outcomes[-1].scope_version, nodes + puts)])

    async def lineage(self):
        async with self.store._pool.connection() as connection:
            return await connection.fetchval("SELECT lineage FROM database")

    async def found(self, **fields):
        """The ids of what is related, the engine and what should have answered."""
        walk = msgspec.structs.replace(self.walk, **fields)
        answer = await self.graph.related(self.scope, walk, now=NOW)
        assert answer is not None
        wanted = await self.links.related(self.scope, walk, now=NOW)
        assert (answer.results, answer.version, answer.expires_at) == (
            wanted.results,
            wanted.version,
            wanted.expires_at,
        )
        return [each.id for each in answer.results], answer.engine, list(answer.degraded)


@pytest.fixture
async def world(store, scope, new_create):
    """A world that is prepared."""
    made = World(store, scope)
    await made.prepare(new_create)
    return made


async def test_a_copy_that_is_as_new_answers(world):
    """Ids, depths and weights are the copy's, memories PostgreSQL's; also where there is nothing."""
    assert await world.found() == (IDS[1:3], "memory", [])
    assert await world.found(depth=4, limit=2) == (IDS[1:3], "memory", [])
    assert await world.found(start=IDS[4]) == ([], "memory", [])


async def test_a_late_copy_does_not(world):
    """What it says of a deleted memory is not believed, nor what it says after other writes."""
    await world.store.apply([Delete(scope=world.scope, id=IDS[2])], now=NOW)
    assert await world.found() == (IDS[1:2], "postgresql", [])


async def test_a_copy_of_another_life_does_not(world):
    """Its versions may be the same."""
    version = (await world.copy.versions([world.scope.id]))[world.scope.id]
    other = Mark(uuid4(), 1)
    await world.copy.begin(other)
    await world.copy.apply(other, [Step(world.scope.id, version, [NodePut(each, NOW, None) for each in IDS])])
    assert await world.found() == (IDS[1:3], "postgresql", [])


async def test_a_copy_without_the_user_does_not(world):
    """It may have been made just now."""
    await world.copy.begin(world.mark)
    assert await world.found() == (IDS[1:3], "postgresql", [])


async def test_a_memory_that_is_not_there(world):
    """PostgreSQL says so."""
    walk = Walk(start=UUID(int=99), depth=1, limit=1)
    assert await world.graph.related(world.scope, walk, now=NOW) is None


async def test_a_copy_that_is_away_is_named(world):
    """The answer is PostgreSQL's, and says who should have given it."""

    def away(_name):
        raise GraphUnavailable("away")

    world.copy.before = away
    assert await world.found() == (IDS[1:3], "postgresql", ["memory"])
    walk = Walk(start=UUID(int=99), depth=1, limit=1)
    assert await world.graph.related(world.scope, walk, now=NOW) is None
