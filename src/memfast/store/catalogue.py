"""What a database says of its indexes, tables and statements, and making indexes while it is used."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from memfast.advice import Database, Index, SlowStatement, Table
from memfast.errors import CommandFailed
from memfast.store.migrate import Migration
from memfast.store.pool import translated
from memfast.store.queries import CATALOGUE

__all__ = ["Planned", "analyze_tables", "make_indexes", "planned_indexes", "read_database"]

_COMMENT = re.compile(r"--[^\n]*")
_MADE = re.compile(r"^CREATE (?:UNIQUE )?INDEX (\w+) ON (\w+)\s")
_DROPPED = re.compile(r"^DROP INDEX (\w+)")
_KEYED = re.compile(r"^ALTER TABLE (\w+) ADD PRIMARY KEY")


class Planned(Struct, frozen=True, kw_only=True):
    """An index that the migrations make.

    Attributes:
        name: its own.
        table: whose.
        migration: the file's name without its ending.
        statement: what makes it.
        before: the primary key that is made after it on purpose, or None: of two that look as good the planner takes
            the newer one (see the migration).
    """

    name: str
    table: str
    migration: str
    statement: str
    before: str | None = None


def planned_indexes(migrations: Sequence[Migration]) -> list[Planned]:
    """Every index that is there after all migrations, but for those that belong to constraints."""
    found: dict[str, Planned] = {}
    for migration in migrations:
        name = f"{migration.number:04d}_{migration.phase}_{migration.name}"
        for text in _COMMENT.sub("", migration.sql).split(";"):
            statement = text.strip()
            if match := _MADE.match(statement):
                found[match[1]] = Planned(name=match[1], table=match[2], migration=name, statement=statement)
            elif match := _DROPPED.match(statement):
                found.pop(match[1], None)
            elif match := _KEYED.match(statement):
                for each in [each for each in found.values() if each.table == match[1]]:
                    found[each.name] = Planned(
                        name=each.name,
                        table=each.table,
                        migration=each.migration,
                        statement=each.statement,
                        before=f"{each.table}_pkey",
                    )
    return list(found.values())


async def read_database(connection: Any, migrations: Sequence[Migration]) -> Database:
    """What the catalogue and the statistics views say now.

    Args:
        connection: any, to a prepared database.
        migrations: all of this release.

    Raises:
        Unavailable: the database does not answer.
    """
    async with translated():
        valid = {row["name"]: row["valid"] for row in await connection.fetch(CATALOGUE.indexes)}
        tables = [Table(**row) for row in await connection.fetch(CATALOGUE.tables)]
        statements = None
        if await connection.fetchval(CATALOGUE.statements_known):
            statements = [SlowStatement(**row) for row in await connection.fetch(CATALOGUE.statements)]
        sessions = await connection.fetchrow(CATALOGUE.sessions)
    return Database(
        indexes=[
            Index(
                name=each.name,
                table=each.table,
                migration=each.migration,
                state="missing" if each.name not in valid else "valid" if valid[each.name] else "invalid",
            )
            for each in planned_indexes(migrations)
        ],
        tables=tables,
        statements=statements,
        waiting=sessions["waiting"],
        connections_free=sessions["free"],
    )


async def make_indexes(
    connection: Any, migrations: Sequence[Migration], names: Sequence[str], report: Callable[[str], None]
) -> None:
    """Make indexes that are missing, and those anew that are invalid; reads and writes go on meanwhile.

    Args:
        connection: outside of any transaction, without a time limit.
        migrations: all of this release.
        names: which of their indexes.
        report: is told.

    Raises:
        CommandFailed: one of them is none that the migrations make.
        Unavailable: the database does not answer.
    """
    planned = {each.name: each for each in planned_indexes(migrations)}
    for name in names:
        if name not in planned:
            raise CommandFailed(f"no migration makes an index {name}")
    async with translated():
        for name in names:
            report(f"making the index {name}")
            rebuilding = await connection.fetchval(CATALOGUE.rebuilding, name)
            making = planned[name].statement.replace(" INDEX ", " INDEX CONCURRENTLY ", 1)
            await connection.execute(rebuilding or making)
        for key in dict.fromkeys(planned[name].before for name in names):
            if key is not None:
                report(f"making {key} anew, so that it stays the newest of its table")
                await connection.execute(await connection.fetchval(CATALOGUE.rebuilding, key))


async def analyze_tables(connection: Any, names: Sequence[str], report: Callable[[str], None]) -> None:
    """Make the planner's statistics of tables anew; reads and writes go on meanwhile.

    Raises:
        CommandFailed: there is no such table.
        Unavailable: the database does not answer.
    """
    async with translated():
        for name in names:
            statement = await connection.fetchval(CATALOGUE.analysing, name)
            if statement is None:
                raise CommandFailed(f"there is no table {name}")
            report(f"statistics of {name} for the planner")
            await connection.execute(statement)
