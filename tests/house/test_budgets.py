"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from statistics import quantiles

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "memfast"
MODULES = sorted(path for path in SOURCE.rglob("*.py"))


def _functions():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = (body[-1].end_lineno - body[0].lineno + 1) if body else 0
                yield f"{path.relative_to(ROOT)}:{node.name}", lines


def test_functions_are_short():
    """No function is over 70 lines without its docstring, and nine in ten are under 30."""
    lengths = dict(_functions())
    assert max(lengths.values()) <= 70, max(lengths, key=lengths.get)
    assert quantiles(lengths.values(), n=10)[-1] <= 30


def test_files_are_short():
    """No source file is over 500 lines."""
    long = [
        str(path.relative_to(ROOT))
        for path in [*MODULES, *SOURCE.rglob("*.pyx")]
        if len(path.read_text().splitlines()) > 500
    ]
    assert not long


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_exports_are_sorted_and_real(path):
    """Every name in `__all__` exists, and they are sorted."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "__all__" for target in node.targets):
            names = ast.literal_eval(node.value)
            assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
            defined = {
                getattr(item, "name", None) or getattr(getattr(item, "target", None), "id", None)
                for item in ast.walk(tree)
                if isinstance(item, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.AnnAssign)
            }
            defined |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            defined |= {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
            assert set(names) <= defined


def test_sql_stands_in_files():
    """No statement is written in Python."""
    pattern = re.compile(r"[\"'](SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|CREATE|ALTER|DROP)\s+(?!1\b)")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_native_code_knows_nothing_of_memfast():
    """The Cython leaf imports nothing of the package but its own twins."""
    for path in SOURCE.glob("_native/*.p[yx]*"):
        for line in path.read_text().splitlines():
            if re.match(r"\s*(from|import|cimport)\s+memfast", line):
                assert "memfast._native" in line, f"{path.name}: {line}"


def test_importing_starts_nothing():
    """Importing the whole package opens no connection, starts no thread and loads no model."""
    script = (
        "import sys, threading, socket\n"
        "def refuse(*a, **k): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = refuse\n"
        "import memfast.asgi, memfast.cli.main, memfast.bootstrap\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert not {'tokenizers', 'safetensors', 'wordllama', 'httpx'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_client_is_light():
    """`import memfast` loads nothing but itself, and a client neither the service nor NumPy."""
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import memfast\n"
        "new = set(sys.modules) - before\n"
        "assert {name for name in new if name.startswith(('memfast', 'msgspec'))} == {'memfast'}, new\n"
        "memfast.Client('http://127.0.0.1:1').close()\n"
        "heavy = {'numpy', 'litestar', 'granian', 'asyncpg', 'httpx', 'rich', 'memfast.config', 'memfast.model'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
