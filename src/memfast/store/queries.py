"""The SQL files, read once: `Queries.nearest` is the statement named `nearest`."""

from __future__ import annotations

import re
from importlib.resources import files
from types import SimpleNamespace

__all__ = [
    "ACCESS",
    "ADMIN",
    "CATALOGUE",
    "CONDITIONS",
    "FORGET",
    "LINKS",
    "OUTBOX",
    "READ",
    "REEMBED",
    "TRANSFER",
    "WRITE",
    "parse",
]

_HEADER = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def parse(text: str) -> dict[str, str]:
    """Split a file into its named statements; comment lines are dropped, so that the server sees plain SQL.

    Raises:
        ValueError: two statements share a name.
    """
    parts = _HEADER.split(text)[1:]
    statements: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in statements:
            raise ValueError(f"two statements are named {name}")
        lines = (line for line in body.splitlines() if not line.startswith("--"))
        statements[name] = "\n".join(lines).strip().removesuffix(";")
    return statements


def _load(file_name: str) -> SimpleNamespace:
    text = files("memfast.store.sql").joinpath(file_name).read_text(encoding="utf-8")
    return SimpleNamespace(**parse(text))


CONDITIONS = _load("conditions.sql")
READ = _load("read.sql")
WRITE = _load("write.sql")
ADMIN = _load("admin.sql")
ACCESS = _load("access.sql")
CATALOGUE = _load("catalogue.sql")
FORGET = _load("forget.sql")
LINKS = _load("links.sql")
OUTBOX = _load("outbox.sql")
TRANSFER = _load("transfer.sql")
REEMBED = _load("reembed.sql")
