"""Commands on the database: migrate, backup, restore, upgrade."""

from __future__ import annotations

import argparse
from pathlib import Path

from memfast import bootstrap
from memfast.config import Effective
from memfast.errors import CommandFailed

__all__ = ["backup", "migrate", "restore", "upgrade"]


def migrate(effective: Effective, _arguments: argparse.Namespace) -> int:
    """Bring the schema up to date."""
    schema = bootstrap.migrate(effective.config, print)
    print(f"the database has schema {schema}")
    return 0


def backup(effective: Effective, arguments: argparse.Namespace) -> int:
    """Copy the embedded database; the service may run meanwhile."""
    bootstrap.backup(_embedded(effective, "backup", "pg_basebackup"), arguments.directory, report=print)
    return 0


def restore(effective: Effective, arguments: argparse.Namespace) -> int:
    """Fill an empty data directory from a backup; the database then begins a new life."""
    bootstrap.restore(arguments.directory, _embedded(effective, "restore", "its own tools"), report=print)
    return 0


def upgrade(effective: Effective, arguments: argparse.Namespace) -> int:
    """Move the embedded database to a newer PostgreSQL."""
    data_dir = _embedded(effective, "upgrade", "pg_upgrade")
    if arguments.to not in bootstrap.available_majors():
        known = ", ".join(map(str, bootstrap.available_majors()))
        raise CommandFailed(f"PostgreSQL {arguments.to} is not installed; there are {known}")
    bootstrap.upgrade(data_dir, arguments.to, report=print)
    return 0


def _embedded(effective: Effective, command: str, instead: str) -> Path:
    if effective.config.postgres.dsn:
        raise CommandFailed(
            f"`memfast {command}` is for the embedded database, and postgres.dsn names an external one: use {instead}"
        )
    return Path(effective.config.data_dir)
