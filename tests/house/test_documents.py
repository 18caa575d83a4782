"""What the documents say is what the program does."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import pytest

from memfast.cli.main import build_parser
from memfast.config import PROFILES, default_data_dir, settings

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
START, END = "<!-- settings: made from src/memfast/config/sections.py, checked by a test -->", "<!-- /settings -->"


def _value(value: object) -> str:
    if value == default_data_dir():
        return "the platform's"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "(empty)"


def _settings_table() -> str:
    rows = ["| setting | variable | default | unit | meaning |", "|---|---|---|---|---|"]
    rows += [f"| `{s.key}` | `{s.variable}` | {_value(s.default)} | {s.unit} | {s.text} |" for s in settings()]
    changes = [
        f"- `{name}`: "
        + (", ".join(f"`{key}` {_value(value)}" for key, value in values.items()) or "the defaults above")
        for name, values in PROFILES.items()
    ]
    return "\n".join([*rows, "", "What the profiles change:", "", *changes])


def test_settings_table_is_current():
    """The README's table of settings is the one that the code makes; UPDATE_README=1 rewrites it."""
    text = README.read_text()
    before, rest = text.split(START)
    _, after = rest.split(END)
    current = f"{before}{START}\n{_settings_table()}\n{END}{after}"
    if os.environ.get("UPDATE_README") == "1":
        README.write_text(current)
    assert README.read_text() == current


@pytest.mark.parametrize("setting", list(settings()), ids=lambda setting: setting.key)
def test_every_setting_is_documented(setting):
    """Each setting has a line of documentation, and a unit where it counts something."""
    assert setting.text
    counts = isinstance(setting.default, int | float) and not isinstance(setting.default, bool)
    assert setting.unit or not counts or setting.key in {"server.port", "postgres.embedded_major"}


def test_every_command_is_in_the_readme():
    """A command that the README does not name cannot be found."""
    text = README.read_text()
    actions = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    missing = [name for name in actions[0].choices if f"memfast {name}" not in text]
    assert not missing


def test_links_point_at_files():
    """No document links to a file that is not there."""
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md")]:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_architecture_names_every_room():
    """Each package and module at the top of the source tree is on the map."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    source = ROOT / "src" / "memfast"
    rooms = [p.name for p in source.iterdir() if p.is_dir() and (p / "__init__.py").exists()]
    modules = [p.name for p in source.glob("*.py") if not p.name.startswith("__")]
    missing = [name for name in rooms + modules if name not in text]
    assert not missing


def test_every_setting_is_read():
    """A setting that nothing reads would be a promise that nothing keeps."""
    source = "\n".join(
        path.read_text() for path in (ROOT / "src" / "memfast").rglob("*.py") if path.parent.name != "config"
    )
    unread = [s.key for s in settings() if not re.search(rf"\.{s.key.rpartition('.')[2]}\b", source)]
    assert unread == ["profile"], "read by config.load itself"
