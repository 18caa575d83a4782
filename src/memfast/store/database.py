"""What must be true of a database before a worker may use it: server, schema, embedder. Done once, by the parent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from msgspec import Struct

from memfast.errors import CommandFailed, EmbedderMismatch
from memfast.store.migrate import apply_migrations, load_migrations, pending_migrations
from memfast.store.queries import ADMIN
from memfast.store.server import ServerFacts, inspect_server

__all__ = ["Prepared", "new_lineage", "prepare", "read_prepared", "refreshed", "require_prepared"]


class Prepared(Struct, frozen=True, kw_only=True):
    """A database that is ready: its schema number, its current generation of vectors, its secret and its life.

    `settings` is what makes its vectors, as `memfast reembed` noted it, or None where only the configuration knows.
    """

    schema: int
    generation: int
    model: str
    dimensions: int
    settings: bytes | None = None
    secret: bytes
    lineage: UUID
    keys_generation: int
    facts: ServerFacts


async def prepare(connection: Any, *, model: str, dimensions: int, report: Callable[[str], None]) -> Prepared:
    """Check the server, migrate, and stamp or compare the embedder.

    A configuration that still names the embedder from which `memfast reembed` has moved the database away is no error:
    what is current stands in the result.

    Raises:
        DatabaseRefused: the server, its pgvector or its schema will not do.
        EmbedderMismatch: the vectors there were made by another model.
    """
    facts = await inspect_server(connection)
    schema = await apply_migrations(connection, load_migrations(), report=report)
    async with connection.transaction():
        await connection.execute(ADMIN.lock_migrations)
        await _stamp(connection, model, dimensions, report)
    return await _describe(connection, facts, schema)


async def read_prepared(connection: Any) -> Prepared | None:
    """The same for a database that is already prepared, changing nothing; None when it is not."""
    facts = await inspect_server(connection)
    migrations = load_migrations()
    if await pending_migrations(connection, migrations):
        return None
    if await connection.fetchrow(ADMIN.current_embedder) is None:
        return None
    return await _describe(connection, facts, migrations[-1].number)


async def require_prepared(connection: Any) -> Prepared:
    """What is known of a database that a service of this release has prepared.

    Raises:
        CommandFailed: none has.
    """
    prepared = await read_prepared(connection)
    if prepared is None:
        raise CommandFailed("the database has not been prepared by this release; run `memfast migrate` first")
    return prepared


async def refreshed(connection: Any, prepared: Prepared) -> Prepared:
    """What a prepared database says of its vectors, its life and its keys now."""
    return await _describe(connection, prepared.facts, prepared.schema)


async def new_lineage(connection: Any) -> UUID:
    """Begin a new life: after a restore, everything that was copied from the old one is refused."""
    lineage: UUID = await connection.fetchval(ADMIN.new_lineage)
    return lineage


async def _stamp(connection: Any, model: str, dimensions: int, report: Callable[[str], None]) -> None:
    current = await connection.fetchrow(ADMIN.current_embedder)
    if current is not None:
        if (current["model"], current["dimensions"]) == (model, dimensions):
            return
        if current["settings"] and await connection.fetchval(ADMIN.former_embedder, model, dimensions):
            report(
                f"the database was moved from {model} to {current['model']} with {current['dimensions']} dimensions, "
                "which is used; let embedding.* say so too"
            )
            return
        if await connection.fetchval(ADMIN.any_vector):
            raise EmbedderMismatch(
                f"the database's vectors were made by {current['model']} with {current['dimensions']} dimensions, the "
                f"configuration asks for {model} with {dimensions}: their vectors cannot be compared. Set "
                "embedding.* back to the first and move to the second by `memfast reembed`, or use another data "
                "directory or database for it"
            )
        await connection.execute(ADMIN.dismiss_embedder)
    await connection.execute(ADMIN.add_embedder, model, dimensions)


async def _describe(connection: Any, facts: ServerFacts, schema: int) -> Prepared:
    embedder = await connection.fetchrow(ADMIN.current_embedder)
    row = await connection.fetchrow(ADMIN.database_facts, [])
    secret = await connection.fetchval(ADMIN.database_secret)
    return Prepared(
        schema=schema,
        generation=embedder["generation"],
        model=embedder["model"],
        dimensions=embedder["dimensions"],
        settings=None if embedder["settings"] is None else bytes(embedder["settings"]),
        secret=bytes(secret),
        lineage=row["lineage"],
        keys_generation=row["keys_generation"],
        facts=facts,
    )
