"""Whose a memory is in mem0's words, and which user of memfast that is.

mem0 names up to four entities with a memory; here it belongs to one user. Where a `user_id` is named, it is that user,
and the rest are fields. Where none is, the first of agent, app and run owns it, as a user of its own whose name no
`user_id` of this face can have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from memfast.errors import InvalidRequest
from memfast.service.mem0 import OWN

__all__ = ["FIELDS", "KINDS", "Entities", "Kind", "entity_of", "native_field", "owner_of", "read_name", "standing"]

Kind: TypeAlias = Literal["user", "agent", "app", "run"]

KINDS: Final[tuple[Kind, ...]] = ("user", "agent", "app", "run")
"""In the order in which they own a memory."""

FIELDS: Final[Mapping[str, Kind]] = {f"{kind}_id": kind for kind in KINDS}
"""Entities by the names of their fields."""

_PREFIXES: Final[Mapping[Kind, str]] = {kind: f"mem0:{kind}:" for kind in KINDS[1:]}
_ANY = "*"


class Entities(Struct, frozen=True, kw_only=True):
    """The entities that are named with a memory."""

    user_id: str | None = None
    agent_id: str | None = None
    app_id: str | None = None
    run_id: str | None = None

    @property
    def owner(self) -> str | None:
        """The user of memfast; None where no entity is named."""
        named = ((kind, getattr(self, f"{kind}_id")) for kind in KINDS)
        return next((owner_of(kind, name) for kind, name in named if name is not None), None)

    @property
    def rest(self) -> dict[str, str]:
        """Those that do not own it, by the names of their fields."""
        named = {field: name for field in FIELDS if (name := getattr(self, field)) is not None}
        return dict(list(named.items())[1:])


def read_name(value: object, path: str) -> str:
    """The name of one entity, which may be sent as a number.

    Raises:
        InvalidRequest: it is neither a string nor a whole number, or empty, or `*`.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InvalidRequest(f"{path}: must be a string", path=path)
    name = str(value)
    if not name or name == _ANY:
        detail = "must not be empty" if not name else "* stands for any in filters, and names nobody"
        raise InvalidRequest(f"{path}: {detail}", path=path)
    return name


def owner_of(kind: Kind, name: str) -> str:
    """The user of memfast who owns what belongs to this entity alone.

    Raises:
        InvalidRequest: a user's name looks like another kind's.
    """
    if kind != "user":
        return _PREFIXES[kind] + name
    if name.startswith(tuple(_PREFIXES.values())):
        raise InvalidRequest(
            f"user_id: {name.rpartition(':')[0]}: at its beginning stands for memories without a user_id; "
            "name the agent_id, app_id or run_id instead",
            path="user_id",
        )
    return name


def entity_of(owner: str) -> tuple[Kind, str]:
    """The entity that a user of memfast stands for."""
    for kind, prefix in _PREFIXES.items():
        if owner.startswith(prefix) and owner != prefix:
            return kind, owner.removeprefix(prefix)
    return "user", owner


def standing(owner: str) -> dict[Kind, str | None]:
    """What is the same for all memories of an owner: its own name, and that none of the kinds before it is named."""
    own, name = entity_of(owner)
    before = KINDS[: KINDS.index(own)]
    return {**dict.fromkeys(before), own: name}


def native_field(kind: Kind) -> str:
    """Where the name of an entity stands that does not own the memory, as filters of memfast call it."""
    return f"metadata.{OWN}.app_id" if kind == "app" else f"{kind}_id"
