"""`memfast completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import argparse

import shtab

from memfast.cli.main import build_parser
from memfast.config import Effective

__all__ = ["completion"]


def completion(_effective: Effective, arguments: argparse.Namespace) -> int:
    """Print a script for a shell."""
    print(shtab.complete(build_parser(), shell=arguments.shell))
    return 0
