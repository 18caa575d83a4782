"""Verify a base backup against its manifest, as pg_verifybackup does.

That program of the wheel does not run in version 18 (damaged when the wheel was packed), and the one of 16
does not read manifests of 17 and later: so it is done here, for every version alike.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memfast.errors import CommandFailed
from memfast.store.embedded.binaries import Binaries
from memfast.store.embedded.program import run

__all__ = ["verify"]

_NAME = "backup_manifest"
_VERSIONS = (1, 2)
_SHOWN = 5


@dataclass(frozen=True)
class _File:
    bytes: int
    sha256: str


def verify(copy: Path, binaries: Binaries, *, timeout_s: float) -> None:
    """Check every file's presence, size and SHA-256, that there is no other, and that the WAL is whole.

    Args:
        copy: a directory made by pg_basebackup with `--manifest-checksums=SHA256` and `--wal-method=stream`.
        binaries: the programs of its version.
        timeout_s: how long reading the WAL may take.

    Raises:
        CommandFailed: something is missing, added or different; names the first few files.
    """
    try:
        manifest = _read(copy / _NAME)
        files = {_path(entry): _file(entry) for entry in manifest["Files"]}
        ranges = [(entry["Timeline"], entry["Start-LSN"], entry["End-LSN"]) for entry in manifest["WAL-Ranges"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandFailed(f"its manifest cannot be used: {error!r}") from error
    problems = list(_problems(copy, files))
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise CommandFailed("; ".join(problems[:_SHOWN]) + more)
    for timeline, start, end in ranges:
        run(
            [
                binaries.program("pg_waldump"),
                "--quiet",
                f"--path={copy / 'pg_wal'}",
                f"--timeline={int(timeline)}",
                f"--start={start}",
                f"--end={end}",
            ],
            account=None,
            timeout_s=timeout_s,
        )


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    body = data[: data.rstrip(b"\n").rfind(b"\n") + 1]  # the last line holds the checksum of all before it
    manifest = json.loads(data)
    if not isinstance(manifest, dict) or manifest["PostgreSQL-Backup-Manifest-Version"] not in _VERSIONS:
        raise ValueError("unknown version")
    if hashlib.sha256(body).hexdigest() != manifest["Manifest-Checksum"]:
        raise ValueError("its own checksum does not match")
    return manifest


def _path(entry: dict[str, Any]) -> str:
    if "Path" in entry:
        return str(entry["Path"])
    return bytes.fromhex(entry["Encoded-Path"]).decode("utf-8", errors="surrogateescape")


def _file(entry: dict[str, Any]) -> _File:
    if entry["Checksum-Algorithm"] != "SHA256":
        raise ValueError(f"{entry['Checksum-Algorithm']} instead of SHA256")
    return _File(int(entry["Size"]), str(entry["Checksum"]))


def _problems(copy: Path, files: dict[str, _File]) -> Iterator[str]:
    found = {
        path.relative_to(copy).as_posix(): path for path in copy.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    for name, expected in files.items():
        path = found.pop(name, None)
        if path is None or path.is_symlink() or not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != expected.bytes:
            yield f"{name} has {path.stat().st_size} bytes instead of {expected.bytes}"
        else:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected.sha256:
                    yield f"{name} has other content"
    # The WAL is checked by reading it: its files came beside the copy and are not in the manifest.
    yield from (f"{name} is not in the manifest" for name in found if name != _NAME and not name.startswith("pg_wal/"))
