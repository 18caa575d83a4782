"""Migrations: numbered SQL files, applied once, in order, under a lock, each in a transaction of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import asyncpg
from msgspec import Struct

from memfast.errors import CommandFailed, DatabaseRefused
from memfast.store.queries import ADMIN

__all__ = ["Migration", "apply_migrations", "load_migrations", "pending_migrations"]

_FILE_NAME = re.compile(r"^(\d{4})_(pre|post)_(\w+)\.sql$")


class Migration(Struct, frozen=True):
    """One file: `phase` is `pre` (before the new release runs) or `post` (when no old one runs any more)."""

    number: int
    phase: str
    name: str
    sql: str
    checksum: str


def load_migrations(directory: Path | None = None) -> list[Migration]:
    """The migrations that this release knows, in order.

    Args:
        directory: where they lie; default: those shipped with the package, or the source tree's.

    Raises:
        CommandFailed: a file name or the numbering is wrong, or there are none.
    """
    found = []
    for name, text in sorted(_files(directory)):
        match = _FILE_NAME.match(name)
        if match is None:
            raise CommandFailed(f"migrations/{name}: the name must be NNNN_pre_what.sql or NNNN_post_what.sql")
        checksum = sha256(text.encode()).hexdigest()
        found.append(Migration(int(match[1]), match[2], match[3], text, checksum))
    if [migration.number for migration in found] != list(range(1, len(found) + 1)) or not found:
        raise CommandFailed("migrations must be numbered 0001, 0002, … without a gap")
    return found


async def apply_migrations(connection: Any, migrations: Sequence[Migration], *, report: Callable[[str], None]) -> int:
    """Bring the schema up to date; returns its number. Safe to run from several places at once.

    Raises:
        DatabaseRefused: the schema is newer than this release, or an applied file was changed.
    """
    async with connection.transaction():
        await connection.execute(ADMIN.lock_migrations)  # two that create one table at once collide
        await connection.execute(ADMIN.create_migrations_table)
    for migration in migrations:
        async with connection.transaction():
            await connection.execute(ADMIN.lock_migrations)
            done = await _applied(connection)
            _check(done, migrations)
            if migration.number in done:
                continue
            report(f"applying migration {migration.number:04d} ({migration.name})")
            try:
                await connection.execute(migration.sql)
            except asyncpg.InsufficientPrivilegeError as error:
                raise DatabaseRefused(
                    f"migration {migration.number:04d} needs more rights: {error}; run `memfast migrate` as the "
                    "owner of the database, or have an administrator CREATE EXTENSION vector first"
                ) from error
            await connection.execute(ADMIN.record_migration, migration.number, migration.name, migration.checksum)
    return migrations[-1].number


async def pending_migrations(connection: Any, migrations: Sequence[Migration]) -> list[Migration]:
    """Those that are not applied yet.

    Raises:
        DatabaseRefused: the schema is newer than this release, or an applied file was changed.
    """
    if not await connection.fetchval(ADMIN.migrations_table_exists):
        return list(migrations)
    done = await _applied(connection)
    _check(done, migrations)
    return [migration for migration in migrations if migration.number not in done]


async def _applied(connection: Any) -> dict[int, str]:
    rows = await connection.fetch(ADMIN.migrations_applied)
    return {row["number"]: row["checksum"] for row in rows}


def _check(applied: dict[int, str], migrations: Sequence[Migration]) -> None:
    known = {migration.number: migration for migration in migrations}
    newest = max(applied, default=0)
    if newest > migrations[-1].number:
        raise DatabaseRefused(
            f"the database has schema {newest}, this memfast knows {migrations[-1].number} at most: it was used by a "
            "newer release; install that release again"
        )
    for number, checksum in applied.items():
        if known[number].checksum != checksum:
            raise DatabaseRefused(
                f"migration {number:04d} was changed after it was applied to this database; "
                "install the release that applied it"
            )


def _files(directory: Path | None) -> list[tuple[str, str]]:
    if directory is None:
        directory = _source_tree()
    if directory is not None:
        return [(path.name, path.read_text(encoding="utf-8")) for path in directory.glob("*.sql")]
    shipped = resources.files("memfast.migrations").iterdir()
    return [(item.name, item.read_text(encoding="utf-8")) for item in shipped if item.name.endswith(".sql")]


def _source_tree() -> Path | None:
    """`migrations/` beside `src/`, when the package runs from its source tree (an editable install)."""
    path = Path(__file__).resolve().parents[3] / "migrations"
    return path if path.is_dir() and (path.parent / "pyproject.toml").is_file() else None
