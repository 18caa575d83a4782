"""The system user that PostgreSQL runs as when memfast itself runs as root."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from memfast.errors import DatabaseRefused

__all__ = ["Account", "Identity", "choose_account", "readable_by", "require_reach"]

_NAME = "memfast"
_TIMEOUT_S = 30.0


class Identity(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that drop all privileges."""

    user: int
    group: int
    extra_groups: list[int]
    umask: int


@dataclass(frozen=True)
class Account:
    """An unprivileged user and its main group."""

    name: str
    uid: int
    gid: int

    def identity(self) -> Identity:
        """Arguments for `subprocess.Popen`: this user, its group alone, files for nobody else."""
        return {"user": self.uid, "group": self.gid, "extra_groups": [], "umask": 0o077}

    def may(self, flag: str, path: Path) -> bool:
        """Ask the system, as this user, for access to a path: flag "-r" (read) or "-x" (pass or run)."""
        # `test` answers with everything that counts: modes of all parents, access lists, mount options.
        done = subprocess.run(["test", flag, path], check=False, cwd="/", timeout=_TIMEOUT_S, **self.identity())
        return done.returncode == 0


def choose_account(pgdata: Path, report: Callable[[str], None]) -> Account | None:
    """The user to run PostgreSQL as, or None to run it as the present one.

    An existing database is run by its owner. For a new one as root: the user `memfast`, made when missing,
    else the user `postgres`.

    Raises:
        DatabaseRefused: there is no such user, or the database belongs to somebody else.
    """
    owner = pgdata.stat().st_uid if pgdata.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise DatabaseRefused(
                f"{pgdata} belongs to user id {owner}, and this is user id {os.geteuid()}: "
                "run memfast as that user or as root, or give another --data-dir."
            )
        return None
    if owner == 0:
        raise DatabaseRefused(
            f"{pgdata} belongs to root, and PostgreSQL never runs as root: "
            f"give it to an unprivileged user (chown -R {_NAME}: {pgdata})."
        )
    if owner is not None:
        return _owner_of(pgdata)
    account = _named(_NAME) or _created(report) or _named("postgres")
    if account is None:
        raise DatabaseRefused(
            "PostgreSQL never runs as root, and there is no unprivileged user to run it as: create one "
            f"(useradd --system {_NAME}), run memfast as a normal user, or give the address of a "
            "PostgreSQL server."
        )
    return account


def _owner_of(path: Path) -> Account:
    status = path.stat()
    try:
        entry = pwd.getpwuid(status.st_uid)
    except KeyError:
        return Account(f"user id {status.st_uid}", status.st_uid, status.st_gid)
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _named(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid) if entry.pw_uid != 0 else None


def _created(report: Callable[[str], None]) -> Account | None:
    program = shutil.which("useradd", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if program is None:
        return None
    try:
        subprocess.run(
            [program, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _NAME],
            check=True,
            capture_output=True,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        report(f"The system user {_NAME} could not be created ({error}); trying the user postgres")
        return None
    report(f"Created the system user {_NAME} to run PostgreSQL, which refuses to run as root")
    return _named(_NAME)


def require_reach(account: Account, folder: Path) -> None:
    """Raise DatabaseRefused, naming the closed folder, when the account cannot pass into `folder`."""
    if account.may("-x", folder):
        return
    closed = next((parent for parent in (*reversed(folder.parents), folder) if not account.may("-x", parent)), folder)
    raise DatabaseRefused(
        f"PostgreSQL runs as the user {account.name} here, and that user cannot pass through {closed} to "
        f"reach {folder}. Give another --data-dir (such as /var/lib/memfast), run memfast as a normal user, "
        f"or open that folder by hand: chmod o+x {closed}"
    )


def readable_by(account: Account, status: os.stat_result) -> bool:
    """Whether the mode bits let the account read the file, or read and pass the folder."""
    shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
    needed = 0o5 if stat.S_ISDIR(status.st_mode) or status.st_mode & 0o100 else 0o4
    return (status.st_mode >> shift) & needed == needed
