"""What the service needs of a copy of the links in another engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from memfast.links import Walk
from memfast.projection import Change, Mark, Step, Walked

__all__ = ["Projection"]


class Projection(Protocol):
    """Memories and links of all scopes, as copies: may be late, lost or of another database, and says which."""

    @property
    def engine(self) -> str:
        """Its name in answers, e.g. `neo4j`."""
        ...

    async def mark(self) -> Mark | None:
        """Which database this is a copy of; None where it is none yet, also while `begin` is at work.

        Raises:
            Unavailable: it cannot be asked, as with every method here.
        """
        ...

    async def begin(self, mark: Mark) -> None:
        """Take every mark away, erase everything, make constraints and indexes, then take this mark.

        Nobody else has begun with the same mark. What was written under another one, or is being written, is not there
        when this returns.

        Raises:
            OtherMarkError: somebody else began meanwhile.
        """
        ...

    async def apply(self, mark: Mark, steps: Sequence[Step]) -> set[UUID]:
        """Apply steps in one transaction, in their order; those that were applied before change nothing.

        A step of a version that the scope has reached is passed over as a whole. One whose base the scope has not
        reached is not applied, nor are those after it: these scopes are returned, and have to be loaded. A scope that
        is not there has version 0.

        Raises:
            OtherMarkError: the copy does not bear this mark; nothing was done.
        """
        ...

    async def load(self, mark: Mark, scope_id: UUID, version: int, pages: AsyncIterator[Sequence[Change]]) -> None:
        """Make a scope what these pages say that it was at a version, unless it is newer; it shows at the end.

        Until then it has the version and the content that it had, or none. Nodes come before links.

        Raises:
            OtherMarkError: the copy does not bear this mark (any more); what was loaded does not show.
        """
        ...

    async def versions(self, scope_ids: Sequence[UUID]) -> dict[UUID, int]:
        """The versions that scopes have here; those that were never applied or loaded are left out."""
        ...

    async def counts(self, scope_id: UUID) -> tuple[int, int]:
        """Memories and links that are kept of a scope, tombstones included."""
        ...

    async def related(self, scope_id: UUID, walk: Walk, *, now: datetime) -> Walked | None:
        """The same walk as `ports.Graph.related`, ids alone; None where the scope was never applied or loaded."""
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
