"""Walks over links in plain Python, which every engine is compared with, and histories of links to walk over."""

from datetime import timedelta
from uuid import UUID

import msgspec
import numpy as np
from hypothesis import strategies as st

from memfast.links import Link, LinkKey, Spread, Walk
from memfast.model import Create, Delete, DropLink, PutLink
from memory_world import memory_of

IDS = [UUID(int=number) for number in range(1, 9)]
VECTOR = np.eye(8, dtype=np.float32)[0]
WEIGHTS = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
TYPES = st.sampled_from(["x", "y"])
ENDS = st.lists(st.sampled_from(IDS), min_size=2, max_size=2, unique=True)
PUT = st.tuples(st.just("put"), ENDS, TYPES, WEIGHTS, st.booleans())
DROP = st.tuples(st.just("drop"), ENDS, TYPES)
DELETE = st.tuples(st.just("delete"), st.sampled_from(IDS))
CREATE = st.tuples(st.just("create"), st.sampled_from(IDS), st.integers(0, 2), st.sampled_from([None, None, 1, 3]))
STEPS = st.lists(st.lists(st.one_of(PUT, PUT, PUT, DROP, DELETE, CREATE), max_size=12), max_size=5)
SPREADS = st.builds(
    lambda scores, depth: Spread(starts=sorted(scores.items(), key=lambda each: -each[1]), depth=depth),
    st.dictionaries(st.sampled_from(IDS), st.sampled_from([0.2, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=4),
    st.integers(1, 4),
)


def walks_from(ids):
    """Any walk from one of these."""
    return st.builds(
        Walk,
        start=st.sampled_from(ids),
        depth=st.integers(1, 4),
        limit=st.sampled_from([1, 2, 3, 8, 100]),
        type=st.none() | TYPES,
        min_weight=st.sampled_from([0.0, 0.3, 0.6]),
    )


class Reference:
    """Memories and links of one user."""

    def __init__(self, memories=(), links=()):
        self.memories = dict(memories)  # id → (created_at, expires_at), or None where it was deleted
        self.links = dict(links)  # (from, to, type) → (weight, directed, made at)

    def lives(self, target, now):
        found = self.memories.get(target)
        return found is not None and (found[1] is None or found[1] > now)

    def related(self, walk, now, fanout, level):
        """(id, depth, weight) of what a walk finds, and when that ends; None without the start."""
        if not self.lives(walk.start, now):
            return None
        seen, frontier, found = {walk.start}, {walk.start: 1.0}, []
        for depth in range(1, walk.depth + 1):
            best = {}
            for near, product in frontier.items():
                for target, weight in self.followed(near, walk, fanout):
                    if target not in seen and self.lives(target, now):
                        best[target] = max(best.get(target, 0.0), product * weight)
            order = sorted(best, key=lambda each: (-best[each], -self.memories[each][0].timestamp(), each))[:level]
            if not order or len(seen) > walk.limit:
                break
            frontier = {each: best[each] for each in order}
            seen.update(order)
            found += [(each, depth, best[each]) for each in order]
        ends = [self.memories[each][1] for each in seen if self.memories[each][1] is not None]
        return found[: walk.limit], min(ends, default=None)

    def followed(self, near, walk, fanout):
        """The strongest links out of a memory, then those into it that are followed both ways."""
        outward, inward = [], []
        for (a, b, type_), (weight, directed, _) in self.links.items():
            if weight < walk.min_weight or walk.type not in {None, type_}:
                continue
            if a == near:
                outward.append((-weight, b))
            elif b == near and not directed:
                inward.append((-weight, a))
        return [(target, -weight) for side in (outward, inward) for weight, target in sorted(side)[:fanout]]


ANYTHING = Walk(start=IDS[0], depth=1, limit=1)
"""Any link, however weak."""


class LinkWorld(Reference):
    """What a user's memories and links should be. Time goes on by an hour a step."""

    def sever(self, target):
        self.links = {key: value for key, value in self.links.items() if target not in key[:2]}

    def apply(self, step, now):
        """Make a change; returns the status that it should have, None where it is refused."""
        kind, *rest = step
        return getattr(self, f"_{kind}")(*rest, now)

    def _put(self, ends, type_, weight, directed, now):
        if not all(self.lives(end, now) for end in ends):
            return None
        a, b = ends if directed else sorted(ends)
        taken = [key for key in ((a, b, type_), (b, a, type_)) if key in self.links]
        taken = [key for key in taken if key == (a, b, type_) or not (directed and self.links[key][1])]
        made = min([self.links.pop(key)[2] for key in taken], default=now)
        self.links[a, b, type_] = (weight, directed, made)
        return "updated" if taken else "created"

    def _drop(self, ends, type_, _now):
        for key in ((*ends, type_), (*reversed(ends), type_)):
            if key in self.links and (key[:2] == tuple(ends) or not self.links[key][1]):
                del self.links[key]
                return "deleted"
        return None

    def _delete(self, target, _now):
        if target not in self.memories:
            return None
        self.memories[target] = None
        self.sever(target)
        return "deleted"

    def _create(self, target, day, hours, now):
        if self.lives(target, now):
            return None
        self.sever(target)
        expires_at = None if hours is None else now + timedelta(hours=hours)
        self.memories[target] = (now - timedelta(days=day), expires_at)
        return "created"

    def listed(self, query, now):
        """The links that a listing shows, as (key, weight, directed, made at)."""
        return [
            (key, *value)
            for key, value in sorted(self.links.items())
            if self.lives(key[0], now) and self.lives(key[1], now)
            if query.type in {None, key[2]} and (query.memory_id is None or query.memory_id in key[:2])
        ]

    def spread(self, spread, now, fanout, level):
        """What arrives where: (score, start, depth) by id."""
        best, found = dict(spread.starts), {}
        frontier = {start: (score, start) for start, score in spread.starts}
        for depth in range(1, spread.depth + 1):
            arrived = {}
            for near, (score, start) in frontier.items():
                for target, weight in self.followed(near, ANYTHING, fanout):
                    if weight > 0 and self.lives(target, now):
                        arrived.setdefault(target, []).append((-score * weight, start))
            better = {target: min(each) for target, each in arrived.items() if -min(each)[0] > best.get(target, 0.0)}
            order = sorted(better, key=lambda each: (better[each][0], each))[:level]
            frontier = {target: (-better[target][0], better[target][1]) for target in order}
            best |= {target: score for target, (score, _) in frontier.items()}
            found |= {target: (score, start, depth) for target, (score, start) in frontier.items()}
        return found


def change_of(step, scope, now):
    """A step as a change."""
    kind, *rest = step
    if kind == "put":
        (a, b), type_, weight, directed = rest
        fields = {"weight": weight, "directed": directed, "metadata": msgspec.Raw(b'{"n":1}')}
        return PutLink(scope=scope, link=Link(from_id=a, to_id=b, type=type_, created_at=now, version=0, **fields))
    if kind == "drop":
        (a, b), type_ = rest
        return DropLink(scope=scope, key=LinkKey(a, b, type_))
    if kind == "delete":
        return Delete(scope=scope, id=rest[0])
    target, day, hours = rest
    expires_at = None if hours is None else now + timedelta(hours=hours)
    created_at = now - timedelta(days=day)
    memory = memory_of(created_at, id=target, user_id=scope.user_id, text="x", expires_at=expires_at)
    return Create(scope=scope, memory=memory, vector=VECTOR)
