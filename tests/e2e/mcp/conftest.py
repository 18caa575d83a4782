"""Programs of others that speak MCP, installed once into the user's cache: no environment has room for two of them."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import platformdirs
import pytest

CLIENT_1 = "1.30.0"
CONFORMANCE = "0.2.0-alpha.12"
INSTALL_S = 170


def _cached(name, install):
    """A folder of the cache, filled by `install(folder)` if it is not there yet."""
    folder = Path(platformdirs.user_cache_dir("memfast")) / "tests" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        begun = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            install(begun)
            begun.rename(folder)
        except OSError:  # another run was first
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(begun, ignore_errors=True)
    return folder


def _run(*words, cwd=None):
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_S)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def client_1():
    """The folder with the official client's first generation, which knows `initialize` alone."""

    def install(folder):
        _run(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), f"mcp=={CLIENT_1}")

    return _cached(f"mcp-{CLIENT_1}", install)


@pytest.fixture(scope="session")
def conformance():
    """The words that run the official conformance suite, by a Node that is new enough for it."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")

    def install(folder):
        (folder / "package.json").write_text("{}")
        packages = ("node@22", f"@modelcontextprotocol/conformance@{CONFORMANCE}")
        _run(npm, "install", "--no-audit", "--no-fund", *packages, cwd=folder)

    modules = _cached(f"conformance-{CONFORMANCE}", install) / "node_modules"
    return [
        str(modules / ".bin" / "node"),
        str(modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"),
    ]


@pytest.fixture(scope="module")
def bare_environment():
    """This process's environment without settings of memfast."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MEMFAST_")}
