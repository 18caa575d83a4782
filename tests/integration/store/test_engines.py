"""One history of writes, and the same walk by everybody who can make it: PostgreSQL, Neo4j, memory and plain Python.

What PostgreSQL is told goes through the outbox and a relay to both copies, as in a service.
"""

import asyncio
import os
import random
from datetime import timedelta

import pytest
from changes_world import NOW
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph_world import IDS, STEPS, LinkWorld, change_of, walks_from
from memfast import links as bounds
from memfast.graph import neo4j as graph_module
from memfast.model import Trail
from memfast.resilience.clock import SystemClock
from memfast.service.graphs import CopiedGraph
from memfast.service.relay import Relay, RelayLimits
from memfast.store import links as store_module
from memfast.store.links import PostgresLinks
from memfast.store.relaying import PostgresOutbox
from projection_world import MemoryProjection, opened_neo4j

PATIENCE_S = 60.0
RELAY = RelayLimits(outbox_rows=1000, batch_steps=3, poll_s=0.02)


class Both:
    """A copy that is made of two: each is told the same, and has to say the same of it."""

    engine = "both"

    def __init__(self, *copies):
        self._copies = copies

    async def mark(self):
        marks = {await each.mark() for each in self._copies}
        return marks.pop() if len(marks) == 1 else None

    async def begin(self, mark):
        for each in self._copies:
            await each.begin(mark)

    async def apply(self, mark, steps):
        gaps = [await each.apply(mark, steps) for each in self._copies]
        assert all(each == gaps[0] for each in gaps)
        return gaps[0]

    async def load(self, mark, scope_id, version, pages):
        kept = [page async for page in pages]
        for each in self._copies:
            await each.load(mark, scope_id, version, self._again(kept))

    async def _again(self, kept):
        for page in kept:
            yield page


async def told(outbox, relay):
    """Turns of a relay until nothing waits."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            more = [await relay.relay(), await relay.load()]
            backlog = await outbox.backlog(1000)
            if not any(more) and not backlog.pending and not backlog.building:
                return


class Engines:
    """A store, its copies, and everybody who walks."""

    def __init__(self, store, neo4j, without_apoc):
        self.store, self.memory = store, MemoryProjection()
        self.outbox = PostgresOutbox(store._pool)
        self.links = PostgresLinks(store._pool)
        self.relay = Relay(self.outbox, Both(neo4j, self.memory), SystemClock(), random.random, RELAY)
        copies = (neo4j, without_apoc, self.memory)
        self.graphs = [(each.engine, CopiedGraph(each, self.links, self.links)) for each in copies]
        self.graphs.append(("postgresql", self.links))

    async def compare(self, scope, steps, walks, fanout, level):
        """Write a history, a transaction a list of changes; after each everybody makes the same walks."""
        world, now = LinkWorld(), NOW
        await self.store.forget(scope, now=now)
        everybody = [[("create", target, number % 3, None) for number, target in enumerate(IDS)]]
        for batch in everybody + [step for step in steps if step]:
            now += timedelta(hours=1)
            outcomes = await self.store.apply([change_of(step, scope, now) for step in batch], now=now)
            for step in batch:
                world.apply(step, now)
            await told(self.outbox, self.relay)
            for walk in walks:
                wanted = world.related(walk, now, fanout, level)
                for engine, graph in self.graphs:
                    found = await graph.related(scope, walk, now=now)
                    trail = await graph.trail(scope, walk, now=now)
                    if wanted is None:
                        assert found is trail is None, engine
                        continue
                    shown = [(each.id, each.depth, each.weight) for each in found.results]
                    assert (found.engine, list(found.degraded)) == (engine, [])
                    assert (shown, found.expires_at) == wanted, engine
                    assert found.version == outcomes[-1].scope_version, engine
                    assert trail == Trail(shown, found.version, found.expires_at, engine), "the same without memories"


@pytest.mark.parametrize(("fanout", "level"), [(256, 500), (2, 3)], ids=["default bounds", "small bounds"])
def test_all_engines_and_plain_python_agree(open_store, scope, graph_server, monkeypatch, fanout, level):
    """Random links, deletes, expiries and forgetting: ids, depths, weights, order, version and end of every walk."""
    for each in (bounds, graph_module, store_module):
        monkeypatch.setattr(each, "FANOUT_LINKS", fanout)
        monkeypatch.setattr(each, "LEVEL_MEMORIES", level)
    with asyncio.Runner() as runner:
        managers = [open_store(), opened_neo4j(graph_server, apoc=True), opened_neo4j(graph_server, apoc=False)]
        engines = Engines(*[runner.run(each.__aenter__()) for each in managers])
        try:

            @settings(
                max_examples=10 * int(os.environ.get("SOAK", "1")),
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(STEPS, st.lists(walks_from(IDS), min_size=3, max_size=6))
            def agree(steps, walks):
                runner.run(engines.compare(scope, steps, walks, fanout, level))

            agree()
        finally:
            for each in reversed(managers):
                runner.run(each.__aexit__(None, None, None))
