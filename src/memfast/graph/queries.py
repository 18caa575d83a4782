"""The Cypher files, read once: `COPY.mark` is the statement named `mark`."""

from __future__ import annotations

import re
from importlib.resources import files
from types import SimpleNamespace

__all__ = ["COPY", "SCHEMA", "WALK", "walk_statement"]

_HEADER = re.compile(r"^// name: (\w+)$", re.MULTILINE)


def _load(file_name: str) -> SimpleNamespace:
    text = files("memfast.graph.cypher").joinpath(file_name).read_text(encoding="utf-8")
    parts = _HEADER.split(text)[1:]
    statements: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in statements:
            raise ValueError(f"two statements are named {name}")
        lines = (line for line in body.splitlines() if not line.startswith("//"))
        statements[name] = "\n".join(lines).strip().removesuffix(";")
    return SimpleNamespace(**statements)


COPY = _load("copy.cypher")
WALK = _load("walk.cypher")

SCHEMA = tuple(text for name, text in vars(COPY).items() if name.startswith(("unique_", "index_")))
"""What makes the constraints and the indexes, each on its own."""


def walk_statement(depth: int, *, apoc: bool) -> str:
    """The statement of a walk: there are as many texts as depths, for either kind of server."""
    level = WALK.level_apoc if apoc else WALK.level
    return "\n".join([WALK.beginning, *[level] * depth, WALK.end])
