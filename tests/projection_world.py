"""A copy of the links in a dictionary: what every engine has to do, with nothing but what has to be."""

import asyncio
from copy import deepcopy

from graph_world import Reference
from memfast import links as bounds
from memfast.projection import LinkGone, LinkPut, NodeGone, NodePut, OtherMarkError, Walked


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
