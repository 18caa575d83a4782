"""`memfast keys`."""

from __future__ import annotations

import argparse
import asyncio

from memfast.bootstrap import with_keyring
from memfast.cli.tables import print_table
from memfast.config import Effective
from memfast.credentials import KeyRecord
from memfast.errors import CommandFailed
from memfast.service.access import Issued, Keyring

__all__ = ["create", "list_keys", "revoke"]


def create(effective: Effective, arguments: argparse.Namespace) -> int:
    """Make a key and show it."""

    async def work(keyring: Keyring) -> Issued:
        return await keyring.create(namespace=arguments.namespace, user_id=arguments.user, role=arguments.role)

    issued: Issued = asyncio.run(with_keyring(effective.config, work, _quiet))
    print(issued.secret)
    return 0


def list_keys(effective: Effective, _arguments: argparse.Namespace) -> int:
    """List keys, revoked ones included."""
    records: list[KeyRecord] = asyncio.run(with_keyring(effective.config, Keyring.all, _quiet))
    rows = [
        (
            record.id,
            record.namespace,
            record.user_id or "(any)",
            record.role,
            f"{record.created_at:%Y-%m-%d %H:%M}",
            f"{record.revoked_at:%Y-%m-%d %H:%M}" if record.revoked_at else "",
        )
        for record in records
    ]
    print_table(("id", "namespace", "user", "role", "created", "revoked"), rows)
    return 0


def revoke(effective: Effective, arguments: argparse.Namespace) -> int:
    """Revoke a key; workers refuse it within a second."""

    async def work(keyring: Keyring) -> bool:
        return await keyring.revoke(arguments.id)

    if not asyncio.run(with_keyring(effective.config, work, _quiet)):
        raise CommandFailed(f"there is no live key {arguments.id!r}; see `memfast keys list`")
    print(f"revoked {arguments.id}")
    return 0


def _quiet(_line: str) -> None:
    """The output of these commands is read by scripts."""
