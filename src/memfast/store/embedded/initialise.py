"""Make a database directory: complete and on disk, or not there at all."""

from __future__ import annotations

import importlib.resources
import secrets
from collections.abc import Callable
from pathlib import Path

from memfast.store.embedded.account import Account
from memfast.store.embedded.binaries import Binaries
from memfast.store.embedded.layout import Layout, sync_folder, write_file
from memfast.store.embedded.program import run

__all__ = [
    "DATABASE",
    "USER",
    "create_cluster",
    "initialise",
    "new_password",
    "reset_password",
    "resource",
    "single_user",
    "sync",
    "write_configuration",
]

USER = "memfast"
DATABASE = "memfast"
_FIRST_NORMAL_OID = 16384
_INIT_TIMEOUT_S = 300.0
_RECOVERY_TIMEOUT_S = 24 * 3600.0
_HBA = "# Written by memfast: every connection comes through the socket and brings the password.\n" + "".join(
    f"local {database} all scram-sha-256\n" for database in ("all", "replication")
)


def resource(name: str) -> str:
    """The text of a file of this package."""
    return importlib.resources.files("memfast.store.embedded").joinpath(name).read_text(encoding="utf-8")


def new_password() -> str:
    """A random password of URL-safe characters, 256 bits."""
    return secrets.token_urlsafe(32)


def initialise(layout: Layout, binaries: Binaries, account: Account | None, report: Callable[[str], None]) -> None:
    """Create the database directory with the role, the database and the extension `vector`.

    Raises:
        CommandFailed: `initdb` failed or the disk is full; nothing is left behind.
    """
    report(f"Creating a PostgreSQL {binaries.major} database in {layout.pgdata}")
    password = new_password()
    with layout.work_dir(account) as work:
        data = work / "data"
        create_cluster(data, binaries, account, password)
        # In single-user mode a new cluster goes on with numbers below 16384, and pg_dump, and so every
        # upgrade, takes what has such a number for a part of PostgreSQL.
        run(
            [binaries.program("pg_resetwal"), f"--next-oid={_FIRST_NORMAL_OID}", data],
            account=account,
            timeout_s=_INIT_TIMEOUT_S,
        )
        # Nobody else sees it yet: without fsync, and all of it to disk at the end.
        single_user(data, binaries, account, "template1", resource("create_database.sql"), "-F")
        single_user(data, binaries, account, DATABASE, resource("create_extension.sql"), "-F")
        sync(data, binaries, account)
        write_file(layout.password_file, password)
        data.rename(layout.pgdata)
    sync_folder(layout.data_dir)


def create_cluster(data: Path, binaries: Binaries, account: Account | None, password: str) -> None:
    """`initdb` into a new directory, with our configuration and without our database; not yet on disk."""
    password_file = data.with_name("password")
    write_file(password_file, password, account)
    locale = ["--locale=C.UTF-8"]
    if binaries.major >= 17:  # PostgreSQL's own C.UTF-8: an update of the C library cannot change the order
        locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    run(
        [
            binaries.program("initdb"),
            f"--pgdata={data}",
            f"--username={USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--data-checksums",
            "--encoding=UTF8",
            *locale,
            "--no-sync",
            "--no-instructions",
        ],
        account=account,
        timeout_s=_INIT_TIMEOUT_S,
    )
    password_file.unlink()
    write_file(data / "pg_hba.conf", _HBA, account)
    settings = (data / "postgresql.conf").read_text(encoding="utf-8")
    write_file(data / "postgresql.conf", f"{settings}\ninclude 'memfast.conf'\n", account)
    write_configuration(data, account)


def write_configuration(data: Path, account: Account | None) -> None:
    """Write this release's settings into a database directory."""
    write_file(data / "memfast.conf", resource("memfast.conf"), account)


def reset_password(
    layout: Layout,
    data: Path,
    binaries: Binaries,
    account: Account | None,
    *,
    timeout_s: float = _RECOVERY_TIMEOUT_S,
) -> None:
    """Give the role a new password while no server runs, and store it; recovers the database if it has to."""
    password = new_password()
    command = resource("set_password.sql").format(password=password)
    single_user(data, binaries, account, "template1", command, timeout_s=timeout_s)
    write_file(layout.password_file, password)


def single_user(
    data: Path,
    binaries: Binaries,
    account: Account | None,
    database: str,
    command: str,
    *options: str,
    timeout_s: float = _INIT_TIMEOUT_S,
) -> None:
    """Run a command in single-user mode: no socket, no password. The command ends with an empty line."""
    program: list[str | Path] = [
        binaries.program("postgres"),
        "--single",
        "-j",
        "-c",
        "exit_on_error=on",
        *options,
    ]
    run([*program, "-D", data, database], account=account, timeout_s=timeout_s, text=command)


def sync(data: Path, binaries: Binaries, account: Account | None) -> None:
    """Bring a whole database directory to disk."""
    run(
        [binaries.program("initdb"), "--sync-only", f"--pgdata={data}"],
        account=account,
        timeout_s=_RECOVERY_TIMEOUT_S,
    )
