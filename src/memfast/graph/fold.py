"""What several steps come to together, as rows for statements: pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from memfast.projection import Change, LinkGone, LinkPut, NodeGone, NodePut

__all__ = ["Fold", "Row", "microseconds", "moment"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = dict[str, Any]


def microseconds(at: datetime | None) -> int | None:
    """A moment as Neo4j keeps it: microseconds since 1970, which is what PostgreSQL can tell apart."""
    return None if at is None else (at - _EPOCH) // timedelta(microseconds=1)


def moment(value: int | None) -> datetime | None:
    """The moment of such a number."""
    return None if value is None else _EPOCH + timedelta(microseconds=value)


class Fold:
    """The last of what changes say of each memory and link. They must be taken in their order."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[str, str], Row] = {}
        self._severed: dict[tuple[str, str], Row] = {}
        self._links: dict[tuple[str, str, str, str], Row] = {}
        self._of: dict[tuple[str, str], set[tuple[str, str, str, str]]] = {}

    def take(self, scope_id: UUID, version: int, changes: Iterable[Change]) -> None:
        """Take what happened to a scope with a version."""
        scope = str(scope_id)
        for change in changes:
            base: Row = {"scope_id": scope, "version": version}
            match change:
                case NodePut():
                    times = {
                        "created_at": microseconds(change.created_at),
                        "expires_at": microseconds(change.expires_at),
                    }
                    self._nodes[scope, str(change.id)] = {**base, "id": str(change.id), **times, "gone": None}
                case NodeGone():
                    self._sever({**base, "id": str(change.id)})
                case LinkPut():
                    said = {"weight": float(change.weight), "created_at": microseconds(change.created_at)}
                    kind = "MEMFAST_ARROW" if change.directed else "MEMFAST_LINK"
                    self._link({**base, **said, "relation": kind}, change.from_id, change.to_id, change.type)
                case LinkGone():
                    key = change.key
                    self._link({**base, "relation": "MEMFAST_GONE"}, key.from_id, key.to_id, key.type)

    def nodes(self) -> Sequence[Row]:
        """Rows for `put_nodes`."""
        return list(self._nodes.values())

    def severed(self) -> Sequence[Row]:
        """Rows for `sever`, which comes before `put_links`."""
        return list(self._severed.values())

    def links(self) -> Sequence[Row]:
        """Rows for `put_links`."""
        return list(self._links.values())

    def _sever(self, row: Row) -> None:
        node = (row["scope_id"], row["id"])
        self._nodes[node] = {**row, "created_at": None, "expires_at": None, "gone": row["version"]}
        self._severed[node] = row
        for key in self._of.pop(node, ()):
            self._links.pop(key, None)

    def _link(self, row: Row, from_id: UUID, to_id: UUID, type_: str) -> None:
        scope, ends = row["scope_id"], (str(from_id), str(to_id))
        key = (scope, *ends, type_)
        self._links[key] = {**row, "from_id": ends[0], "to_id": ends[1], "type": type_}
        for end in ends:
            self._of.setdefault((scope, end), set()).add(key)
