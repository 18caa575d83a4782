"""Walks over links in plain Python, which every engine is compared with."""


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
