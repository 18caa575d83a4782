"""What a PostgreSQL server must be to hold the memories."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from memfast.errors import DatabaseRefused
from memfast.store.queries import WRITE

__all__ = ["ServerFacts", "inspect_server"]

MINIMUM_POSTGRES = 160_000
MINIMUM_PGVECTOR = (0, 8, 4)


class ServerFacts(Struct, frozen=True):
    """What the server said of itself when it was checked."""

    server_version: str
    pgvector_version: str
    connections: int


async def inspect_server(connection: Any) -> ServerFacts:
    """Check that a server can be the store of record.

    Raises:
        DatabaseRefused: with what is wrong and what to do.
    """
    row = await connection.fetchrow(WRITE.server_facts)
    version = row["server_version"].split()[0]
    if row["version_number"] < MINIMUM_POSTGRES:
        raise DatabaseRefused(f"PostgreSQL {version} is too old: memfast needs 16 or newer; upgrade the server")
    if row["encoding"] != "UTF8":
        raise DatabaseRefused(f"the database's encoding is {row['encoding']}; create it with ENCODING 'UTF8'")
    if row["replica"]:
        raise DatabaseRefused("the server is a replica; postgres.dsn must name the primary")
    off = [name for name in ("fsync", "full_page_writes") if row[name] != "on"]
    if off:
        raise DatabaseRefused(
            f"the server runs with {' and '.join(off)} off: an acknowledged write could be lost; turn it on"
        )
    pgvector = row["pgvector_installed"] or row["pgvector_available"]
    if pgvector is None:
        raise DatabaseRefused("the server has no pgvector; install pgvector 0.8.4 or newer on its host")
    if tuple(int(part) for part in pgvector.split(".")[:3]) < MINIMUM_PGVECTOR:
        raise DatabaseRefused(
            f"pgvector {pgvector} is too old: memfast needs 0.8.4 or newer; install it and "
            "run ALTER EXTENSION vector UPDATE in the database"
        )
    return ServerFacts(version, pgvector, row["connections"])
