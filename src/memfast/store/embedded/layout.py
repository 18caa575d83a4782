"""Where things lie in a data directory, and how files and folders are made there.

```
<data_dir>/            0711 when root (the database's account passes through), else 0700
├── lock               held by the service and its workers
├── password           0600, of the service's user: the password of the role `memfast`
├── postgres/          0700, of the account: the database
├── run/               0700, of the account: the socket (elsewhere when the path is too long)
├── log/postgres.log
├── runtime/           a copy of the binaries, only when the account cannot reach the installed ones
├── restored           written by a restore: the next start makes a new lineage
├── postgres.N.old/    what an upgrade from version N left behind
└── work.*/            something half made; removed at the next start
```
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memfast.errors import CommandFailed, DatabaseRefused
from memfast.store.embedded.account import Account

__all__ = ["PORT", "Layout", "change_owner", "sync_folder", "translated", "write_file"]

PORT = 5432  # only names the socket
_LEFTOVERS_S = 10.0
"""How long leftovers are swept, in seconds: an orphaned initdb ends by itself in a few."""
_SWEEP_S = 0.02
_SOCKET_PATH_BYTES = 100  # the system allows 107


@dataclass(frozen=True)
class Layout:
    """The paths of one data directory; `data_dir` is absolute and free of symbolic links."""

    data_dir: Path

    @classmethod
    def at(cls, data_dir: Path) -> Layout:
        """The layout of a directory that need not exist yet."""
        return cls(Path(os.path.realpath(data_dir)))

    @property
    def pgdata(self) -> Path:
        """The database directory."""
        return self.data_dir / "postgres"

    @property
    def password_file(self) -> Path:
        """The password of the role `memfast`."""
        return self.data_dir / "password"

    @property
    def log_file(self) -> Path:
        """What PostgreSQL prints."""
        return self.data_dir / "log" / "postgres.log"

    @property
    def restored_marker(self) -> Path:
        """Stands there after a restore, until the next start of the service."""
        return self.data_dir / "restored"

    def socket_dir(self) -> Path:
        """The socket's directory: in the data directory, or a short plain path named by its digest."""
        inside = self.data_dir / "run"
        if _fits(inside):
            return inside
        name = "memfast-" + hashlib.blake2b(os.fsencode(self.data_dir), digest_size=8).hexdigest()
        # Root's own runtime directory is closed to the account, so root uses /tmp.
        runtime = os.environ.get("XDG_RUNTIME_DIR", "") if os.geteuid() != 0 else ""
        if runtime.startswith("/") and os.access(runtime, os.W_OK | os.X_OK) and _fits(Path(runtime, name)):
            return Path(runtime, name)
        return Path("/tmp", name)  # noqa: S108  made 0700 with its owner checked, see make_socket_dir

    def make_data_dir(self) -> None:
        """Create the data directory, or set the mode of the existing one. Raises DatabaseRefused."""
        wanted = 0o711 if os.geteuid() == 0 else 0o700
        with translated(self.data_dir):
            with contextlib.suppress(FileExistsError):
                self.data_dir.mkdir(mode=0o700, parents=True)
            status = self.data_dir.stat()
            if not stat.S_ISDIR(status.st_mode):
                raise DatabaseRefused(f"{self.data_dir} is not a directory: give another --data-dir")
            if status.st_uid != os.geteuid():  # somebody's volume
                wanted = stat.S_IMODE(status.st_mode) | (0o011 if os.geteuid() == 0 else 0)
            if not os.access(self.data_dir, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
                raise DatabaseRefused(
                    f"{self.data_dir} belongs to user id {status.st_uid}, and this is user id "
                    f"{os.geteuid()}: run memfast as that user, or give another --data-dir."
                )
            if stat.S_IMODE(status.st_mode) != wanted:
                self.data_dir.chmod(wanted)

    def make_socket_dir(self, account: Account | None) -> Path:
        """Create the socket's directory, or check the existing one.

        Raises DatabaseRefused when somebody else made it: whoever owns it could answer in our name.
        """
        folder = self.socket_dir()
        uid = account.uid if account else os.geteuid()
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            if account:
                os.chown(folder, account.uid, account.gid, follow_symlinks=False)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
            raise DatabaseRefused(
                f"The socket directory {folder} was made by user id {status.st_uid}, not by {uid}: "
                "look what it is and remove it, or give a --data-dir with a shorter path."
            )
        if stat.S_IMODE(status.st_mode) != 0o700:
            folder.chmod(0o700)
        return folder

    @contextlib.contextmanager
    def work_dir(self, account: Account | None) -> Iterator[Path]:
        """A new directory 0700 of the account inside the data directory, removed at the end."""
        folder = self.data_dir / f"work.{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        try:
            if account:
                os.chown(folder, account.uid, account.gid)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove_leftovers(self) -> list[Path]:
        """Remove what a killed init, restore or upgrade left half made; the caller holds the lock.

        A program that the killed process had started may still be writing there: it is swept until it stays gone.
        """
        leftovers = sorted(self.data_dir.glob("work.*"))
        deadline = time.monotonic() + _LEFTOVERS_S
        for folder in leftovers:
            while folder.exists() and time.monotonic() < deadline:
                shutil.rmtree(folder, ignore_errors=True)
                time.sleep(_SWEEP_S)
        return leftovers


def _fits(folder: Path) -> bool:
    """Short enough, and plain: PostgreSQL's programs take a comma for the end of a path."""
    path = os.fspath(folder / f".s.PGSQL.{PORT}")
    return len(os.fsencode(path)) <= _SOCKET_PATH_BYTES and re.fullmatch(r"[\w/.+~-]+", path, re.ASCII) is not None


@contextlib.contextmanager
def translated(place: Path) -> Iterator[None]:
    """Turn errors of the file system into errors for the user: a full disk, or no permission."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CommandFailed(
                f"No room left on the disk of {place}: free some and start again. Nothing was left half done."
            ) from error
        raise DatabaseRefused(f"{place} cannot be used: {error}") from error


def write_file(path: Path, text: str, account: Account | None = None) -> None:
    """Write a file 0600 as a whole: a new file, to disk, then renamed over the old one."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if account:
                os.fchown(descriptor, account.uid, account.gid)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def change_owner(tree: Path, account: Account) -> None:
    """Give a whole tree to the account, links not followed, its root last: nobody enters before that."""
    for folder, folders, files in os.walk(tree, topdown=False):
        for name in (*folders, *files):
            os.chown(Path(folder, name), account.uid, account.gid, follow_symlinks=False)
    os.chown(tree, account.uid, account.gid, follow_symlinks=False)
