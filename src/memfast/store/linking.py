"""What changes do to the links of one scope: decided without a database, as with memories (`store.flush`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from uuid import UUID

import msgspec

from memfast.links import Link, LinkKey

__all__ = ["Linking"]


class Linking:
    """The links of a scope while changes are applied to them.

    `severed` are memories that lost all the links they had; `rows` are links as they are after that, by key, None for
    those that are dropped.
    """

    def __init__(self, existing: Mapping[LinkKey, Link]) -> None:
        self.severed: set[UUID] = set()
        self.rows: dict[LinkKey, Link | None] = {}
        self._existing = existing

    def like(self, link: Link) -> list[Link]:
        """What a link would take the place of."""
        new = link.normalised()
        same, reverse = self._at(new.key), self._at(new.key.reverse)
        if reverse is not None and new.directed and reverse.directed:
            reverse = None
        return [each for each in (same, reverse) if each is not None]

    def put(self, link: Link) -> tuple[Link, Literal["created", "updated"]]:
        """Make a link, or have it take the place of what is there: an undirected one stands for both directions.

        The first time that the two were linked so is kept.
        """
        new = link.normalised()
        before = self.like(new)
        for each in before:
            self.rows[each.key] = None
        if before:
            new = msgspec.structs.replace(new, created_at=min(each.created_at for each in before))
        self.rows[new.key] = new
        return new, "updated" if before else "created"

    def drop(self, key: LinkKey, *, automatic: bool = False) -> Link | None:
        """Drop a link, named either way round if it is undirected; None where there is none.

        With `automatic` there is none but those that nobody asked for.
        """
        link = self._at(key)
        if link is None:
            link = self._at(key.reverse)
            if link is None or link.directed:
                return None
        if automatic and not link.automatic:
            return None
        self.rows[link.key] = None
        return link

    def sever(self, memory_id: UUID) -> None:
        """A memory is no more, and none of its links."""
        self.severed.add(memory_id)
        for key in [key for key in self.rows if memory_id in {key.from_id, key.to_id}]:
            del self.rows[key]

    def _at(self, key: LinkKey) -> Link | None:
        if key in self.rows:
            return self.rows[key]
        return None if self.severed & {key.from_id, key.to_id} else self._existing.get(key)
