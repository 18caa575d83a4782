"""A copy of the links in a dictionary: what every engine has to do, with nothing but what has to be. And one in Neo4j."""

import asyncio
from contextlib import asynccontextmanager
from copy import deepcopy

from graph_world import Reference
from memfast import links as bounds
from memfast.graph.driver import Connections, DriverLimits
from memfast.graph.neo4j import Neo4jProjection
from memfast.projection import LinkGone, LinkPut, NodeGone, NodePut, OtherMarkError, Walked
from memfast.resilience.breaker import Breaker
from memfast.resilience.clock import SystemClock

PATIENT = DriverLimits(
    acquire_timeout_s=60,
    connect_timeout_s=60,
    read_timeout_s=60,
    write_timeout_s=60,
    idle_check_s=30,
    lifetime_s=3600,
    pool_min=1,
    pool_max=4,
)


@asynccontextmanager
async def opened_neo4j(server, *, apoc):
    """A projection over a server, prepared; `apoc` False leaves it aside."""
    breaker = Breaker("neo4j", SystemClock(), failures=3, hold_s=45)
    connections = Connections.open(server.uri, server.user, server.password, "neo4j", breaker, PATIENT)
    projection = Neo4jProjection(connections, apoc=None if apoc else False)
    try:
        await projection.prepare()
        yield projection
    finally:
        await projection.close()


class Scope:
    """What the copy has of one scope: nodes are (created, expires) by id, links (weight, directed, created) by key."""

    def __init__(self):
        self.version, self.nodes, self.links = 0, {}, {}

    def take(self, change):
        match change:
            case NodePut():
                self.nodes[change.id] = (change.created_at, change.expires_at)
            case NodeGone():
                self.nodes.pop(change.id, None)
                self.links = {key: link for key, link in self.links.items() if change.id not in key[:2]}
            case LinkPut():
                assert {change.from_id, change.to_id} <= self.nodes.keys(), "a link to nowhere"
                key = (change.from_id, change.to_id, change.type)
                self.links[key] = (change.weight, change.directed, change.created_at)
            case LinkGone():
                self.links.pop((change.key.from_id, change.key.to_id, change.key.type), None)

    def content(self):
        return self.version, self.nodes, self.links


class MemoryProjection:
    """A `ports.Projection` in memory. `before` and `after` are called at each call, with its name, and may raise."""

    engine = "memory"

    def __init__(self):
        self.bears = None
        self.scopes = {}
        self.steps_done = 0
        self.before = self.after = lambda _name: None

    async def mark(self):
        self.before("mark")
        return self.bears

    async def begin(self, mark):
        self.before("begin")
        self.bears = None
        await asyncio.sleep(0)
        self.scopes.clear()
        self.bears = mark
        self.after("begin")

    async def apply(self, mark, steps):
        self.before("apply")
        self._require(mark)
        scopes, gaps = {}, set()
        for step in steps:
            scope = scopes.setdefault(step.scope_id, deepcopy(self.scopes.get(step.scope_id, Scope())))
            if step.version <= scope.version or step.scope_id in gaps:
                continue
            if step.base > scope.version and not step.forgotten:
                gaps.add(step.scope_id)
                continue
            if step.forgotten:
                scope.nodes, scope.links = {}, {}
            for change in step.changes:
                scope.take(change)
            scope.version = step.version
            self.steps_done += 1
        self.scopes |= {scope_id: scope for scope_id, scope in scopes.items() if scope.version}
        self.after("apply")
        return gaps

    async def load(self, mark, scope_id, version, pages):
        self.before("load")
        self._require(mark)
        scope = Scope()
        async for page in pages:
            for change in page:
                scope.take(change)
        scope.version = version
        self._require(mark)
        if scope_id not in self.scopes or self.scopes[scope_id].version <= version:
            self.scopes[scope_id] = scope
        self.after("load")

    async def versions(self, scope_ids):
        return {each: self.scopes[each].version for each in scope_ids if each in self.scopes}

    async def counts(self, scope_id):
        scope = self.scopes.get(scope_id, Scope())
        return len(scope.nodes), len(scope.links)

    async def related(self, scope_id, walk, *, now):
        self.before("related")
        if scope_id not in self.scopes or self.bears is None:
            return None
        scope = self.scopes[scope_id]
        reference = Reference(scope.nodes, scope.links)
        found = reference.related(walk, now, bounds.FANOUT_LINKS, bounds.LEVEL_MEMORIES)
        if found is None:
            return Walked(self.bears, scope.version, start=False, found=[], expires_at=None)
        return Walked(self.bears, scope.version, start=True, found=found[0], expires_at=found[1])

    async def close(self):
        """Nothing is open."""

    def _require(self, mark):
        if self.bears != mark:
            raise OtherMarkError


async def stored(connection, scope_id):
    """What PostgreSQL has of a scope, as `Scope.content` gives it."""
    version = await connection.fetchval("SELECT version FROM scopes WHERE scope_id = $1", scope_id)
    nodes = await connection.fetch(
        "SELECT id, created_at, expires_at FROM memories WHERE scope_id = $1 AND deleted_at IS NULL", scope_id
    )
    links = await connection.fetch(
        "SELECT from_id, to_id, type, weight, directed, created_at FROM links WHERE scope_id = $1", scope_id
    )
    return version, {row[0]: tuple(row)[1:] for row in nodes}, {tuple(row)[:3]: tuple(row)[3:] for row in links}
